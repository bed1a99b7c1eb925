"""AWQ: scale up the weights that meet large activations, then round, and scale down before.

Rounding to 4 bits hurts most where the activations are large. AWQ multiplies such a column of the
weights by a scale above 1, so that it is rounded relatively finer, and divides the activation by
the same scale. The division costs nothing: it is folded into whatever produces the activation.

Weights are [out, in], activations [tokens, in]; a scale belongs to an input channel.

Source: Lin et al., "AWQ" (2023), arXiv 2306.00978, section 3.2, and the search of mit-han-lab's
llm-awq (auto_scale.py). What is left out here: its second search, for the range to clip to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .absmax import group_dequantize, group_quantize


def channel_scales(x: torch.Tensor, alpha: float) -> torch.Tensor:
    """A scale for each input channel: the mean magnitude of its activations to the power ``alpha``.

    ``s = mean over tokens of |x|, ** alpha``, at least 1e-4 (a channel that is always 0 would
    divide by 0); then all are divided by ``sqrt(max(s) * min(s))``, so that they lie around 1.

    Args:
        x: float [tokens, in].
        alpha: 0 gives a scale of 1 everywhere; 1 makes all channels equally large, on average.

    Returns:
        fp32 [in], all above 0.
    """
    ### BEGIN SOLUTION
    scales = x.float().abs().mean(dim=0).pow(alpha).clamp(min=1e-4)
    return scales / (scales.max() * scales.min()).sqrt()
    ### END SOLUTION


def effective_weight(
    w: torch.Tensor,
    scales: torch.Tensor,
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = False,
) -> torch.Tensor:
    """The weight that a layer computes with after scaling and rounding, seen from its old input.

    Each column of ``w`` is multiplied by its scale, the result quantized in groups and dequantized
    (`absmax.group_quantize`), and each column divided by its scale again: ``x`` times this is what
    the quantized layer makes of ``x / scales``.

    Args:
        w: float [out, in].
        scales: fp32 [in].

    Returns:
        fp32 [out, in].

    Raises:
        ValueError: as `absmax.group_quantize`.
    """
    ### BEGIN SOLUTION
    codes, steps, zeros = group_quantize(w.float() * scales, bits, group_size, symmetric)
    return group_dequantize(codes, steps, zeros) / scales
    ### END SOLUTION


def awq_scales(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    bits: int = 4,
    group_size: int = 128,
    grid: int = 20,
    symmetric: bool = False,
) -> tuple[torch.Tensor, float]:
    """The best `channel_scales` for layers that read the same activations (such as q, k and v).

    Tried are ``alpha = i / grid`` for i in 0..grid-1. The best one has the least squared error of
    the outputs: ``x @ effective_weight.T`` against ``x @ w.T``, averaged over all outputs of all of
    the ``weights`` together. Of equally good ones it is the smallest. Computed in fp32. As 0 is
    among them, the result is never worse than rounding as it is.

    Args:
        x: float [tokens, in], a sample of the activations that these layers read.
        weights: the layers' float [out, in]; each may have another ``out``.
        symmetric: as in `absmax.group_quantize`. AWQ checkpoints have zero points.

    Returns:
        scales fp32 [in], and alpha.

    Raises:
        ValueError: no weights, ``grid`` below 1, or as `absmax.group_quantize`.
    """
    ### BEGIN SOLUTION
    if not weights or grid < 1:
        raise ValueError("there must be at least one weight matrix and one alpha to try")
    x = x.float()
    w = torch.cat([weight.float() for weight in weights])
    best = (float("inf"), torch.ones(x.shape[1]), 0.0)
    for i in range(grid):
        scales = channel_scales(x, i / grid)
        change = effective_weight(w, scales, bits, group_size, symmetric) - w
        loss = float((x @ change.T).square().mean())
        if loss < best[0]:
            best = (loss, scales, i / grid)
    return best[1], best[2]
    ### END SOLUTION


def fold_into_norm(
    gain: torch.Tensor, weights: Sequence[torch.Tensor], scales: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Scale the weights of the layers that read a norm, and let the norm divide.

    The function from the norm's input to the layers' outputs stays the same. All layers that read
    the norm must be among ``weights``: the others would see divided activations.

    Args:
        gain: float [in], the RMSNorm's weight.
        weights: float [out, in] of every layer that reads it.
        scales: fp32 [in].

    Returns:
        The new gain and the new weights, in order; new tensors, each in the dtype it had (computed
        in fp32).

    Raises:
        ValueError: a size ``in`` differs from that of ``scales``.
    """
    ### BEGIN SOLUTION
    _check(scales, gain.shape[0], *(weight.shape[1] for weight in weights))
    scaled = [(weight.float() * scales).to(weight.dtype) for weight in weights]
    return (gain.float() / scales).to(gain.dtype), scaled


def _check(scales: torch.Tensor, *sizes: int) -> None:
    if any(size != scales.numel() for size in sizes):
        raise ValueError(f"{scales.numel()} scales do not fit channels of {sizes}")
    ### END SOLUTION


def fold_into_linear(
    previous: torch.Tensor, weights: Sequence[torch.Tensor], scales: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Scale the weights of the layers that read another linear layer, and let that one divide.

    In a Llama: down_proj, which reads up_proj (times the gate, which passes a factor on); o_proj,
    which reads v_proj through attention, if there are as many KV heads as query heads.

    Args:
        previous: float [in, previous in], the weight of the layer that is read. It has no bias.
        weights: float [out, in] of every layer that reads it.
        scales: fp32 [in].

    Returns:
        The new ``previous`` and the new weights, in order; new tensors, each in the dtype it had
        (computed in fp32).

    Raises:
        ValueError: a size ``in`` differs from that of ``scales``.
    """
    ### BEGIN SOLUTION
    _check(scales, previous.shape[0], *(weight.shape[1] for weight in weights))
    scaled = [(weight.float() * scales).to(weight.dtype) for weight in weights]
    return (previous.float() / scales[:, None]).to(previous.dtype), scaled
    ### END SOLUTION
