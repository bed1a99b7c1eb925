"""Sampling without a sort of the whole row: thresholds, with ties settled by token id; numpy."""

import numpy as np
import torch


def _cut(p, count):
    """Keep the ``count`` likeliest; of equals at the threshold, the lowest ids."""
    if count >= len(p):
        return p
    limit = np.partition(p, len(p) - count)[len(p) - count]
    above = p > limit
    ties = np.flatnonzero(p == limit)[: count - int(above.sum())]
    keep = above.copy()
    keep[ties] = True
    return np.where(keep, p, 0.0)


def _nucleus(p, top_p):
    """Take the likeliest left until the mass is reached."""
    left, keep, mass = p.copy(), np.zeros(len(p), dtype=bool), 0.0
    while mass < top_p * p.sum() and (left > 0).any():
        best = int(left.argmax())  # the first of equals
        keep[best], mass, left[best] = True, mass + p[best], 0.0
    return np.where(keep, p, 0.0)


def probabilities(logits_BV, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0,
                  repetition_penalty=1.0, previous=None):  # fmt: skip
    """As the solution."""
    good = temperature >= 0 and top_k >= 0 and 0 < top_p <= 1 and 0 <= min_p <= 1
    if not (good and repetition_penalty > 0):
        raise ValueError("a parameter is out of range")
    rows = logits_BV.detach().float().cpu().numpy().copy()
    for b, row in enumerate(rows):
        if previous is not None and len(previous[b]):
            ids = np.unique(np.asarray(previous[b]))
            values = row[ids]
            row[ids] = values * np.where(values < 0, repetition_penalty, 1 / repetition_penalty)
        if temperature == 0:
            rows[b] = np.eye(len(row))[row.argmax()]
            continue
        p = np.exp((row - row.max()) / temperature)
        if top_k:
            p = _cut(p, top_k)
        if top_p < 1:
            p = _nucleus(p, top_p)
        p[p < min_p * p.max()] = 0.0
        rows[b] = p / p.sum()
    return torch.from_numpy(rows).to(logits_BV.device)


def sample(probabilities_BV, generator=None):
    """As the solution, by the race of exponentials."""
    noise = torch.empty_like(probabilities_BV).exponential_(generator=generator)
    return (probabilities_BV / noise).argmax(-1)
