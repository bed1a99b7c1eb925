"""Sampling row by row in fp64, drawing by the inverse of the cumulative distribution."""

import torch


def probabilities(logits_BV, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0,
                  repetition_penalty=1.0, previous=None):  # fmt: skip
    """As the solution."""
    bad = temperature < 0 or top_k < 0 or top_p <= 0 or top_p > 1 or min_p < 0 or min_p > 1
    if bad or repetition_penalty <= 0:
        raise ValueError("out of range")
    out = torch.zeros(logits_BV.shape)
    for b, row in enumerate(logits_BV.double().cpu()):
        row = row.clone()
        for token in set(previous[b]) if previous is not None else ():
            factor = 1 / repetition_penalty if row[token] > 0 else repetition_penalty
            row[token] *= factor
        order = sorted(range(len(row)), key=row.neg().tolist().__getitem__)
        if temperature == 0:
            out[b, order[0]] = 1
            continue
        order = order[: top_k or len(order)]
        p = (row[order] / temperature).softmax(0)
        if top_p < 1:
            keep = int((p.cumsum(0) < top_p).sum()) + 1
            p, order = p[:keep], order[:keep]
        p = torch.where(p >= min_p * p[0], p, 0.0)
        out[b, order] = (p / p.sum()).float()
    return out.to(logits_BV.device)


def sample(probabilities_BV, generator=None):
    """As the solution."""
    total = probabilities_BV.cumsum(-1)
    u = torch.rand(len(total), 1, generator=generator, device=total.device) * total[:, -1:]
    return torch.searchsorted(total, u, right=True)[:, 0]
