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
    ### BEGIN SOLUTION
    if not prompts or not all(prompts):
        raise ValueError("every prompt needs at least one token")
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    positions = torch.full((len(prompts), longest), -1)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
        positions[row, : len(prompt)] = torch.arange(len(prompt))
    return tokens, positions
    ### END SOLUTION


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
    ### BEGIN SOLUTION
    tokens, positions = pad_batch(prompts)
    batch = len(prompts)
    limits = [max_new_tokens] * batch if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if len(limits) != batch:
        raise ValueError(f"{len(limits)} limits for {batch} prompts")
    settings = {"temperature": 0.0, **sampling}
    outputs: list[list[int]] = [[] for _ in prompts]
    active = [limit > 0 for limit in limits]
    if not any(active):
        return outputs
    device = model.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    # The last token is never fed back, but a limit of 0 must not shrink the room for its prompt.
    cache = model.new_cache(batch, max(len(p) + n for p, n in zip(prompts, limits, strict=True)))
    logits_BTV = model.forward(tokens.to(device), positions.to(device), cache)
    # Each prompt's next token comes from its own last token, not from the padding after it.
    logits_BV = logits_BTV[torch.arange(batch, device=device), lengths - 1]
    while True:
        previous = [[*prompt, *new] for prompt, new in zip(prompts, outputs, strict=True)]
        next_B = sample(probabilities(logits_BV, previous=previous, **settings), generator)
        for row, token in enumerate(next_B.tolist()):
            if active[row]:
                outputs[row].append(token)
                active[row] = token not in stop_tokens and len(outputs[row]) < limits[row]
        if not any(active):
            return outputs
        # Finished rows ride along as padding: they write nothing and see nothing.
        running = torch.tensor(active, device=device)
        step_positions = torch.where(running, lengths, -1)
        logits_BV = model.forward(next_B[:, None], step_positions[:, None], cache)[:, 0]
        lengths = lengths + 1
    ### END SOLUTION
