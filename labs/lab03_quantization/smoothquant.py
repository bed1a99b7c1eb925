"""SmoothQuant: move the outliers of the activations into the weights, then multiply in int8.

W8A8 quantizes weights and activations. The weights are even, the activations are not: a few
channels are large, for every token, and a token has only one scale. Dividing such a channel, and
multiplying the weights' column that meets it, makes both sides half as hard.

Weights are [out, in], activations [tokens, in]; a smoothing scale belongs to an input channel.

Source: Xiao et al., "SmoothQuant" (2022), arXiv 2211.10438, equation 4, and mit-han-lab's
smoothquant (smooth.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .absmax import absmax_quantize


def channel_absmax(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """The largest magnitude of each input channel, over all rows of all matrices together.

    Serves both sides: batches of activations, and the weights of the layers that read them.

    Args:
        matrices: one or more float [rows, in]; each may have another number of rows.

    Returns:
        fp32 [in].
    """
    raise NotImplementedError("channel_absmax: your code here")


def smoothing_scales(
    x_absmax: torch.Tensor, w_absmax: torch.Tensor, alpha: float = 0.5
) -> torch.Tensor:
    """By how much to divide each channel of the activations: fp32 [in].

    ``x_absmax ** alpha / w_absmax ** (1 - alpha)``. ``w_absmax`` counts as at least 1e-5, and the
    result is at least 1e-5: a channel that is 0 on one side must not divide by 0.

    Args:
        x_absmax: fp32 [in], largest magnitude of each channel in a sample of activations.
        w_absmax: fp32 [in], largest magnitude of each column in the weights that meet them.
        alpha: how much of the difficulty moves to the weights. At 1 all channels of the activations
            become equally large, at 0 all columns of the weights.
    """
    raise NotImplementedError("smoothing_scales: your code here")


def smooth(
    gain: torch.Tensor,
    weights: Sequence[torch.Tensor],
    x_absmax: torch.Tensor,
    alpha: float = 0.5,
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Smooth the layers that read a norm: the function stays the same, its activations get even.

    The scales are `smoothing_scales` of ``x_absmax`` and the `channel_absmax` of all ``weights``
    together: what the layers read is one tensor, which can be divided only once.

    Args:
        gain: float [in], the norm's weight.
        weights: float [out, in] of every layer that reads it.
        x_absmax: fp32 [in], see `smoothing_scales`.

    Returns:
        The new gain, the new weights in order (new tensors, each in the dtype it had, computed in
        fp32), and the scales fp32 [in].
    """
    raise NotImplementedError("smooth: your code here")


def w8a8_matmul(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """``x @ w.T`` with both sides in int8: a scale for each token, and one for each output.

    Both are quantized by `absmax.absmax_quantize` in 8 bits. The products of codes are added up
    exactly, as int32 does (no rounding, however long the row), then multiplied by both scales in
    fp32.

    Args:
        x: float [tokens, in].
        w: float [out, in] with ``in`` up to 100,000.

    Returns:
        fp32 [tokens, out].
    """
    raise NotImplementedError("w8a8_matmul: your code here")
