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
    ### BEGIN SOLUTION
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1 or not 0 <= min_p <= 1:
        raise ValueError("a sampling parameter is out of range")
    if repetition_penalty <= 0:
        raise ValueError("repetition_penalty must be positive")
    logits = logits_BV.float().clone()
    if repetition_penalty != 1.0 and previous is not None:
        for row, tokens in zip(logits, previous, strict=True):
            ids = torch.tensor(sorted(set(tokens)), dtype=torch.long, device=row.device)
            old = row[ids]
            row[ids] = torch.where(old > 0, old / repetition_penalty, old * repetition_penalty)
    order = logits.argsort(dim=-1, descending=True, stable=True)  # stable: ties by token id
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, order[:, :1], 1.0)
    ranked = logits.gather(-1, order)
    ranked = (ranked - ranked[:, :1]) / temperature  # the largest becomes 0: no overflow
    if top_k:
        ranked[:, top_k:] = float("-inf")
    mass = torch.softmax(ranked, dim=-1)
    if top_p < 1:
        # A token stays if the mass before it is short of top_p: the one that crosses stays too.
        before = mass.cumsum(dim=-1) - mass
        mass = mass.masked_fill(before >= top_p, 0.0)
    mass = mass.masked_fill(mass < min_p * mass[:, :1], 0.0)
    mass = mass / mass.sum(dim=-1, keepdim=True)
    return torch.zeros_like(mass).scatter_(-1, order, mass)
    ### END SOLUTION


def sample(
    probabilities_BV: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw one token per row, independently, with the given generator.

    Returns:
        int64 ``[B]``. The same generator state gives the same tokens, and a token of probability 0
        is never drawn.
    """
    ### BEGIN SOLUTION
    return torch.multinomial(probabilities_BV, 1, generator=generator)[:, 0]
    ### END SOLUTION
