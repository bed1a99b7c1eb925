"""RMSNorm by division."""

import torch


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """As the solution, through the vector norm."""
    wide = x if x.dtype == torch.float64 else x.float()
    rms = (wide.norm(dim=-1, keepdim=True) ** 2 / x.shape[-1] + eps).sqrt()
    return (wide / rms * weight).to(x.dtype)
