"""Batched generation that drops finished rows from the batch, and left-aligns nothing."""

import torch
from torch.nn.utils.rnn import pad_sequence

from .attention import KVCache
from .sampling import probabilities, sample


def pad_batch(prompts):
    """As the solution, by torch's pad_sequence."""
    if len(prompts) == 0 or any(len(p) == 0 for p in prompts):
        raise ValueError("a prompt is empty, or there is none")
    tokens = pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
    positions = pad_sequence(
        [torch.arange(len(p)) for p in prompts], batch_first=True, padding_value=-1
    )
    return tokens, positions


def _keep(cache: KVCache, rows: torch.Tensor) -> None:
    """Forget the other rows."""
    cache.keys, cache.values = cache.keys[:, rows], cache.values[:, rows]


def generate(model, prompts, max_new_tokens, stop_tokens=(), generator=None, **sampling):
    """As the solution."""
    prompts = [list(p) for p in prompts]
    tokens, positions = (x.to(model.device) for x in pad_batch(prompts))
    limits = max_new_tokens
    if isinstance(limits, int):
        limits = [limits for _ in prompts]
    if len(limits) != len(prompts):
        raise ValueError("limits and prompts differ in number")
    temperature = sampling.pop("temperature", 0.0)
    stops, made = set(stop_tokens), [[] for _ in prompts]
    alive = [b for b, limit in enumerate(limits) if limit > 0]
    if not alive:
        return made
    cache = model.new_cache(len(prompts), tokens.shape[1] + max(limits))
    with torch.no_grad():
        logits = model.forward(tokens, positions, cache)
        last = positions.argmax(1)
        logits = logits.take_along_dim(last[:, None, None], 1)[:, 0]
        chosen = torch.tensor(alive, device=model.device)
        _keep(cache, chosen)
        logits = logits[chosen]
        while True:
            seen = [prompts[b] + made[b] for b in alive]
            p = probabilities(logits, temperature, previous=seen, **sampling)
            drawn = sample(p, generator).tolist()
            for b, token in zip(alive, drawn, strict=True):
                made[b].append(token)
            rest = [
                i for i, b in enumerate(alive) if drawn[i] not in stops and len(made[b]) < limits[b]
            ]
            if not rest:
                return made
            _keep(cache, torch.tensor(rest, device=model.device))
            alive = [alive[i] for i in rest]
            step = torch.tensor([[made[b][-1]] for b in alive], device=model.device)
            at = torch.tensor([[len(prompts[b]) + len(made[b]) - 1] for b in alive])
            logits = model.forward(step, at.to(model.device), cache)[:, 0]
