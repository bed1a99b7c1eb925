"""What GPTQ's tests know: fp64 algebra, a replay that judges every code, the checkpoint format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graders.lab03.reference_arithmetic import gptq_words

REFERENCES = Path(__file__).resolve().parent / "references"
#: How far a code may be from the nearest, in steps of the grid: fp32 algebra is not exact.
CODE_SLACK = 0.01
SCALE_SLACK = 1e-3
PACKED = ("qweight", "qzeros", "scales", "g_idx")


def make_layer(
    seed: int, out: int, columns: int, tokens: int, dead: tuple[int, ...] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [out, in] and inputs [tokens, in] that move together; ``dead`` ones are always 0."""
    rng = torch.Generator().manual_seed(seed)
    w = 0.1 * torch.randn(out, columns, generator=rng)
    mixing = torch.randn(columns, columns, generator=rng) / columns**0.5
    mixing *= torch.linspace(1.5, 0.2, columns)
    size = torch.exp(0.6 * torch.randn(columns, generator=rng))
    x = torch.randn(tokens, columns, generator=rng) @ mixing.T * size
    x[:, list(dead)] = 0.0
    return w, x


def hessian(x: torch.Tensor) -> torch.Tensor:
    """fp64 [in, in]."""
    rows = x.double()
    return 2.0 / rows.shape[0] * rows.T @ rows


def damped(h: torch.Tensor, damping: float) -> torch.Tensor:
    """What is inverted: ones for dead inputs, then the same addition for all; fp64."""
    h = h.double().clone()
    diagonal = h.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += damping * diagonal.mean()
    return h


