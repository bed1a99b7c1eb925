"""References of LLM.int8, AWQ and SmoothQuant: bitsandbytes itself, and fp64 written as loops.

Nothing here shares code with the solution.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# -- activations and weights -----------------------------------------------------------------------


def shapes(count: int, seed: int) -> list[tuple[int, int, int]]:
    """Rows, in, out: a single row, odd sizes, sizes next to powers of two.

    Not ``in`` = 1, for which torch._int_mm (2.13, CPU) and so bitsandbytes returns nonsense.
    """
    rng = random.Random(seed)
    chosen = [(1, 2, 1), (1, 33, 5), (3, 127, 31), (17, 64, 9), (2, 129, 63)]
    while len(chosen) < count:
        chosen.append((rng.randrange(1, 40), rng.randrange(2, 300), rng.randrange(1, 80)))
    return chosen


def activations(rows: int, channels: int, seed: int, coarse: bool = False) -> torch.Tensor:
    """fp32 [rows, channels] with a few outlier channels; on a coarse grid, ties are common."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, channels, generator=rng)
    loud = torch.randperm(channels, generator=rng)[: max(1, channels // 20)]
    x[:, loud] *= 8 * torch.rand(len(loud), generator=rng) + 2
    return (x * 8).round() / 8 if coarse else x


def weights(rows: int, channels: int, seed: int) -> torch.Tensor:
    """fp32 [rows, channels], about as large as a trained layer's."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, generator=rng) / math.sqrt(channels)


@dataclass(frozen=True)
class Layer:
    """Layers of the shipped model that read the same activations.

    ``x`` fp32 [tokens, in] is what they read, ``before`` what their norm makes of its input without
    the gain.
    """

    name: str
    gain: torch.Tensor
    before: torch.Tensor
    x: torch.Tensor
    weights: list[torch.Tensor]


@functools.cache
def shipped_layers() -> tuple[Layer, ...]:
    """Of each block of the target: what reads the first norm, and what reads the second."""
    from labs.common.perplexity import calibration_tokens
    from labs.common.tiny_models import load_tiny

    model, _ = load_tiny("target")
    seen: dict[int, torch.Tensor] = {}

    def keep(module: Any, _: Any, output: torch.Tensor) -> None:
        seen[id(module)] = output.detach().reshape(-1, output.shape[-1])

    layers = []
    for block in model.model.layers:
        block.input_layernorm.register_forward_hook(keep)
        block.post_attention_layernorm.register_forward_hook(keep)
    with torch.no_grad():
        model(calibration_tokens(3, 96, seed=7))
    for number, block in enumerate(model.model.layers):
        attention, mlp = block.self_attn, block.mlp
        for norm, readers, name in (
            (block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj), "qkv"),
            (block.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), "gate, up"),
        ):
            x, gain = seen[id(norm)], norm.weight.detach()
            matrices = [reader.weight.detach().clone() for reader in readers]
            layers.append(Layer(f"{number} {name}", gain.clone(), x / gain, x, matrices))
    return tuple(layers)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the error over the norm of what is expected."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


# -- LLM.int8 --------------------------------------------------------------------------------------


def bnb_rows(x: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales and outlier columns by bitsandbytes."""
    import bitsandbytes.functional as bnb

    codes, scale, columns = bnb.int8_vectorwise_quant(x.to(torch.float16), threshold=threshold)
    none = torch.empty(0, dtype=torch.int64)
    return codes, scale, none if columns is None else columns.to(torch.int64)


def bnb_linear(x: torch.Tensor, w: torch.Tensor, threshold: float) -> torch.Tensor:
    """``x @ w.T`` by bitsandbytes' own layer, in evaluation."""
    import logging

    import bitsandbytes

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    layer = bitsandbytes.nn.Linear8bitLt(
        w.shape[1], w.shape[0], bias=False, has_fp16_weights=False, threshold=threshold
    )
    layer.weight = bitsandbytes.nn.Int8Params(w.clone(), requires_grad=False)
    layer = layer.to("cpu").eval()
    with torch.no_grad():
        return layer(x)


def rows_int8(x: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales and outlier columns, row by row in numpy."""
    half = x.to(torch.float16).numpy()
    big = np.abs(half) >= np.float16(threshold) if threshold > 0 else np.zeros(half.shape, bool)
    columns = np.flatnonzero(big.any(axis=0))
    codes, scales = np.zeros(half.shape, np.int8), np.zeros(len(half), np.float32)
    for number, row in enumerate(half.astype(np.float32)):
        kept = row[~big[number]]
        scales[number] = np.abs(kept).max(initial=0)
        if scales[number]:
            factor = np.float32(1) / scales[number] * np.float32(127)  # torch's 127.0 / scale
            inside = [j for j in range(len(row)) if j not in columns]
            codes[number, inside] = np.rint(row[inside] * factor)
    return torch.from_numpy(codes), torch.from_numpy(scales), torch.from_numpy(columns)


def int8_parts(
    x: torch.Tensor, w_codes: torch.Tensor, w_scale: torch.Tensor, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The int8 part and the outlier part of the product, fp64."""
    codes, scale, columns = rows_int8(x, threshold)
    products = (codes.long() @ w_codes.long().T).double()
    inner = products * scale.double()[:, None] * w_scale.double() / 127**2
    weight = w_codes[:, columns].double() * w_scale.double()[:, None] / 127
    return inner, x[:, columns].double() @ weight.T


def long_codes(length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whole numbers x [2, length] and w [3, length] up to 127, and their product, int64.

    Each is its own code. The first half's products are all positive and sum up to far more than
    fp32's 24 bits; the second half takes nearly everything back.
    """
    rng = torch.Generator().manual_seed(seed)
    half = length // 2
    x = torch.randint(60, 128, (2, half), generator=rng)
    w = torch.randint(60, 128, (3, half), generator=rng)
    x, w = torch.cat([x, -x], 1), torch.cat([w, w], 1)
    x[:, 0] = w[:, 0] = 127
    x[:, half] = -127
    w[:, half] = torch.tensor([127, 126, 125])
    return x, w, x @ w.T


# -- AWQ -------------------------------------------------------------------------------------------


def awq_channel_scales(x: torch.Tensor, alpha: float) -> torch.Tensor:
    """fp64 [in]."""
    mean = x.double().abs().sum(0) / x.shape[0]
    scales = [max(value**alpha, 1e-4) for value in mean.tolist()]
    middle = math.sqrt(max(scales) * min(scales))
    return torch.tensor([value / middle for value in scales], dtype=torch.float64)


def round_groups(
    w: torch.Tensor, bits: int, group: int, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """``w`` after quantization in groups, fp64, and which weights lie between two codes, bool.

    In fp32, as the lab asks: a symmetric group's largest weight is 7.5 steps, always a tie, and
    fp64 would decide it another way than fp32 does.
    """
    top, out = 2**bits - 1, w.float().clone()
    between = torch.zeros_like(out, dtype=torch.bool)
    for start in range(0, w.shape[1], group):
        part = out[:, start : start + group].clone()
        if symmetric:
            step = 2 * part.abs().amax(1, keepdim=True) / top
            step = step.where(step > 0, 1)
            zero = torch.full_like(step, 2 ** (bits - 1))
        else:
            low = part.amin(1, keepdim=True).clamp(max=0)
            step = (part.amax(1, keepdim=True).clamp(min=0) - low) / top
            step = step.where(step > 0, 1)
            between[:, start : start + group] |= _near_half(-low / step)
            zero = torch.round(-low / step)
        between[:, start : start + group] |= _near_half(part / step)
        codes = (torch.round(part / step) + zero).clamp(0, top)
        out[:, start : start + group] = (codes - zero) * step
    return out.double(), between


def _near_half(x: torch.Tensor) -> torch.Tensor:
    return (x - x.floor() - 0.5).abs() < 1e-4


def awq_weight(
    w: torch.Tensor, scales: torch.Tensor, bits: int, group: int, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """fp64 [out, in]: scaled, rounded, scaled back; and which weights lie between two codes."""
    rounded, between = round_groups(w.float() * scales.float(), bits, group, symmetric)
    return rounded / scales.double(), between


def awq_losses(
    x: torch.Tensor, matrices: list[torch.Tensor], bits: int, group: int, grid: int, symmetric: bool
) -> list[float]:
    """The mean squared error of all outputs for each alpha of the grid."""
    losses = []
    for i in range(grid):
        scales = awq_channel_scales(x, i / grid)
        total = 0.0
        for w in matrices:
            change = awq_weight(w, scales, bits, group, symmetric)[0] - w.double()
            total += float((x.double() @ change.T).square().sum())
        losses.append(total / (x.shape[0] * sum(len(w) for w in matrices)))
    return losses


# -- SmoothQuant -----------------------------------------------------------------------------------


def absmax_columns(matrices: list[torch.Tensor]) -> torch.Tensor:
    """The largest magnitude of each column over all matrices, fp64."""
    columns = range(matrices[0].shape[1])
    found = [max(float(m[:, j].abs().max()) for m in matrices) for j in columns]
    return torch.tensor(found, dtype=torch.float64)


def smoothing(x_absmax: torch.Tensor, w_absmax: torch.Tensor, alpha: float) -> torch.Tensor:
    """fp64 [in]."""
    pairs = zip(x_absmax.tolist(), w_absmax.tolist(), strict=True)
    scales = [max(x**alpha / max(w, 1e-5) ** (1 - alpha), 1e-5) for x, w in pairs]
    return torch.tensor(scales, dtype=torch.float64)


def w8a8(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """``x @ w.T`` in int8, fp64 outside of the codes."""
    sides = []
    for matrix in (x, w):
        scale = (matrix.float().abs().amax(1, keepdim=True) / 127).double()
        scale = scale.where(scale > 0, 1)
        sides.append((torch.round((matrix.float() / scale.float()).double()), scale))
    (x_codes, x_scale), (w_codes, w_scale) = sides
    return (x_codes @ w_codes.T) * x_scale * w_scale.T
