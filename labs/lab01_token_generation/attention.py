"""Grouped-query causal attention over an explicit KV cache.

Axes: B batch, T new tokens, S cache slots, H query heads, K key-value heads, D head_dim.
Slot ``s`` of the cache holds the token at position ``s``. Position -1 marks padding.
Source: Ainslie et al., "GQA" (2023).
"""

from __future__ import annotations

import torch


class KVCache:
    """Keys and values of every layer, for a batch of sequences that grow independently."""

    def __init__(
        self,
        num_layers: int,
        batch: int,
        num_kv_heads: int,
        max_len: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        """Allocate zeros once: ``keys`` and ``values`` are ``[layers, B, K, max_len, D]``."""
        shape = (num_layers, batch, num_kv_heads, max_len, head_dim)
        self.max_len = max_len
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def update(
        self,
        layer: int,
        k_BKTD: torch.Tensor,
        v_BKTD: torch.Tensor,
        positions_BT: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values at their positions; return this layer's whole cache.

        Tokens at position -1 are padding: they write nothing.

        Returns:
            ``(keys, values)`` of this layer, both ``[B, K, max_len, D]``.

        Raises:
            ValueError: a position is ``max_len`` or more, or less than -1. Nothing was written.
        """
        raise NotImplementedError("KVCache.update: your code here")


def attend(
    q_BHTD: torch.Tensor,
    k_BKSD: torch.Tensor,
    v_BKSD: torch.Tensor,
    positions_BT: torch.Tensor,
) -> torch.Tensor:
    """Causal attention: the query at position ``p`` sees slots ``0 .. p``, and nothing else.

    Query head ``h`` reads key-value head ``h // (H / K)``. Scores are scaled by ``D ** -0.5``;
    scores and softmax are computed in fp32. A query at position -1 sees nothing, and its output is
    zero. Slots beyond a query's position may hold any numbers; they change nothing.

    Args:
        q_BHTD: queries.
        k_BKSD: keys, slot ``s`` holding position ``s``.
        v_BKSD: values.
        positions_BT: the position of each query, -1 for padding.

    Returns:
        ``[B, H, T, D]`` in the dtype of the queries.

    Raises:
        ValueError: H is not a multiple of K.
    """
    raise NotImplementedError("attend: your code here")
