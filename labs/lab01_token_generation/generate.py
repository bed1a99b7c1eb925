"""The generate loop for a batch of prompts of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .model import Llama
from .sampling import probabilities, sample


def pad_batch(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pad prompts to one length.

    Returns:
        ``(tokens, positions)``, int64 ``[B, T]``: padding has token 0 and position -1.

    Raises:
        ValueError: no prompts, or an empty one.
    """
    raise NotImplementedError("pad_batch: your code here")


@torch.inference_mode()
def generate(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    stop_tokens: Sequence[int] = (),
    generator: torch.Generator | None = None,
    **sampling: Any,
) -> list[list[int]]:
    """Continue every prompt.

    Args:
        model: from `load_model`.
        prompts: token ids, any lengths from 1.
        max_new_tokens: one limit, or one per prompt; 0 allowed.
        stop_tokens: a sequence ends with the first of these it produces (kept in its output).
        generator: for the draws.
        sampling: keywords of `probabilities`; greedy (temperature 0) when no temperature is given.
            The repetition penalty looks at the prompt and at what was generated.

    Returns:
        The new tokens of each prompt. What a sequence yields under greedy decoding does not depend
        on its neighbours.

    Raises:
        ValueError: no prompts, an empty one, or limits of another number than the prompts.
    """
    raise NotImplementedError("generate: your code here")
