"""RoPE as a multiplication by complex numbers; frequencies by exp and log."""

import math

import torch


def rope_tables(positions, head_dim, theta=10000.0):
    """As the solution."""
    if head_dim & 1:
        raise ValueError("odd head_dim")
    steps = torch.arange(0.0, head_dim, 2.0, device=positions.device)
    frequency = torch.exp(-math.log(theta) / head_dim * steps)
    turn = torch.polar(torch.ones(()).to(frequency), positions.unsqueeze(-1) * frequency)
    return torch.cat((turn.real, turn.real), -1), torch.cat((turn.imag, turn.imag), -1)


def apply_rope(x_BHTD, cos, sin):
    """As the solution."""
    half = x_BHTD.shape[-1] // 2
    turn = torch.complex(cos[..., :half].float(), sin[..., :half].float())
    turn = turn.unsqueeze(-3)
    pairs = torch.complex(x_BHTD[..., :half].float(), x_BHTD[..., half:].float()) * turn
    return torch.cat((pairs.real, pairs.imag), dim=-1).to(x_BHTD.dtype)
