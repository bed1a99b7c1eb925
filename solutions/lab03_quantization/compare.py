"""The whole lab in a table: every method on one trained model, by what it stores and what it costs.

A method is three functions, and their order is the order of this module:

    fold     the model's weights before rounding: the same function, easier to round
    store    one layer's weight -> the tensors that a checkpoint would hold, and no others
    run      inputs and these tensors -> outputs

So bytes are not estimated: they are those of the tensors that `run` works from.

Weights are [out, in], activations [tokens, in]. Methods, all on the linear layers inside the blocks
(embedding, norms and head stay as they are):

    bf16         as shipped                       gptq         as int4, codes by GPTQ
    int8         a scale for each output          awq          as int4-zp, after AWQ's folding
    int4         groups of 128, symmetric         llm_int8     int8 activations too, outliers apart
    int4-zp      groups of 128, zero points       w8a8         int8 activations too
    nf4          blocks of 64                     smoothquant  as w8a8, after smoothing
    nf4-dq       the same, scales in 8 bits
    fp8          E4M3, a scale for each output
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from labs.common.linears import READERS, exchanged, inner_linears, linear_inputs
from labs.common.perplexity import calibration_tokens, evaluation_tokens, perplexity
from labs.common.tiny_models import load_tiny

from .absmax import absmax_quantize, dequantize, group_dequantize, group_quantize
from .awq import awq_scales, fold_into_linear, fold_into_norm
from .fp8 import dequantize_fp8, quantize_fp8
from .gptq import gptq_quantize, hessian
from .llm_int8 import int8_matmul, quantize_weight
from .nf4 import dequantize_nf4, double_dequantize, double_quantize, quantize_nf4
from .packing import pack_nibbles, unpack_nibbles
from .smoothquant import channel_absmax, smooth, w8a8_matmul

METHODS = (
    "bf16", "int8", "fp8", "int4", "int4-zp", "gptq", "awq", "nf4", "nf4-dq",
    "w8a8", "smoothquant", "llm_int8",
)  # fmt: skip
GROUP = 128

Weights = dict[str, torch.Tensor]
Stored = dict[str, torch.Tensor]


def fold(weights: Weights, method: str, inputs: Mapping[str, torch.Tensor]) -> Weights:
    """The model's weights as ``method`` wants them before rounding; the same function.

    - ``smoothquant``: in each block both norms are smoothed (`smooth`, alpha 0.5) together with all
      layers that read them (`READERS`).
    - ``awq``: in each block both norms (`awq_scales`, `fold_into_norm`) likewise, then
      ``mlp.down_proj`` into ``mlp.up_proj`` (`fold_into_linear`), whose product with the gate it
      reads. Groups of `GROUP`, 4 bits, 20 alphas, with zero points. (``self_attn.o_proj`` is
      left out: with grouped queries, v_proj has fewer channels than it reads.)
    - all others: nothing.

    Args:
        weights: the model's state dict, names as in ``model.layers.0.mlp.up_proj.weight``; not
            changed.
        inputs: [tokens, in], what each layer reads, by the layer's name without ``.weight``. Layers
            that read one norm have the same.

    Returns:
        A state dict with the same names, dtypes and shapes.
    """
    ### BEGIN SOLUTION
    out = dict(weights)
    if method not in ("smoothquant", "awq"):
        return out
    blocks = sorted(
        {name.rsplit(".", 2)[0].removesuffix(".mlp") for name in inputs if "mlp" in name}
    )
    for block in blocks:
        for norm, readers in READERS.items():
            layers = [f"{block}.{reader}" for reader in readers]
            names = [f"{block}.{norm}.weight", *(f"{layer}.weight" for layer in layers)]
            gain, *matrices = (out[name] for name in names)
            x = inputs[layers[0]]
            if method == "smoothquant":
                gain, matrices, _ = smooth(gain, matrices, channel_absmax([x]))
            else:
                scales, _ = awq_scales(x, matrices, 4, GROUP)
                gain, matrices = fold_into_norm(gain, matrices, scales)
            out.update(zip(names, (gain, *matrices), strict=True))
        if method == "awq":
            up, down = (f"{block}.mlp.{part}_proj.weight" for part in ("up", "down"))
            scales, _ = awq_scales(inputs[f"{block}.mlp.down_proj"], [out[down]], 4, GROUP)
            out[up], (out[down],) = fold_into_linear(out[up], [out[down]], scales)
    return out
    ### END SOLUTION


def store(w: torch.Tensor, method: str, x: torch.Tensor | None = None) -> Stored:
    """The tensors that a checkpoint holds in place of one layer's weight, by name.

    | method | tensors |
    |---|---|
    | bf16 | ``weight`` bf16 [out, in] |
    | int8, w8a8, smoothquant | ``codes`` int8 [out, in], ``scale`` fp32 [out, 1] |
    | llm_int8 | ``codes`` int8 [out, in], ``scale`` fp32 [out], as `quantize_weight` has them |
    | fp8 | ``codes`` uint8 [out, in], ``scale`` fp32 [out, 1]; E4M3 |
    | int4, int4-zp, gptq, awq | ``packed`` uint8 [out, in / 2], ``scales`` fp16 [out, groups], |
    | | ``zeros`` uint8 [out * groups / 2] |
    | nf4 | ``packed`` uint8 [out * in / 2], ``absmax`` fp32 [blocks] |
    | nf4-dq | ``packed``, ``codes`` uint8 [blocks], ``absmax2`` fp32, ``offset`` fp32 [] |

    Four-bit groups have `GROUP` columns and symmetric codes for int4 and gptq, zero points for
    int4-zp and awq. Codes and zero points (flattened first) are packed by `pack_nibbles`,
    low_first. NF4 has its usual block sizes, 64 and 256. GPTQ works with `hessian` of ``x`` and its
    usual settings, without act-order, so that a column's group follows from its place.

    Args:
        w: [out, in], a floating dtype; after `fold`.
        method: one of `METHODS`.
        x: [tokens, in], a sample of what the layer reads; needed by gptq alone.

    Raises:
        ValueError: there is no such method; gptq without ``x``.
    """
    ### BEGIN SOLUTION
    if method == "bf16":
        return {"weight": w.to(torch.bfloat16)}
    if method in ("int8", "w8a8", "smoothquant", "llm_int8", "fp8"):
        if method == "llm_int8":
            codes, scale = quantize_weight(w)
        elif method == "fp8":
            codes, scale = quantize_fp8(w, axis=0)
        else:
            codes, scale = absmax_quantize(w, axis=0)
        return {"codes": codes, "scale": scale}
    if method in ("nf4", "nf4-dq"):
        packed, absmax = quantize_nf4(w)
        if method == "nf4":
            return {"packed": packed, "absmax": absmax}
        codes, absmax2, offset = double_quantize(absmax)
        return {"packed": packed, "codes": codes, "absmax2": absmax2, "offset": offset}
    if method == "gptq":
        if x is None:
            raise ValueError("gptq needs a sample of the layer's inputs")
        codes, scales, zeros, _ = gptq_quantize(w, hessian([x]), 4, GROUP)
    elif method in ("int4", "int4-zp", "awq"):
        codes, scales, zeros = group_quantize(w, 4, GROUP, symmetric=method == "int4")
    else:
        raise ValueError(f"the methods are {', '.join(METHODS)}, not {method!r}")
    return {
        "packed": pack_nibbles(codes),
        "scales": scales.half(),
        "zeros": pack_nibbles(zeros.flatten()),
    }
    ### END SOLUTION


def run(x: torch.Tensor, stored: Stored, method: str) -> torch.Tensor:
    """What the layer makes of its inputs, from the stored tensors alone.

    Methods that quantize activations use `w8a8_matmul` (w8a8 and smoothquant, on the dequantized
    weight, which gets the same codes again) and `int8_matmul` with threshold 6 (llm_int8). All
    others dequantize the weight and multiply in fp32.

    Args:
        x: fp32 [tokens, in].
        stored: from `store` with the same method.

    Returns:
        fp32 [tokens, out].
    """
    ### BEGIN SOLUTION
    if method == "llm_int8":
        return int8_matmul(x, stored["codes"], stored["scale"])
    columns = x.shape[1]
    if method == "bf16":
        w = stored["weight"].float()
    elif method == "fp8":
        w = dequantize_fp8(stored["codes"], stored["scale"])
    elif method in ("int8", "w8a8", "smoothquant"):
        w = dequantize(stored["codes"], stored["scale"])
    elif method in ("nf4", "nf4-dq"):
        parts = [stored[name] for name in ("codes", "absmax2", "offset") if name in stored]
        absmax = double_dequantize(*parts) if parts else stored["absmax"]
        w = dequantize_nf4(
            stored["packed"], absmax, (2 * len(stored["packed"]) // columns, columns)
        )
    else:
        scales = stored["scales"]
        zeros = unpack_nibbles(stored["zeros"]).view(scales.shape)
        w = group_dequantize(unpack_nibbles(stored["packed"]), scales, zeros)
    return w8a8_matmul(x, w) if method in ("w8a8", "smoothquant") else x @ w.T
    ### END SOLUTION


def layer_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative error of a layer's outputs: ``||got - exact|| / ||exact||``, over all numbers."""
    ### BEGIN SOLUTION
    return float((got - exact).norm() / exact.norm())
    ### END SOLUTION


