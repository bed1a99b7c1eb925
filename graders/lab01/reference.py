"""References of lab 01 in fp64, written for clarity and without sharing code with the solution."""

from __future__ import annotations

import math

import torch


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm in fp64."""
    wide = x.double()
    return wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps) * weight.double()


def rope(x_BHTD: torch.Tensor, positions_BT: torch.Tensor, theta: float) -> torch.Tensor:
    """Half-split rotation by complex multiplication, in fp64."""
    half = x_BHTD.shape[-1] // 2
    frequency = theta ** (-torch.arange(half).double() / half)
    angle = positions_BT[:, None, :, None].double() * frequency
    turned = torch.complex(x_BHTD[..., :half].double(), x_BHTD[..., half:].double())
    turned = turned * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """One query at a time, looking at visible slots only."""
    out = torch.zeros_like(q, dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for t in range(q.shape[2]):
            end = int(positions[b, t]) + 1
            for h in range(q.shape[1] if end else 0):
                keys, values = k[b, h // group, :end].double(), v[b, h // group, :end].double()
                weights = torch.softmax(keys @ q[b, h, t].double() / math.sqrt(q.shape[-1]), 0)
                out[b, h, t] = weights @ values
    return out


def probabilities(
    logits: list[float],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    penalty: float = 1.0,
    previous: list[int] | None = None,
) -> list[float]:
    """The sampling distribution of one row, in Python floats."""
    values = list(logits)
    for token in set(previous or []):
        values[token] *= penalty if values[token] < 0 else 1 / penalty
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    if temperature == 0:
        return [float(i == order[0]) for i in range(len(values))]
    kept = order[: top_k or None]
    mass = {i: math.exp((values[i] - values[order[0]]) / temperature) for i in kept}
    total, reached = sum(mass.values()), 0.0
    nucleus: list[int] = []
    for i in kept:
        if nucleus and top_p < 1 and reached >= top_p * total:
            break
        nucleus.append(i)
        reached += mass[i]
    final = {i: mass[i] for i in nucleus if mass[i] >= min_p * mass[order[0]]}
    total = sum(final.values())
    return [final.get(i, 0.0) / total for i in range(len(values))]
