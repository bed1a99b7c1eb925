"""From logits to the next token.

Axes: B batch, V vocabulary.
Sources: top-p, Holtzman et al. (2019); min-p, Nguyen et al. (2024); repetition penalty, Keskar et
al., "CTRL" (2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def probabilities(
    logits_BV: torch.Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    previous: Sequence[Sequence[int]] | None = None,
) -> torch.Tensor:
    """The distribution the next token is drawn from.

    Applied in this order, each on what the one before left:

    1. repetition penalty: for each distinct token of ``previous[b]``, a positive logit is divided
       by the penalty, a negative one multiplied by it;
    2. temperature: logits divided by it; 0 means greedy, all mass on the largest logit;
    3. top-k: the k likeliest tokens (0: off);
    4. top-p: the fewest likeliest tokens whose renormalised mass reaches ``top_p``;
    5. min-p: tokens with at least ``min_p`` times the largest probability.

    Equal logits: the lower token id counts as likelier. At least one token always remains.

    Returns:
        fp32 ``[B, V]``; rows sum to 1. ``logits_BV`` is not modified.

    Raises:
        ValueError: temperature < 0, top_k < 0, top_p outside (0, 1], min_p outside [0, 1], or
            repetition_penalty <= 0.
    """
    raise NotImplementedError("probabilities: your code here")


def sample(
    probabilities_BV: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw one token per row, independently, with the given generator.

    Returns:
        int64 ``[B]``. The same generator state gives the same tokens, and a token of probability 0
        is never drawn.
    """
    raise NotImplementedError("sample: your code here")
