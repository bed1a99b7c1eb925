"""Greedy decode at the speed of memory: static buffers, fused kernels, one CUDA graph.

Axes: B batch, T tokens, S cache slots, C hidden size, K key-value heads, G query heads per
key-value head, D head_dim, V vocabulary.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from importlib.util import find_spec

import torch
import torch.nn.functional as F

from .model import Llama
from .rope import rope_tables


class FastDecoder:
    """Decodes a batch of prompts of one length with a preallocated cache.

    Nothing is copied to the host between two tokens.
    """

    def __init__(
        self,
        model: Llama,
        batch: int,
        max_len: int,
        *,
        graph: bool = True,
        compiled: bool = True,
        kernels: bool = True,
        overlap: bool = True,
    ) -> None:
        """Allocate every buffer for ``batch`` sequences of up to ``max_len`` tokens.

        The switches are there to measure what each thing is worth: the CUDA graph, the compiler,
        for one sequence kernels of our own (`decode_kernels`) in place of compiled ones, and
        the overlap of each of these with the next. The grader leaves all at their defaults. None
        is used where the weights are not on a CUDA device.
        """
        raise NotImplementedError("FastDecoder.__init__: your code here")

    @torch.inference_mode()
    def _prepare(self, graph: bool, compiled: bool) -> None:
        """Compile, warm up and capture a step, so that no decode pays for it. CUDA only."""
        raise NotImplementedError("FastDecoder._prepare: your code here")

    @staticmethod
    def _can_compile() -> bool:
        """Whether what torch.compile needs for CUDA is here: Triton, and a C compiler."""
        raise NotImplementedError("FastDecoder._can_compile: your code here")

    @staticmethod
    def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary embedding in the half-split layout; ``cos`` and ``sin`` broadcast to ``x``."""
        raise NotImplementedError("FastDecoder._rotate: your code here")

    @staticmethod
    def _layer(
        h_BC: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor,
        position: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        w: dict[str, torch.Tensor],
        eps: float,
    ) -> torch.Tensor:
        """One layer for one token of every sequence; writes the token's key and value."""
        raise NotImplementedError("FastDecoder._layer: your code here")

    @staticmethod
    def _after_attention(
        h: torch.Tensor, out: torch.Tensor, w: dict[str, torch.Tensor], eps: float
    ) -> torch.Tensor:
        """The rest of a layer: output projection, norm, MLP, and both residuals."""
        raise NotImplementedError("FastDecoder._after_attention: your code here")

    @staticmethod
    def _head(
        h_BC: torch.Tensor, norm: torch.Tensor, head_VC: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """The greedy next token of every sequence, ``[B]``."""
        raise NotImplementedError("FastDecoder._head: your code here")

    def _step(self) -> None:
        """One token for every sequence; reads and writes the static buffers only."""
        raise NotImplementedError("FastDecoder._step: your code here")

    def _step_alone(self) -> None:
        """The same step for one sequence, in five kernels a layer."""
        raise NotImplementedError("FastDecoder._step_alone: your code here")

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
