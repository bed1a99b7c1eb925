"""RMSNorm.

Axes: B batch, T tokens, C hidden size.
Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
"""

from __future__ import annotations

import torch


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Divide every vector along the last axis by its root mean square, then scale it.

    Args:
        x: ``[..., C]``, any floating dtype.
        weight: ``[C]``, one gain per channel.
        eps: added to the mean square, inside the square root.

    Returns:
        ``[..., C]`` in the dtype of ``x``. The statistics are taken in fp32 whatever that dtype is
        (in fp64 for fp64 inputs).
    """
    raise NotImplementedError("rms_norm: your code here")