def grid(
    w: torch.Tensor, bits: int, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scale and zero [out, 1] of one group, and the zero before it was rounded."""
    top = 2**bits - 1
    low, high = w.amin(1, keepdim=True).clamp(max=0), w.amax(1, keepdim=True).clamp(min=0)
    if symmetric:
        scale = 2 * w.abs().amax(1, keepdim=True) / top
        scale = torch.where(scale == 0, 1.0, scale)
        exact = torch.full_like(scale, 2 ** (bits - 1))
    else:
        scale = (high - low) / top
        scale = torch.where(scale == 0, 1.0, scale)
        exact = -low / scale
    return scale, exact.round(), exact


def round_to_nearest(
    w: torch.Tensor, bits: int, group_size: int, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes uint8 and dequantized weights fp64 without GPTQ."""
    codes, weights = [], []
    for group in w.double().split(group_size, dim=1):
        scale, zero, _ = grid(group, bits, symmetric)
        code = ((group / scale).round() + zero).clamp(0, 2**bits - 1)
        codes.append(code)
        weights.append((code - zero) * scale)
    return torch.cat(codes, 1).to(torch.uint8), torch.cat(weights, 1)


def dequantize(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, g_idx: torch.Tensor
) -> torch.Tensor:
    """fp64 [out, in]."""
    group = g_idx.long()
    return (codes.double() - zeros.double()[:, group]) * scales.double()[:, group]


@dataclass(frozen=True)
class Case:
    """A problem for `gptq_quantize`."""

    seed: int
    out: int
    columns: int
    group_size: int
    bits: int = 4
    symmetric: bool = True
    act_order: bool = False
    static_groups: bool = False
    damping: float = 0.01
    block_size: int = 128
    tokens: int = 300
    dead: tuple[int, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of the function."""
        names = ("bits", "group_size", "symmetric", "act_order", "damping", "block_size")
        return {name: getattr(self, name) for name in (*names, "static_groups")}

    def __str__(self) -> str:
        words = [f"{self.out}x{self.columns}", f"g{self.group_size}", f"b{self.bits}"]
        words.append("sym" if self.symmetric else "asym")
        words += (
            ["act"] * self.act_order + ["static"] * self.static_groups + ["dead"] * bool(self.dead)
        )
        return "-".join([*words, f"block{self.block_size}"])


def order_and_groups(h: torch.Tensor, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """The order of quantization, and each column's group."""
    order = torch.arange(case.columns)
    if case.act_order:
        order = torch.argsort(h.diagonal(), descending=True, stable=True)
    place = torch.arange(case.columns) if case.static_groups else torch.argsort(order)
    return order, (place // case.group_size).to(torch.int32)


def replay(
    w: torch.Tensor, h: torch.Tensor, case: Case, got: tuple[torch.Tensor, ...]
) -> str | None:
    """What is wrong with an answer of the right shapes, or None.

    The submission's own codes are followed column by column: the weights that are left are updated
    for the errors it made so far, and its next grid and codes must be those of these weights. One
    rounding that went the other way thus changes what is expected after it, and nothing is held
    against the rest. The update is that of the paper's section on OBQ, by elimination in the whole
    inverse; no Cholesky factor is in it.
    """
    codes, scales, zeros, _ = got
    order, groups = order_and_groups(h, case)
    top = 2**case.bits - 1
    rest = torch.where(h.diagonal() == 0, 0.0, w.double())
    inverse = torch.linalg.inv(damped(h, case.damping))
    if case.static_groups:
        for g, group in enumerate(rest.split(case.group_size, dim=1)):
            if problem := _grid_problem(group, g, case, scales, zeros):
                return problem
    for position, j in enumerate(order.tolist()):
        g = int(groups[j])
        if not case.static_groups and position % case.group_size == 0:
            group = rest[:, order[position : position + case.group_size]]
            if problem := _grid_problem(group, g, case, scales, zeros):
                return problem
        scale, zero = scales[:, g].double(), zeros[:, g].double()
        code = codes[:, j].double()
        exact = rest[:, j] / scale + zero
        away = (exact.clamp(0, top) - code).abs()
        if float(away.max()) > 0.5 + CODE_SLACK:
            row = int(away.argmax())
            return (
                f"column {j}, the {position + 1}. to be quantized: row {row} has code "
                f"{int(code[row])}, its weight as updated by then lies at {float(exact[row]):.2f}"
            )
        error = (rest[:, j] - (code - zero) * scale) / inverse[j, j]
        later = order[position + 1 :]
        rest[:, later] -= error[:, None] * inverse[j, later]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return None


def _grid_problem(
    group: torch.Tensor, g: int, case: Case, scales: torch.Tensor, zeros: torch.Tensor
) -> str | None:
    scale, zero, exact = grid(group, case.bits, case.symmetric)
    got_scale, got_zero = scales[:, g : g + 1].double(), zeros[:, g : g + 1].double()
    wrong = (got_scale / scale - 1).abs()
    if float(wrong.max()) > SCALE_SLACK:
        row = int(wrong.argmax())
        return (
            f"group {g}: row {row} has scale {float(got_scale[row]):.6g}, its weights when the "
            f"group begins ask for {float(scale[row]):.6g}"
        )
    off = (got_zero - exact).abs() > 0.5 + CODE_SLACK
    if bool(off.any()):
        row = int(off[:, 0].int().argmax())
        return f"group {g}: row {row} has zero {int(got_zero[row])}, expected {int(zero[row])}"
    return None


# -- the checkpoint format, from its definition ----------------------------------------------------

_DTYPES = {"F16": torch.float16, "F32": torch.float32, "I32": torch.int32, "I64": torch.int64}


def parse_safetensors(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata. Raises ValueError where the bytes are no safetensors file.

    Eight bytes: the header's length, little-endian. The header is JSON: each tensor's dtype, shape
    and place in what follows.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("no safetensors file: the header is cut off")
    try:
        header = json.loads(data[8 : 8 + length])
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"no safetensors file: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("no safetensors file: the header is no object")
    metadata = header.pop("__metadata__", {})
    body, tensors = data[8 + length :], {}
    for name, entry in header.items():
        try:
            kind, shape = entry["dtype"], [int(n) for n in entry["shape"]]
            begin, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"no safetensors file: the entry of {name!r}") from None
        if kind not in _DTYPES:
            raise ValueError(f"{name} has dtype {kind}, which is none of {', '.join(_DTYPES)}")
        if not 0 <= begin <= end <= len(body):
            raise ValueError(f"no safetensors file: {name} lies outside of it")
        raw = torch.from_numpy(np.frombuffer(body[begin:end], dtype=np.uint8).copy())
        tensors[name] = raw.view(_DTYPES[kind]).reshape(shape)
    return tensors, metadata


def pack(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, g_idx: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The four tensors, one word at a time in Python's own integers."""
    qweight, qzeros = gptq_words(codes, zeros)
    return {
        "qweight": qweight,
        "qzeros": qzeros,
        "scales": scales.T.half().contiguous(),
        "g_idx": g_idx.to(torch.int32),
    }


def unpack(tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """What `pack` packed: codes, scales fp32, zeros, g_idx."""
    words = tensors["qweight"].numpy().view(np.uint32)
    stored = tensors["qzeros"].numpy().view(np.uint32)
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    codes = ((words[:, None, :] >> shifts[None, :, None]) & 15).reshape(-1, words.shape[1]).T
    zeros = (((stored[:, :, None] >> shifts) & 15) + 1 & 15).reshape(stored.shape[0], -1).T
    return (
        torch.from_numpy(codes.astype(np.uint8)),
        tensors["scales"].T.float().contiguous(),
        torch.from_numpy(zeros.astype(np.uint8)),
        tensors["g_idx"],
    )


def record(library: str) -> dict[str, Any]:
    """What was recorded of a library."""
    return json.loads((REFERENCES / f"{library}.json").read_text(encoding="utf-8"))
