"""FP8 by fractions and exponents: the number is divided by its own step and rounded."""

from __future__ import annotations

import math

import torch

# bias, mantissa bits, largest code
PLANS = {"e4m3": (7, 3, 126), "e5m2": (15, 2, 123), "e3m4": (3, 4, 126)}


def _plan(fmt: str) -> tuple[int, int, int]:
    try:
        return PLANS[fmt]
    except KeyError:
        raise ValueError(fmt) from None


def _largest(fmt: str) -> float:
    bias, m, code = _plan(fmt)
    return math.ldexp(2**m + code % 2**m, (code >> m) - bias - m)


def to_fp8(x, fmt="e4m3", saturate=True):
    bias, m, last = _plan(fmt)
    wide = x.double()
    size = wide.abs()
    nan, size = size.isnan(), torch.nan_to_num(size, nan=0.0, posinf=2.0**60)
    _, exponent = torch.frexp(size)  # size = fraction * 2**exponent, 0.5 <= fraction < 1
    exponent = torch.where(size > 0, exponent - 1, 1 - bias).clamp(min=1 - bias)
    # How many steps of 2**(exponent - m), a whole number that may have become 2 * 2**m.
    steps = torch.round(torch.ldexp(size, m - exponent)).long()
    code = steps + (exponent.long() + bias - 1) * 2**m
    code = torch.where(code > last, last if saturate else last + 1, code)
    code[nan] = 127
    return (code + 128 * torch.signbit(wide)).byte()


def from_fp8(codes, fmt="e4m3"):
    bias, m, last = _plan(fmt)
    table = []
    for code in range(256):
        low = code % 128
        sign = -1.0 if code > 127 else 1.0
        if low > last:
            value = math.inf if fmt == "e5m2" and low == last + 1 else math.nan
        elif low < 2**m:
            value = low * 2.0 ** (1 - bias - m)
        else:
            value = (1 + low % 2**m / 2**m) * 2.0 ** (low // 2**m - bias)
        table.append(sign * value)
    return torch.tensor(table)[codes.int()]


def quantize_fp8(w, fmt="e4m3", axis=None):
    largest = _largest(fmt)
    if w.numel() == 0 or not bool((w.abs() < math.inf).all()):
        raise ValueError("empty, or not finite")
    w = w.float()
    if axis is None:
        scale = w.abs().max() / largest
    else:
        rows = w.abs().transpose(0, axis).flatten(1).max(1).values / largest
        shape = [1] * w.ndim
        shape[axis] = len(rows)
        scale = rows.reshape(shape)
    scale = scale.masked_fill(scale == 0, 1)
    return to_fp8(w / scale, fmt), scale


def dequantize_fp8(codes, scale, fmt="e4m3"):
    return scale.float() * from_fp8(codes, fmt)
