"""RoPE with explicit halves."""

import torch


def rope_tables(positions, head_dim, theta=10000.0):
    """As the solution, computed in fp64."""
    if head_dim % 2 == 1:
        raise ValueError("odd head_dim")
    half = head_dim // 2
    channel = torch.arange(half, device=positions.device).repeat(2).double()
    angles = positions.unsqueeze(-1).double() * theta ** (-channel / half)
    return angles.cos().float(), angles.sin().float()


def apply_rope(x_BHTD, cos, sin):
    """As the solution."""
    half = x_BHTD.shape[-1] // 2
    if cos.ndim == 3:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    c, s = cos[..., :half], sin[..., :half]
    a, b = x_BHTD[..., :half], x_BHTD[..., half:]
    return torch.cat((a * c - b * s, b * c + a * s), -1).to(x_BHTD.dtype)
