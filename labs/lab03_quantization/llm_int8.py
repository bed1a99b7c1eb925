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
    raise NotImplementedError("quantize_rows: your code here")


def quantize_weight(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight matrix: `quantize_rows` without outliers, a row being an output.

    Args:
        w: float [out, in].

    Returns:
        codes int8 [out, in] and scale fp32 [out].

    Raises:
        ValueError: ``w`` is no matrix.
    """
    raise NotImplementedError("quantize_weight: your code here")


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
    raise NotImplementedError("int8_matmul: your code here")
