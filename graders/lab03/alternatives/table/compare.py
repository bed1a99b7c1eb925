"""The table, written differently: folds and packs by hand, multiplies codes in fp64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from labs.common.linears import exchanged, linear_inputs
from labs.common.perplexity import calibration_tokens, evaluation_tokens, perplexity
from labs.common.tiny_models import load_tiny

from .absmax import absmax_quantize, dequantize, group_quantize
from .awq import awq_scales
from .fp8 import dequantize_fp8, quantize_fp8
from .gptq import gptq_quantize
from .llm_int8 import int8_matmul, quantize_weight
from .nf4 import dequantize_nf4, double_dequantize, double_quantize, quantize_nf4
from .packing import unpack_nibbles

METHODS = (
    "bf16", "int8", "fp8", "int4", "int4-zp", "gptq", "awq", "nf4", "nf4-dq",
    "w8a8", "smoothquant", "llm_int8",
)  # fmt: skip
GROUP = 128

Weights = dict[str, torch.Tensor]
Stored = dict[str, torch.Tensor]


# The layer whose inputs count -> what is divided, and all layers that are multiplied.
FOLDS = {
    "self_attn.q_proj": (
        "input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    ),
    "mlp.gate_proj": ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    "mlp.down_proj": ("mlp.up_proj", ("mlp.down_proj",)),
}  # fmt: skip


def fold(weights: Weights, method: str, inputs: Mapping[str, torch.Tensor]) -> Weights:
    out = {name: tensor.clone() for name, tensor in weights.items()}
    for layer, (divided, multiplied) in FOLDS.items():
        if method != "awq" and (method != "smoothquant" or layer == "mlp.down_proj"):
            continue
        for block in [name.removesuffix(layer) for name in inputs if name.endswith(layer)]:
            x = inputs[block + layer]
            readers = [out[f"{block}{name}.weight"] for name in multiplied]
            if method == "awq":
                scales, _ = awq_scales(x, readers, 4, GROUP)
            else:
                largest = torch.cat(readers).abs().amax(0).clamp(min=1e-5)
                scales = (x.abs().amax(0) / largest).sqrt().clamp(min=1e-5)
            for reader in readers:
                reader *= scales
            source = out[f"{block}{divided}.weight"]
            source /= scales if source.dim() == 1 else scales[:, None]
    return out


def store(w: torch.Tensor, method: str, x: torch.Tensor | None = None) -> Stored:
    if method not in METHODS:
        raise ValueError(method)
    if method == "bf16":
        return dict(weight=w.bfloat16())
    eight = {
        "int8": lambda: absmax_quantize(w, 8, 0),
        "llm_int8": lambda: quantize_weight(w),
        "fp8": lambda: quantize_fp8(w, "e4m3", 0),
    }
    eight["w8a8"] = eight["smoothquant"] = eight["int8"]
    if method in eight:
        return dict(zip(("codes", "scale"), eight[method](), strict=True))
    if method.startswith("nf4"):
        packed, absmax = quantize_nf4(w, 64)
        out = {"packed": packed}
        if method == "nf4":
            return out | {"absmax": absmax}
        return out | dict(
            zip(("codes", "absmax2", "offset"), double_quantize(absmax, 256), strict=True)
        )
    if method == "gptq":
        if x is None:
            raise ValueError("no inputs")
        h = 2 * (x.double().T @ x.double()).float() / len(x)
        codes, scales, zeros = gptq_quantize(w.clone(), h, group_size=GROUP)[:3]
    else:
        codes, scales, zeros = group_quantize(w, group_size=GROUP, symmetric=method == "int4")
    z = zeros.reshape(-1)
    return {
        "packed": codes[:, 0::2] | (codes[:, 1::2] << 4),
        "scales": scales.to(torch.float16),
        "zeros": z[0::2] | (z[1::2] << 4),
    }


def run(x: torch.Tensor, stored: Stored, method: str) -> torch.Tensor:
    k = x.shape[1]
    if method == "llm_int8":
        return int8_matmul(x, stored["codes"], stored["scale"], 6.0)
    if method in ("w8a8", "smoothquant"):
        step = x.abs().amax(1, keepdim=True) / 127
        step = torch.where(step == 0, 1.0, step)
        products = (x / step).round().double() @ stored["codes"].double().T
        return (products * step.double() * stored["scale"].double().T).float()
    if method == "bf16":
        return torch.nn.functional.linear(x, stored["weight"].float())
    if method in ("int8", "fp8"):
        plain = dequantize(stored["codes"], stored["scale"])
        w = plain if method == "int8" else dequantize_fp8(stored["codes"], stored["scale"])
    elif method.startswith("nf4"):
        absmax = stored.get("absmax")
        if absmax is None:
            absmax = double_dequantize(stored["codes"], stored["absmax2"], stored["offset"])
        w = dequantize_nf4(stored["packed"], absmax, (stored["packed"].numel() * 2 // k, k))
    else:
        codes = unpack_nibbles(stored["packed"]).float()
        zeros = unpack_nibbles(stored["zeros"]).view_as(stored["scales"]).float()
        zeros, scales = (p.float().repeat_interleave(GROUP, 1) for p in (zeros, stored["scales"]))
        w = codes * scales - zeros * scales
    return x @ w.T


def layer_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return ((got - exact).square().sum() / exact.square().sum()).sqrt().item()


@torch.no_grad()
def measure(
    model: Any, method: str, tokens: torch.Tensor, calibration: torch.Tensor
) -> dict[str, str | int | float]:
    weights = fold(model.state_dict(), method, linear_inputs(model, calibration))
    kept: dict[str, Stored] = {}
    with exchanged(model, weights):
        read = linear_inputs(model, calibration)
    total = numbers = 0
    error = 0.0
    for name, x in read.items():
        w = weights[name + ".weight"]
        kept[name] = store(w, method, x)
        error += layer_error(run(x, kept[name], method), torch.nn.functional.linear(x, w))
        numbers += w.numel()
        total += sum(part.element_size() * part.numel() for part in kept[name].values())
    with exchanged(model, weights, lambda name, x: run(x, kept[name], method)):
        cost = perplexity(model, tokens, 4).perplexity
    return dict(
        method=method, bits=total * 8 / numbers, bytes=total, layer_error=error / len(kept),
        perplexity=cost,
    )  # fmt: skip


def table(
    methods: Iterable[str] = METHODS,
    tokens: torch.Tensor | None = None,
    calibration: torch.Tensor | None = None,
    model: Any = None,
    done: Callable[[str], None] | None = None,
) -> list[dict[str, str | int | float]]:
    model = load_tiny("target")[0] if model is None else model
    tokens = evaluation_tokens() if tokens is None else tokens
    calibration = calibration_tokens() if calibration is None else calibration
    rows = []
    for method in methods:
        rows.append(measure(model, method, tokens, calibration))
        if done is not None:
            done(method)
    return rows
