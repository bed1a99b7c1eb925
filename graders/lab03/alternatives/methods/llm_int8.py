"""LLM.int8 by numpy and integers, one column set after the other."""

from __future__ import annotations

import numpy as np
import torch


def quantize_rows(x, threshold=0.0):
    """Codes, largest magnitudes and outlier columns."""
    if x.dim() != 2:
        raise ValueError("two axes, please")
    a = x.detach().half().numpy().astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        big = np.abs(a) >= threshold if threshold > 0 else np.zeros(a.shape, bool)
        a = np.where(big, np.float32(0), a)
        top = np.abs(a).max(axis=1)
        factor = np.float32(1) / top * np.float32(127)
        codes = np.rint(a * np.where(top == 0, np.float32(0), factor)[:, None])
    columns = np.flatnonzero(big.any(axis=0))
    codes[:, columns] = 0
    return (
        torch.from_numpy(codes.astype(np.int8)),
        torch.from_numpy(top),
        torch.from_numpy(columns.astype(np.int64)),
    )


def quantize_weight(w):
    """Codes and largest magnitudes."""
    return quantize_rows(w, 0.0)[:2]


def int8_matmul(x, w_codes, w_scale, threshold=6.0):
    """Integers in int32, the rest on top."""
    if x.dim() != 2 or w_codes.dim() != 2 or x.shape[1] != w_codes.shape[1]:
        raise ValueError("sizes do not fit")
    codes, top, columns = quantize_rows(x, threshold)
    total = torch.einsum("ri,oi->ro", codes.int(), w_codes.int())
    out = total.double() * (top.double() / 127)[:, None] * (w_scale.double() / 127)[None]
    loud = torch.zeros_like(x, dtype=torch.float32)
    loud[:, columns] = x[:, columns].float()
    w = w_codes.float() * (w_scale / 127).unsqueeze(1)
    return (out.float() + loud.matmul(w.t())).to(x.dtype)
