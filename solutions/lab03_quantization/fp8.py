"""Floats of eight bits, cast by hand: E4M3, E5M2 and E3M4.

A code is a sign bit, then the exponent, then the mantissa:

- ``e4m3``: 4 exponent bits of bias 7, 3 of mantissa. No infinities; NaN is 0x7F and 0xFF, and
  everything below counts: the largest is 0x7E, 448.
- ``e5m2``: 5 exponent bits of bias 15, 2 of mantissa, as in IEEE 754: 0x7C is infinity, 0x7D to
  0x7F are NaN (with the sign bit, too), the largest finite is 0x7B, 57344.
- ``e3m4``: 3 exponent bits of bias 3, 4 of mantissa; NaN as in ``e4m3``, the largest is 0x7E, 30.

An exponent field of 0 means subnormal: the mantissa without the leading one, at the scale of
exponent field 1. With m bits of mantissa the smallest is 2**(1 - bias - m).

The first two are of "OCP 8-bit Floating Point Specification" and exist in torch, to check yourself
against: `torch.float8_e4m3fn`, `torch.float8_e5m2`. (In torch 2.13 on a CPU the first cast
saturates and the second overflows to infinity; older versions overflowed in both.) E3M4 is
of Shen et al., 2023, arXiv:2309.14592, and torch does not have it: compute the casts from bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Format(NamedTuple):
    """An eight-bit float."""

    bias: int
    mantissa_bits: int
    largest_code: int  # of the finite numbers
    largest: float


FORMATS = {
    "e4m3": Format(7, 3, 0x7E, 448.0),
    "e5m2": Format(15, 2, 0x7B, 57344.0),
    "e3m4": Format(3, 4, 0x7E, 30.0),
}


def to_fp8(x: torch.Tensor, fmt: str = "e4m3", saturate: bool = True) -> torch.Tensor:
    """Codes of the nearest numbers; exactly between two, that with the even code.

    The sign is kept, on zeros too. NaN becomes a NaN of the format, whichever of its codes.
    Rounding comes first, as if the numbers went on past the largest with the same spacing. What is
    then beyond it, infinity included, becomes

    - with ``saturate``: the largest finite number of its sign;
    - without: infinity of its sign (0x7C, 0xFC) in ``e5m2``, NaN in the other two.

    Args:
        x: any shape; fp32, bf16 or fp16.
        fmt: ``"e4m3"``, ``"e5m2"`` or ``"e3m4"``.
        saturate: see above.

    Returns:
        uint8, shaped like ``x``.

    Raises:
        ValueError: there is no such format.
    """
    ### BEGIN SOLUTION
    form = _format(fmt)
    bits = x.to(torch.float32).view(torch.int32)
    sign = (bits >> 24) & 0x80  # bit 31, moved to bit 7
    magnitude = bits & 0x7FFFFFFF
    # Normal: subtract the biases' difference, then drop mantissa bits. Adding half of the dropped
    # range minus one, and one if the kept part is odd, carries exactly when rounding goes up;
    # a carry out of the mantissa counts up the exponent, as it should.
    drop = 23 - form.mantissa_bits
    rebiased = magnitude - ((127 - form.bias) << 23)
    odd = (rebiased >> drop) & 1
    normal = (rebiased + (1 << (drop - 1)) - 1 + odd) >> drop
    # Subnormal: a multiple of the smallest number. Scaling by a power of two is exact.
    steps = x.to(torch.float32).abs() * 2.0 ** (form.bias - 1 + form.mantissa_bits)
    subnormal = steps.clamp(max=256).nan_to_num(0.0).round().to(torch.int32)
    code = torch.where(rebiased < 1 << 23, subnormal, normal)
    # The code after the largest is infinity in E5M2 and NaN elsewhere.
    beyond = form.largest_code if saturate else form.largest_code + 1
    code = torch.where(magnitude > 0x7F800000, 0x7F, code.clamp(max=beyond))
    return (sign | code).to(torch.uint8)


def _format(fmt: str) -> Format:
    if fmt not in FORMATS:
        raise ValueError(f"the formats are {', '.join(FORMATS)}, not {fmt!r}")
    return FORMATS[fmt]
    ### END SOLUTION


def from_fp8(codes: torch.Tensor, fmt: str = "e4m3") -> torch.Tensor:
    """The numbers of codes, exactly.

    Args:
        codes: uint8, any shape.
        fmt: ``"e4m3"``, ``"e5m2"`` or ``"e3m4"``.

    Returns:
        fp32, shaped like ``codes``; NaN and infinity where the code is one.

    Raises:
        ValueError: there is no such format.
    """
    ### BEGIN SOLUTION
    form = _format(fmt)
    code = torch.arange(128)
    exponent = code >> form.mantissa_bits
    mantissa = code & ((1 << form.mantissa_bits) - 1)
    leading = torch.where(exponent > 0, 1 << form.mantissa_bits, 0)
    power = torch.exp2((exponent.clamp(min=1) - form.bias - form.mantissa_bits).double())
    positive = ((leading + mantissa) * power).float()
    if fmt == "e5m2":
        positive[0x7C] = torch.inf
        positive[0x7D:] = torch.nan
    else:
        positive[0x7F] = torch.nan
    return torch.cat([positive, -positive])[codes.long()]
    ### END SOLUTION


def quantize_fp8(
    w: torch.Tensor, fmt: str = "e4m3", axis: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled FP8: ``w`` is about ``from_fp8(codes) * scale``.

    ``scale = max|w| / largest`` in fp32, so that the largest magnitude becomes the format's largest
    number; ``codes = to_fp8(w / scale)``. A scale that would be 0 is 1.

    Args:
        w: any shape, not empty; fp32, bf16 or fp16.
        fmt: ``"e4m3"``, ``"e5m2"`` or ``"e3m4"``.
        axis: None for one scale in all; else one for each index of this axis, which may be counted
            from the end; ``w`` then has two axes or more.

    Returns:
        codes: uint8, shaped like ``w``.
        scale: fp32 of shape [] for ``axis=None``; else as many axes as ``w``, each of length 1 but
            ``axis``.

    Raises:
        ValueError: there is no such format; ``w`` is empty, or has a NaN or an Inf.
    """
    ### BEGIN SOLUTION
    form = _format(fmt)
    if w.numel() == 0 or not torch.isfinite(w).all():
        raise ValueError("an empty tensor, NaN and Inf cannot be scaled")
    w = w.to(torch.float32)
    shared = [k for k in range(w.dim()) if axis is None or k != axis % w.dim()]
    scale = w.abs().amax(shared, keepdim=axis is not None) / form.largest
    scale = torch.where(scale == 0, 1.0, scale)
    return to_fp8(w / scale, fmt), scale
    ### END SOLUTION


def dequantize_fp8(codes: torch.Tensor, scale: torch.Tensor, fmt: str = "e4m3") -> torch.Tensor:
    """``from_fp8(codes, fmt) * scale`` in fp32; ``scale`` broadcasts."""
    ### BEGIN SOLUTION
    return from_fp8(codes, fmt) * scale.to(torch.float32)
    ### END SOLUTION