@torch.no_grad()
def measure(
    model: Any,
    method: str,
    tokens: torch.Tensor,
    calibration: torch.Tensor,
) -> dict[str, str | int | float]:
    """One row of the table: what ``method`` stores and what it costs on ``model``.

    `fold` gets what the layers of ``model`` read of ``calibration`` (`linear_inputs`). The layers
    are then stored and run as parts of the folded model: their sample is what they read *there*,
    of ``calibration`` again. Layer errors are on this sample, against the folded layer in fp32.

    Args:
        model: a Hugging Face model in fp32; as it was when this returns.
        method: one of `METHODS`.
        tokens: int64 [rows, length], for the perplexity.
        calibration: int64 [rows, length].

    Returns:
        - ``method``;
        - ``bits``: bits a weight of the inner linear layers, everything stored for it included;
        - ``bytes``: of all tensors stored for these layers;
        - ``layer_error``: mean of `layer_error` over the layers;
        - ``perplexity``: on ``tokens``, with all layers replaced at once (`exchanged`).
    """
    ### BEGIN SOLUTION
    folded = fold(model.state_dict(), method, linear_inputs(model, calibration))
    with exchanged(model, folded):
        inputs = linear_inputs(model, calibration)
    stored, errors, count = {}, [], 0
    for name in inner_linears(model):
        w, x = folded[f"{name}.weight"].float(), inputs[name]
        stored[name] = store(w, method, x)
        errors.append(layer_error(run(x, stored[name], method), x @ w.T))
        count += w.numel()
    size = sum(tensor.nbytes for parts in stored.values() for tensor in parts.values())
    with exchanged(model, folded, lambda name, x: run(x, stored[name], method)):
        found = perplexity(model, tokens)
    return {
        "method": method,
        "bits": 8 * size / count,
        "bytes": size,
        "layer_error": sum(errors) / len(errors),
        "perplexity": found.perplexity,
    }
    ### END SOLUTION


