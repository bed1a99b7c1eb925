"""Integer quantizers over rows: every request is brought to a matrix whose rows share a scale."""

from __future__ import annotations

import torch


def _as_rows(x: torch.Tensor, bits: int, axis: int | None) -> tuple[torch.Tensor, list[int]]:
    """fp32 [slices, numbers in one], and the shape of the scales."""
    if bits not in range(2, 9):
        raise ValueError(f"bits = {bits}")
    if x.nelement() == 0 or bool((x - x).isnan().any()):
        raise ValueError("empty, or not finite")
    x = x.float()
    if axis is None:
        return x.reshape(1, -1), []
    if x.ndim < 2 or axis >= x.ndim or axis < -x.ndim:
        raise ValueError(f"axis = {axis}")
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return x.transpose(0, axis).reshape(x.shape[axis], -1), shape


def _back(codes: torch.Tensor, like: torch.Tensor, axis: int | None) -> torch.Tensor:
    if axis is None:
        return codes.reshape(like.shape)
    return codes.reshape(like.transpose(0, axis).shape).transpose(0, axis).contiguous()


def absmax_quantize(x, bits=8, axis=None):
    rows, shape = _as_rows(x, bits, axis)
    limit = (1 << (bits - 1)) - 1
    scale = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1) / limit
    scale[scale == 0] = 1
    codes = torch.round(rows / scale[:, None])
    codes = torch.minimum(torch.maximum(codes, torch.tensor(-limit)), torch.tensor(limit))
    return _back(codes.char(), x, axis), scale.reshape(shape)


def _zero_point(rows: torch.Tensor, bits: int):
    top = (1 << bits) - 1
    with_zero = torch.cat([rows, torch.zeros(len(rows), 1)], dim=1)
    lo, hi = with_zero.aminmax(dim=1)
    scale = (hi - lo) / top
    scale[scale == 0] = 1
    zero = torch.round(lo / scale).neg().clip(0, top) + 0.0
    codes = (torch.round(rows / scale[:, None]) + zero[:, None]).clip(0, top)
    return codes.byte(), scale, zero


def zero_point_quantize(x, bits=8, axis=None):
    rows, shape = _as_rows(x, bits, axis)
    codes, scale, zero = _zero_point(rows, bits)
    return _back(codes, x, axis), scale.reshape(shape), zero.reshape(shape)


def dequantize(codes, scale, zero=0):
    zero = torch.as_tensor(zero).float()
    return codes.float().sub(zero).mul(scale.float())


def group_quantize(w, bits=4, group_size=128, symmetric=True):
    rows, _ = _as_rows(w, bits, None)
    if w.ndim != 2:
        raise ValueError("not a matrix")
    out, columns = w.shape
    if group_size <= 0 or columns // group_size * group_size != columns:
        raise ValueError(f"group_size = {group_size} for {columns} columns")
    codes, scales, zeros = [], [], []
    for start in range(0, columns, group_size):
        part = w[:, start : start + group_size].float()
        if symmetric:
            scale = part.abs().max(dim=1).values * 2 / (2**bits - 1)
            scale[scale == 0] = 1
            zero = torch.full((out,), float(2 ** (bits - 1)))
            code = (torch.round(part / scale[:, None]) + zero[:, None]).clip(0, 2**bits - 1)
        else:
            code, scale, zero = _zero_point(part, bits)
        codes.append(code.byte())
        scales.append(scale)
        zeros.append(zero.byte())
    return torch.cat(codes, 1), torch.stack(scales, 1), torch.stack(zeros, 1)


def group_dequantize(codes, scales, zeros):
    groups = scales.shape[1]
    if groups == 0 or codes.shape[1] % groups:
        raise ValueError(f"{groups} groups for {codes.shape[1]} columns")
    size = codes.shape[1] // groups
    scales = scales.float().repeat_interleave(size, 1)
    zeros = zeros.float().repeat_interleave(size, 1)
    return (codes.float() - zeros) * scales
