"""Rotary position embeddings, in the half-split layout of Hugging Face checkpoints.

Axes: B batch, H heads, T tokens, D head_dim.
Source: Su et al., "RoFormer" (2021).
"""

from __future__ import annotations

import torch


def rope_tables(
    positions: torch.Tensor, head_dim: int, theta: float = 10000.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotation angles at the given positions.

    Pair ``i`` (of ``head_dim / 2``) turns by ``position * theta ** (-2 i / head_dim)`` radians.

    Args:
        positions: integers ``[..., T]``; any order, any start, repeats allowed.
        head_dim: even.
        theta: the base.

    Returns:
        ``(cos, sin)``, both fp32 ``[..., T, head_dim]``; the second half repeats the first.

    Raises:
        ValueError: ``head_dim`` is odd.
    """
    raise NotImplementedError("rope_tables: your code here")


def apply_rope(x_BHTD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate channel ``i`` together with channel ``i + D / 2``.

    Args:
        x_BHTD: queries or keys.
        cos: from `rope_tables`: ``[T, D]``, or ``[B, T, D]`` when each sequence has its positions.
        sin: likewise.

    Returns:
        ``[B, H, T, D]`` in the dtype of ``x_BHTD``.
    """
    raise NotImplementedError("apply_rope: your code here")
