"""Generation of one prompt at a time: slow, and nothing can leak between neighbours."""

import itertools

import torch

from .sampling import probabilities, sample


def pad_batch(prompts):
    """As the solution, through plain lists."""
    width = max(map(len, prompts), default=0)
    if width == 0 or min(map(len, prompts)) == 0:
        raise ValueError("empty")
    tokens = [list(p) + [0] * (width - len(p)) for p in prompts]
    positions = [list(range(len(p))) + [-1] * (width - len(p)) for p in prompts]
    return torch.tensor(tokens), torch.tensor(positions)


def _tokens(model, prompt, room, generator, settings):
    """An endless stream of tokens of one prompt."""
    cache = model.new_cache(1, len(prompt) + room)
    seen, fresh = list(prompt), list(prompt)
    while True:
        start = len(seen) - len(fresh)
        positions = torch.arange(start, len(seen), device=model.device)[None]
        logits = model.forward(torch.tensor([fresh], device=model.device), positions, cache)
        token = int(sample(probabilities(logits[:, -1], previous=[seen], **settings), generator))
        yield token
        seen.append(token)
        fresh = [token]


@torch.no_grad()
def generate(model, prompts, max_new_tokens, stop_tokens=(), generator=None, **sampling):
    """As the solution."""
    pad_batch(prompts)
    if isinstance(max_new_tokens, int):
        max_new_tokens = [max_new_tokens] * len(prompts)
    if len(max_new_tokens) != len(prompts):
        raise ValueError("another number of limits than of prompts")
    sampling.setdefault("temperature", 0.0)
    outputs = []
    for prompt, limit in zip(prompts, max_new_tokens, strict=True):
        made = []
        for token in itertools.islice(_tokens(model, prompt, limit, generator, sampling), limit):
            made.append(token)
            if token in stop_tokens:
                break
        outputs.append(made)
    return outputs
