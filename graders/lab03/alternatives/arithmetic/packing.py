"""Packing in 64-bit arithmetic: fields are multiplied by powers of 16 and summed."""

from __future__ import annotations

import torch


def _weights(order: str) -> torch.Tensor:
    if order == "low_first":
        return torch.tensor([1, 16])
    if order == "high_first":
        return torch.tensor([16, 1])
    raise ValueError(order)


def _four_bits(codes: torch.Tensor) -> torch.Tensor:
    if bool((codes > 15).any()):
        raise ValueError("more than four bits")
    return codes.long()


def pack_nibbles(codes, order="low_first"):
    weights = _weights(order)
    if codes.shape[-1] & 1:
        raise ValueError("odd")
    pairs = _four_bits(codes).reshape(*codes.shape[:-1], codes.shape[-1] // 2, 2)
    return (pairs * weights).sum(-1).byte()


def unpack_nibbles(packed, order="low_first"):
    pairs = packed.long()[..., None] // _weights(order) % 16
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1]).byte()


POWERS = 16 ** torch.arange(8)


def _words(fields: torch.Tensor) -> torch.Tensor:
    """[..., 8 n] to int32 [..., n]."""
    total = (fields.reshape(*fields.shape[:-1], -1, 8) * POWERS).sum(-1)
    return torch.where(total >= 2**31, total - 2**32, total).int()


def _fields(words: torch.Tensor) -> torch.Tensor:
    total = words.long() % 2**32
    return (total[..., None] // POWERS % 16).reshape(*words.shape[:-1], -1)


def pack_gptq(codes, scales, zeros, g_idx):
    if codes.shape[0] % 8 or codes.shape[1] % 8:
        raise ValueError(f"{list(codes.shape)} is not whole words")
    qweight = _words(_four_bits(codes)).T
    qzeros = _words((_four_bits(zeros).T + 15) % 16)
    return {"qweight": qweight, "qzeros": qzeros, "scales": scales.half().T, "g_idx": g_idx}


def unpack_gptq(tensors):
    codes = _fields(tensors["qweight"].T.contiguous()).byte()
    zeros = ((_fields(tensors["qzeros"]) + 1) % 16).T.byte()
    return codes, tensors["scales"].float().T, zeros, tensors["g_idx"]
