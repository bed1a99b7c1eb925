"""GPTQ: round one column, let the columns that are still to come make up for the error.

Frantar et al. 2022, arXiv 2210.17323. A linear layer of weights W [out, in] on inputs X
[tokens, in] is to keep its outputs: minimize the layer error ``||X W^T - X Q^T||^2`` over codes Q.
That is a sum of quadratic forms in the rows of W - Q, all with the same matrix H = 2 X^T X / n: the
Hessian. Rows do not influence each other; columns do, as far as H couples their inputs.

    H [in, in]    Hessian of the layer error, from calibration inputs
    U [in, in]    upper triangular, U^T U = H^-1: row j is how later columns make up for column j

Codes, scales and zeros are those of `group_quantize`, with one difference: ``g_idx`` says which
group a column belongs to, as with ``act_order`` a group's columns do not lie side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from .absmax import group_quantize
from .packing import pack_gptq, unpack_gptq

#: codes uint8 [out, in], scales fp32 [out, groups], zeros uint8 [out, groups], g_idx int32 [in]
Quantized = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

#: The names of a packed layer's tensors in a checkpoint, after the layer's own name and a dot.
PACKED = ("qweight", "qzeros", "scales", "g_idx")


def hessian(batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """The Hessian of a layer's error, ``2 / n * sum of x x^T`` over all n input rows x.

    Args:
        batches: inputs of the layer, floats [tokens, in] each. Batches need not have the same
            number of tokens. They are read once, one at a time: all of them need not fit in memory.

    Returns:
        fp32 [in, in], symmetric, taken in fp32 or better whatever the dtype of the batches. Every
        token counts the same, however the tokens are split into batches. (Libraries differ here:
        some divide by the number of sequences. A common factor changes nothing that follows.)

    Raises:
        ValueError: there is no token at all.
    """
    ### BEGIN SOLUTION
    total, count = None, 0
    for batch in batches:
        rows = batch.float()
        product = rows.T @ rows
        total = product if total is None else total + product
        count += rows.shape[0]
    if total is None or count == 0:
        raise ValueError("a Hessian needs at least one calibration token")
    return total * (2.0 / count)
    ### END SOLUTION


def inverse_factor(h: torch.Tensor, damping: float = 0.01) -> torch.Tensor:
    """U: upper triangular with a positive diagonal, ``U^T U = (h + damping)^-1``; fp32 [in, in].

    A dead input, one that was zero in all of the calibration, has a zero on the diagonal of ``h``:
    a one is put there first. Then ``damping`` times the mean of the diagonal is added to the whole
    diagonal, so that few calibration tokens, or inputs that always move together, still leave
    a matrix that can be inverted. ``h`` itself is not changed.

    Raises:
        ValueError: the damped matrix is not positive definite.
    """
    ### BEGIN SOLUTION
    damped = h.double().clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += damping * diagonal.mean()
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise ValueError("the damped Hessian is not positive definite: calibrate or damp more")
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if failed:
        raise ValueError("the damped Hessian is not positive definite: calibrate or damp more")
    return upper.float()
    ### END SOLUTION


def gptq_quantize(
    w: torch.Tensor,
    h: torch.Tensor,
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    act_order: bool = False,
    damping: float = 0.01,
    block_size: int = 128,
    static_groups: bool = False,
) -> Quantized:
    """Codes of ``w`` that keep the layer's outputs, by GPTQ.

    Columns are quantized one after the other: in their own order, or with ``act_order`` by
    descending diagonal of ``h`` (equal ones in their own order). Let U be `inverse_factor` of
    ``h`` with rows and columns in that order. At position j:

    1. if j is a multiple of ``group_size``, a group begins: its scale and zero are those that
       `group_quantize` finds for the ``group_size`` columns from j on, as they are now, after all
       updates so far. They stay fixed from then on;
    2. the column's codes are ``clamp(round(w_j / scale) + zero, 0, 2^bits - 1)``, half to even;
    3. its error ``w_j - (code - zero) * scale``, divided by U[j, j] and times U[j, k], is taken
       from each later column k.

    With ``static_groups`` there is no step 1: groups are ``group_size`` columns of ``w`` in their
    own order, and all grids are those that `group_quantize` finds before anything is updated. The
    order of quantization is the same. So act-order costs nothing when the layer runs: its groups
    lie side by side.

    Weights of dead inputs (zero on the diagonal of ``h``) are set to zero before anything else.

    ``block_size`` changes only speed and rounding errors, never what is computed, whether or not
    it and ``group_size`` are multiples of each other: errors are passed on at once within a block,
    and to the columns after it in one matrix product at its end. A group that begins sees all of
    them. (auto-gptq sets the grid of a group that begins within a block before the block's own
    errors have reached it.)

    Args:
        w: weights, floats [out, in]; not changed.
        h: Hessian [in, in]; not changed.
        bits: of a code, 2 to 8.
        group_size: columns that share a scale and a zero.
        symmetric: the grid, as in `group_quantize`.
        act_order: the most active inputs first.
        damping: see `inverse_factor`.
        block_size: columns between two updates of all the rest, at least 1.
        static_groups: grids from the weights as they were.

    Returns:
        codes: uint8 [out, in], columns in the order of ``w``, with act-order, too.
        scales: fp32 [out, in / group_size], groups in the order in which they were quantized
            (static ones: in the order of ``w``).
        zeros: uint8, as scales.
        g_idx: int32 [in], the group of each column of ``w``: its position in the order of
            quantization (static groups: in ``w``) // ``group_size``.

    Raises:
        ValueError: shapes do not fit, ``group_size`` does not divide ``in``, or the damped Hessian
            is not positive definite.
    """
    ### BEGIN SOLUTION
    columns = w.shape[1]
    if h.shape != (columns, columns) or group_size < 1 or columns % group_size or block_size < 1:
        raise ValueError(
            f"weights {list(w.shape)}, Hessian {list(h.shape)}, groups of {group_size} and "
            f"blocks of {block_size} do not fit together"
        )
    diagonal = h.diagonal()
    own = order = torch.arange(columns, device=w.device)
    if act_order:
        order = torch.argsort(diagonal, descending=True, stable=True)
    group = (order if static_groups else own) // group_size  # by position
    u = inverse_factor(h[order][:, order], damping)
    w = torch.where(diagonal == 0, 0.0, w.float())
    rest = w[:, order]  # what is still to be quantized
    _, scales, zeros = group_quantize(w, bits, group_size, symmetric)
    codes = torch.empty_like(rest)
    start = 0
    while start < columns:
        end = start + block_size
        if not static_groups:
            # A block never goes over the edge of a group: each group begins with all updates made.
            first, last = start // group_size * group_size, (start // group_size + 1) * group_size
            end = min(end, last)
            if start == first:
                k = start // group_size
                _, scale, zero = group_quantize(rest[:, first:last], bits, group_size, symmetric)
                scales[:, k], zeros[:, k] = scale[:, 0], zero[:, 0]
        now = group[start:end]
        codes[:, start:end], errors = _block(
            rest[:, start:end], u[start:end, start:end], scales[:, now], zeros[:, now].float(), bits
        )
        rest[:, end:] -= errors @ u[start:end, end:]
        start = end
    position = torch.argsort(order)
    return codes[:, position].to(torch.uint8), scales, zeros, group[position].to(torch.int32)


def _block(
    block: torch.Tensor, u: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of a block [out, width], and its errors, each divided by its diagonal element of U.

    ``scale`` and ``zero`` are [out, width], each column's own.
    """
    rest, codes, errors = block.clone(), torch.empty_like(block), torch.empty_like(block)
    for j in range(block.shape[1]):
        codes[:, j] = (torch.round(rest[:, j] / scale[:, j]) + zero[:, j]).clamp(0, 2**bits - 1)
        quantized = (codes[:, j] - zero[:, j]) * scale[:, j]
        errors[:, j] = (rest[:, j] - quantized) / u[j, j]
        rest[:, j + 1 :] -= errors[:, j, None] * u[j, j + 1 :]
    return codes, errors
    ### END SOLUTION


