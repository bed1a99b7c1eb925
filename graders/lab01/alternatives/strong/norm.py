"""RMSNorm through torch's own."""

import torch
import torch.nn.functional as F


def rms_norm(x, weight, eps=1e-6):
    """As the solution."""
    if x.dtype in (torch.float32, torch.float64):
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    return F.rms_norm(x.float(), x.shape[-1:], weight.float(), eps).to(x.dtype)
