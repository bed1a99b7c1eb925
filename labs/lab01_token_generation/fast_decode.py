"""Greedy decode at the speed of memory: static buffers, fused projections, one CUDA graph.

Axes: B batch, T tokens, S cache slots, H query heads, K key-value heads, D head_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .model import Llama
from .rope import rope_tables


class FastDecoder:
    """Decodes a batch of prompts of one length with a preallocated cache.

    Nothing is copied to the host between two tokens.
    """

    def __init__(self, model: Llama, batch: int, max_len: int) -> None:
        """Allocate every buffer for ``batch`` sequences of up to ``max_len`` tokens."""
        raise NotImplementedError("FastDecoder.__init__: your code here")

    def _step(self) -> None:
        """One token for every sequence; reads and writes the static buffers only."""
        raise NotImplementedError("FastDecoder._step: your code here")

    @torch.inference_mode()
    def prefill(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Start afresh with prompts of one length; return the first greedy token of each, ``[B]``.

        Raises:
            ValueError: another batch size, or prompts longer than the cache.
        """
        raise NotImplementedError("FastDecoder.prefill: your code here")

    @torch.inference_mode()
    def decode(self, steps: int) -> torch.Tensor:
        """Greedily decode ``steps`` more tokens for every sequence.

        Returns:
            int64 ``[B, steps]``.

        Raises:
            ValueError: they do not fit the cache.
        """
        raise NotImplementedError("FastDecoder.decode: your code here")