def table(
    methods: Iterable[str] = METHODS,
    tokens: torch.Tensor | None = None,
    calibration: torch.Tensor | None = None,
    model: Any = None,
    done: Callable[[str], None] | None = None,
) -> list[dict[str, str | int | float]]:
    """A row of `measure` for each method, in order. Given.

    Args:
        tokens: `evaluation_tokens` if absent.
        calibration: `calibration_tokens` if absent.
        model: the shipped target if absent.
        done: called with the method's name after each row.
    """
    model = load_tiny("target")[0] if model is None else model
    tokens = evaluation_tokens() if tokens is None else tokens
    calibration = calibration_tokens() if calibration is None else calibration
    rows = []
    for method in methods:
        rows.append(measure(model, method, tokens, calibration))
        if done is not None:
            done(method)
    return rows


def main() -> None:
    """``python -m labs.lab03_quantization.compare``: the table of the shipped model. Given."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    options = argparse.ArgumentParser(description="Every method on the tiny trained model.")
    options.add_argument("--rows", type=int, default=96, help="rows of held-out text, at most 96")
    options.add_argument(
        "--model", default="target", help="or a Llama by folder or Hugging Face name"
    )
    options.add_argument("--json", type=Path, help="write the rows to this file, too")
    options.add_argument("methods", nargs="*", default=METHODS, help="by default all")
    given = options.parse_args()
    model, tokenizer = load_tiny(given.model)
    tokens = evaluation_tokens(rows=given.rows, tokenizer=tokenizer)
    calibration, console = calibration_tokens(tokenizer=tokenizer), Console()
    shown = Table(title=f"{given.model}, {given.rows} rows of held-out text")
    for heading in ("method", "bits a weight", "MB", "layer error", "perplexity"):
        shown.add_column(heading, justify="left" if heading == "method" else "right")
    rows = []
    for method in track(given.methods, "measuring", console=console, transient=True):
        rows += table([method], tokens, calibration, model)
        row = rows[-1]
        shown.add_row(
            method, f"{row['bits']:.3f}", f"{row['bytes'] / 1e6:.2f}",
            f"{row['layer_error']:.2%}", f"{row['perplexity']:.4f}",
        )  # fmt: skip
    console.print(shown)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