def gptq_dequantize(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, g_idx: torch.Tensor
) -> torch.Tensor:
    """``(code - zero) * scale``, each column with its group's scale and zero; fp32 [out, in].

    Args:
        codes: uint8 [out, in].
        scales: floats [out, groups].
        zeros: uint8 [out, groups].
        g_idx: int32 [in], the group of each column, in any order.
    """
    ### BEGIN SOLUTION
    group = g_idx.long()
    return (codes.float() - zeros.float()[:, group]) * scales.float()[:, group]
    ### END SOLUTION


# -- checkpoints -----------------------------------------------------------------------------------


def quantize_config(
    bits: int,
    group_size: int,
    symmetric: bool,
    act_order: bool,
    damping: float,
    static_groups: bool = False,
) -> dict[str, object]:
    """What quantize_config.json says, in auto-gptq's words. Given."""
    return {
        "bits": bits,
        "group_size": group_size,
        "damp_percent": damping,
        "desc_act": act_order,
        "static_groups": static_groups,
        "sym": symmetric,
        "true_sequential": False,
        "model_name_or_path": None,
        "model_file_base_name": "model",
        "is_marlin_format": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
    }


def checkpoint_files(
    layers: dict[str, Quantized],
    others: dict[str, torch.Tensor],
    model_config: dict[str, object],
    *,
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    act_order: bool = False,
    damping: float = 0.01,
    static_groups: bool = False,
) -> dict[str, bytes]:
    """The files of a checkpoint in the common GPTQ format, by name.

    - ``model.safetensors``: for each layer its four packed tensors (`pack_gptq`), named
      ``<layer>.qweight`` and so on (`PACKED`), but not ``<layer>.weight``; and ``others`` as they
      are, floating-point ones in fp16. Metadata: ``{"format": "pt"}``.
    - ``quantize_config.json``: `quantize_config`.
    - ``config.json``: ``model_config`` with ``quantize_config`` under ``"quantization_config"`` and
      ``"torch_dtype"`` set to ``"float16"``. ``model_config`` itself is not changed.

    Both JSON files are UTF-8.

    Args:
        layers: what `gptq_quantize` returned, by the layer's name (``model.layers.0.mlp.up_proj``).
        others: all other tensors of the model, by name; none is a layer's own weight.
        model_config: the model's config.json.

    Raises:
        ValueError: ``bits`` is not 4, as only nibbles are packed here; or ``others`` holds the
            ``.weight`` of one of ``layers``.
    """
    ### BEGIN SOLUTION
    if bits != 4:
        raise ValueError(f"only 4-bit codes are packed here, not {bits}-bit ones")
    if twice := [name for name in layers if f"{name}.weight" in others]:
        raise ValueError(f"{twice[0]} is quantized: its weight does not belong to the others")
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in others.items()
    }
    for name, quantized in layers.items():
        for kind, tensor in pack_gptq(*quantized).items():
            tensors[f"{name}.{kind}"] = tensor.contiguous()
    settings = quantize_config(bits, group_size, symmetric, act_order, damping, static_groups)
    config = {**model_config, "torch_dtype": "float16", "quantization_config": settings}
    return {
        "model.safetensors": save_safetensors(tensors, {"format": "pt"}),
        "quantize_config.json": json.dumps(settings, indent=2).encode(),
        "config.json": json.dumps(config, indent=2).encode(),
    }
    ### END SOLUTION


def read_layers(data: bytes) -> dict[str, Quantized]:
    """The quantized layers of a ``model.safetensors`` in GPTQ format, by name, ascending.

    A layer is what has all four tensors of `PACKED`; other tensors are left out.
    """
    ### BEGIN SOLUTION
    tensors = load_safetensors(data)
    suffix = ".qweight"
    names = sorted(name.removesuffix(suffix) for name in tensors if name.endswith(suffix))
    layers = {}
    for name in names:
        if all(f"{name}.{kind}" in tensors for kind in PACKED):
            layers[name] = unpack_gptq({kind: tensors[f"{name}.{kind}"] for kind in PACKED})
    return layers
    ### END SOLUTION


def write_checkpoint(folder: str | Path, files: dict[str, bytes]) -> None:
    """Write `checkpoint_files` into ``folder``. Given."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
