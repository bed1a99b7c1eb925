"""Integers with a scale: symmetric, with a zero point, and in groups.

Arithmetic is fp32 whatever the input's dtype. "Rounded" means to the nearest integer, a half to the
even one, as `torch.round` does. A scale that would be 0 is 1, so nothing here divides by 0 and
a tensor of zeros comes back as zeros.
"""

from __future__ import annotations

import torch


def checked(x: torch.Tensor, bits: int) -> torch.Tensor:
    """``x`` in fp32, refused if it cannot be quantized. Given: every quantizer starts with it.

    Raises:
        ValueError: ``bits`` is not 2..8, ``x`` is empty, or has a NaN or an Inf.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"codes have 2 to 8 bits here, not {bits}")
    if x.numel() == 0:
        raise ValueError(f"there is nothing to quantize in a tensor of shape {list(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("NaN and Inf have no code")
    return x.to(torch.float32)


def other_axes(x: torch.Tensor, axis: int | None) -> list[int]:
    """The axes that share one scale: all of them, or all but ``axis``. Given.

    Raises:
        ValueError: ``x`` has no such axis, or no other one (each number would have its own scale).
    """
    if axis is None:
        return list(range(x.dim()))
    if x.dim() < 2 or not -x.dim() <= axis < x.dim():
        raise ValueError(f"shape {list(x.shape)} has no scale for each index of axis {axis}")
    return [k for k in range(x.dim()) if k != axis % x.dim()]


def absmax_quantize(
    x: torch.Tensor, bits: int = 8, axis: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric integers: ``x`` is about ``codes * scale``.

    With ``limit = 2**(bits - 1) - 1``: ``scale = max|x| / limit``, and ``codes`` are ``x / scale``
    rounded, from ``-limit`` to ``limit`` (the most negative integer is left unused, so that ``-x``
    has minus the codes of ``x``).

    Args:
        x: any shape, a floating dtype.
        bits: 2..8.
        axis: None for one scale in all; else one scale for each index of this axis, which may be
            counted from the end. ``axis=0`` of a weight matrix is one for each output channel.

    Returns:
        codes: int8, shaped like ``x``.
        scale: fp32, of shape [] for ``axis=None``; else as many axes as ``x``, each of length 1
            but ``axis``: [out, 1] for ``axis=0`` of a matrix [out, in].

    Raises:
        ValueError: what `checked` and `other_axes` refuse.
    """
    x = checked(x, bits)
    ### BEGIN SOLUTION
    axes = other_axes(x, axis)
    limit = 2 ** (bits - 1) - 1
    scale = _no_zero(x.abs().amax(axes, keepdim=axis is not None) / limit)
    return (x / scale).round().clamp(-limit, limit).to(torch.int8), scale


def _no_zero(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 1.0, scale)
    ### END SOLUTION


def zero_point_quantize(
    x: torch.Tensor, bits: int = 8, axis: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Integers with a zero point: ``x`` is about ``(codes - zero) * scale``.

    With ``lo = min(x, 0)``, ``hi = max(x, 0)`` and ``top = 2**bits - 1``:
    ``scale = (hi - lo) / top``, ``zero = -lo / scale`` rounded, and ``codes`` are ``x / scale``
    rounded, plus ``zero``, limited to 0..top. The range always holds 0, so that 0 is exact.

    Args:
        x: any shape, a floating dtype.
        bits: 2..8.
        axis: as in `absmax_quantize`.

    Returns:
        codes: uint8, shaped like ``x``.
        scale: fp32, shaped as in `absmax_quantize`.
        zero: fp32 whole numbers from 0 to ``top``, shaped like ``scale``.

    Raises:
        ValueError: what `checked` and `other_axes` refuse.
    """
    x = checked(x, bits)
    ### BEGIN SOLUTION
    axes = other_axes(x, axis)
    top = 2**bits - 1
    lo = x.amin(axes, keepdim=axis is not None).clamp(max=0)
    hi = x.amax(axes, keepdim=axis is not None).clamp(min=0)
    scale = _no_zero((hi - lo) / top)
    zero = (-lo / scale).round().clamp(0, top)
    return ((x / scale).round() + zero).clamp(0, top).to(torch.uint8), scale, zero
    ### END SOLUTION


def dequantize(
    codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | int = 0
) -> torch.Tensor:
    """``(codes - zero) * scale`` in fp32; ``scale`` and ``zero`` broadcast, and may have any dtype.

    An unsigned ``codes`` or ``zero`` must not wrap around below 0.
    """
    ### BEGIN SOLUTION
    if isinstance(zero, torch.Tensor):
        zero = zero.to(torch.float32)
    return (codes.to(torch.float32) - zero) * scale.to(torch.float32)
    ### END SOLUTION


def group_quantize(
    w: torch.Tensor, bits: int = 4, group_size: int = 128, symmetric: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight matrix in groups: ``group_size`` neighbours of a row share a scale and a zero point.

    Unsigned codes 0..top with ``top = 2**bits - 1``, as GPTQ and AWQ checkpoints store them.
    Symmetric: ``scale = 2 * max|w| / top`` and ``zero = 2**(bits - 1)`` for every group.
    Asymmetric: ``scale`` and ``zero`` of the group as in `zero_point_quantize`.
    Both: ``codes`` are ``w / scale`` rounded, plus ``zero``, limited to 0..top.
    A group of zeros has scale 1, and zero point ``2**(bits - 1)`` or, asymmetric, 0.

    Args:
        w: [out, in], a floating dtype.
        bits: 2..8.
        group_size: at least 1; divides ``in``.

    Returns:
        codes: uint8 [out, in].
        scales: fp32 [out, in / group_size].
        zeros: uint8 [out, in / group_size].

    Raises:
        ValueError: what `checked` refuses; ``w`` is not a matrix; ``group_size`` does not divide
            ``in`` (the message names both numbers).
    """
    w = checked(w, bits)
    if w.dim() != 2:
        raise ValueError(f"a weight matrix has two axes, not shape {list(w.shape)}")
    ### BEGIN SOLUTION
    rows, columns = w.shape
    if group_size < 1 or columns % group_size:
        raise ValueError(f"{columns} columns are not whole groups of {group_size}")
    groups = w.reshape(rows * (columns // group_size), group_size)
    top = 2**bits - 1
    if symmetric:
        scales = _no_zero(2 * groups.abs().amax(1, keepdim=True) / top)
        zeros = torch.full_like(scales, 2 ** (bits - 1))
        codes = ((groups / scales).round() + zeros).clamp(0, top)
    else:
        codes, scales, zeros = zero_point_quantize(groups, bits, axis=0)
    return (
        codes.to(torch.uint8).reshape(rows, columns),
        scales.reshape(rows, -1),
        zeros.to(torch.uint8).reshape(rows, -1),
    )
    ### END SOLUTION


def group_dequantize(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """The matrix that `group_quantize` stands for: ``(codes - zero) * scale`` of each group.

    Args:
        codes: uint8 [out, in].
        scales: [out, groups], any floating dtype; the group size is ``in / groups``.
        zeros: uint8 [out, groups].

    Returns:
        fp32 [out, in].

    Raises:
        ValueError: ``in`` is not a multiple of ``groups``.
    """
    ### BEGIN SOLUTION
    rows, columns = codes.shape
    groups = scales.shape[1]
    if groups < 1 or columns % groups:
        raise ValueError(f"{columns} columns are not {groups} groups of one size")
    w = dequantize(codes.reshape(rows, groups, -1), scales[:, :, None], zeros[:, :, None])
    return w.reshape(rows, columns)
    ### END SOLUTION
