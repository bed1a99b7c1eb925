"""LLM.int8: a matrix product in 8-bit integers that keeps the few outlier features apart.

A row of activations has one scale. A feature of magnitude 60 among features of magnitude 1 makes
the steps of that scale so wide that the others all but vanish. So the columns with outliers go
another way, in floating point; everything else is multiplied as integers.

Numbers are those of bitsandbytes: a *scale* here is the row's largest magnitude itself, and a code
``c`` stands for ``c * scale / 127``. (`absmax` stores that largest magnitude divided by 127.)

Source: Dettmers et al., "LLM.int8()" (2022), arXiv 2208.07339; bitsandbytes 0.50.2, whose codes and
scales these are, bit for bit.
"""

from __future__ import annotations

import torch


def quantize_rows(
    x: torch.Tensor, threshold: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize each row of ``x`` to int8, with the outlier columns left out.

    First ``x`` is rounded to fp16; every decision below is taken on those numbers. (Magnitudes
    beyond fp16's range become infinite, and thus outliers.)

    With a ``threshold`` above 0, an *element* is an outlier if its magnitude is at least
    ``threshold``, and a *column* is one if any of its elements is. A row's scale leaves out the
    outlier elements, but not the other elements of an outlier column. Outlier columns get code 0
    in every row. With a ``threshold`` of 0 (or less) there are no outliers.

    Args:
        x: float [rows, in] of any float dtype; not changed. ``threshold`` is an fp16 number.

    Returns:
        codes: int8 [rows, in] in -127..127: ``x * (127.0 / scale)`` in fp32, the quotient first,
            rounded with ties to even. (torch computes a Python number over a tensor as the number
            times ``1 / scale``, which rounds twice. Bit for bit means this, too.)
        scale: fp32 [rows], the largest magnitude of the row. A row without any has scale 0 and
            codes 0 (never NaN).
        outlier_columns: int64 [outliers], ascending; empty if there are none.

    Raises:
        ValueError: ``x`` is no matrix.
    """
    ### BEGIN SOLUTION
    if x.ndim != 2:
        raise ValueError(f"x must be [rows, in], not {list(x.shape)}")
    half = x.to(torch.float16)
    outlier = half.abs() >= threshold if threshold > 0 else torch.zeros_like(half, dtype=torch.bool)
    columns = outlier.any(dim=0)
    kept = half.masked_fill(outlier, 0).float()
    scale = kept.abs().amax(dim=1)
    factor = torch.where(scale > 0, 127.0 / scale, 0.0)
    codes = torch.round(kept * factor[:, None]).to(torch.int8)
    return codes.masked_fill(columns, 0), scale, columns.nonzero().flatten()
    ### END SOLUTION


def quantize_weight(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight matrix: `quantize_rows` without outliers, a row being an output.

    Args:
        w: float [out, in].

    Returns:
        codes int8 [out, in] and scale fp32 [out].

    Raises:
        ValueError: ``w`` is no matrix.
    """
    ### BEGIN SOLUTION
    codes, scale, _ = quantize_rows(w)
    return codes, scale


# fp32 holds every integer up to 2**24 = 16,777,216, and 1,040 products of two codes stay below it.
_EXACT_COLUMNS = 2**24 // 127**2


def _integer_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b.T`` of int8 matrices, exactly, as int32: in pieces whose sums fp32 holds.

    torch._int_mm does the same with the integer instructions of newer CPUs and of GPUs; its name
    says that it may change.
    """
    out = torch.zeros(a.shape[0], b.shape[0], dtype=torch.int32, device=a.device)
    pieces = zip(a.split(_EXACT_COLUMNS, 1), b.split(_EXACT_COLUMNS, 1), strict=True)
    for left, right in pieces:
        out += (left.float() @ right.float().T).to(torch.int32)
    return out
    ### END SOLUTION


def int8_matmul(
    x: torch.Tensor, w_codes: torch.Tensor, w_scale: torch.Tensor, threshold: float = 6.0
) -> torch.Tensor:
    """``x @ w.T`` where ``w`` is known by its codes: in int8, but for the outlier columns of ``x``.

    ``x`` is quantized by `quantize_rows`. The result is the sum of two parts:

    - int8: the products of codes, added up exactly as int32 does (no rounding, however long the
      row), times the row's scale and the output's scale, divided by 127**2;
    - outliers: the outlier columns of ``x``, as they were given (not rounded to fp16), times the
      same columns of the dequantized weight, ``w_codes * w_scale / 127``.

    Scaling, the second part and the sum are computed in fp32 and rounded to ``x``'s dtype once, at
    the end.

    Args:
        x: float [rows, in]; fp32, fp16 or bf16.
        w_codes: int8 [out, in] with ``in`` up to 100,000.
        w_scale: fp32 [out], as `quantize_weight` returns it.
        threshold: see `quantize_rows`; 0 means that there are no outliers.

    Returns:
        [rows, out] in the dtype of ``x``.

    Raises:
        ValueError: ``x`` or ``w_codes`` is no matrix, or their ``in`` differ.
    """
    ### BEGIN SOLUTION
    if w_codes.ndim != 2 or x.shape[-1] != w_codes.shape[1]:
        raise ValueError(f"x {list(x.shape)} does not fit weights {list(w_codes.shape)}")
    codes, scale, columns = quantize_rows(x, threshold)
    products = _integer_product(codes, w_codes)
    out = products * (scale[:, None] * w_scale) / 127**2
    if columns.numel():
        weight = w_codes[:, columns] * w_scale[:, None] / 127
        out += x[:, columns].float() @ weight.T
    return out.to(x.dtype)
    ### END SOLUTION
