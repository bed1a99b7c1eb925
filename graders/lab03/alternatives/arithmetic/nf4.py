"""NF4 block by block, by distances to all numbers of the code book."""

from __future__ import annotations

import math

import torch

OFFSET = 0.9677083


def _map() -> torch.Tensor:
    numbers = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1.0, 2**decade + 1)
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            middle = float(10.0 ** (decade - 6) * ((low + high) / 2))
            numbers += [middle, -middle]
    return torch.tensor(numbers).sort().values


def code_book():
    numbers = [0.0]
    for count, sign in ((9, 1.0), (8, -1.0)):
        for p in torch.linspace(OFFSET, 0.5, count).tolist()[:-1]:
            # The quantile by the inverse error function.
            quantile = math.sqrt(2) * torch.erfinv(torch.tensor(2 * p - 1, dtype=torch.float64))
            numbers.append(sign * float(quantile))
    book = torch.tensor(sorted(numbers), dtype=torch.float32)
    return book / book[-1]


def _in_blocks(x: torch.Tensor, blocksize: int, book: torch.Tensor):
    if blocksize <= 0 or x.numel() == 0 or bool(x.isnan().any()) or bool(x.isinf().any()):
        raise ValueError("nothing to quantize, or nothing to quantize it with")
    codes, scales = [], []
    for block in x.flatten().float().split(blocksize):
        scale = max(float(block.max()), -float(block.min()))
        ratio = block / scale if scale > 0 else block
        # The first of the smallest distances: from the middle, the lower code.
        codes.append((ratio[:, None] - book).abs().argmin(1))
        scales.append(scale)
    return torch.cat(codes), torch.tensor(scales)


def quantize_nf4(x, blocksize=64):
    codes, scales = _in_blocks(x, blocksize, code_book())
    padded = torch.full((-(-len(codes) // 2) * 2,), 7)
    padded[: len(codes)] = codes
    pairs = padded.reshape(-1, 2)
    return (16 * pairs[:, 0] + pairs[:, 1]).byte(), scales


def dequantize_nf4(packed, absmax, shape, blocksize=64, dtype=torch.float32):
    n = 1
    for size in shape:
        n *= size
    if packed.numel() != (n + 1) // 2 or absmax.numel() != math.ceil(n / blocksize):
        raise ValueError("lengths that do not fit the shape")
    out = torch.empty(2 * len(packed))
    book = code_book()
    out[0::2] = book[(packed // 16).long()]
    out[1::2] = book[(packed % 16).long()]
    out = out[:n]
    for number, scale in enumerate(absmax.tolist()):
        out[number * blocksize : (number + 1) * blocksize] *= scale
    return out.reshape(list(shape)).to(dtype)


def double_quantize(absmax, blocksize=256):
    offset = absmax.sum() / absmax.numel()
    codes, scales = _in_blocks(absmax - offset, blocksize, _map())
    return codes.byte(), scales, offset


def double_dequantize(codes, absmax2, offset, blocksize=256):
    parts = _map()[codes.long()].split(blocksize)
    return torch.cat([p * s for p, s in zip(parts, absmax2, strict=True)]) + offset


def bits_per_weight(blocksize=64, double_blocksize=None):
    scale_bits = 32 if double_blocksize is None else 8 + 32 / double_blocksize
    return 4 + scale_bits / blocksize
