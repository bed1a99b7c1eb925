"""NF4: sixteen numbers that a normal distribution uses equally often, and scales of scales.

Of QLoRA (Dettmers et al., 2023, arXiv:2305.14314), as bitsandbytes computes it on a CPU.
"""

from __future__ import annotations

import math

import torch

# The outermost quantile of the normal distribution that the code book uses, from bitsandbytes.
OFFSET = 0.9677083


def dynamic_map() -> torch.Tensor:
    """The 256 numbers of the eight-bit code for scales, fp32 [256], ascending. Given.

    A float with a moving border: decade k of seven (0.1 to 1 the last) is cut into 2**k equal
    parts, of which it has the middles, each with both signs; then 0 and 1. Number 127 is 0.
    """
    numbers = [0.0, 1.0]
    for k in range(7):
        edges = torch.linspace(0.1, 1.0, 2**k + 1)
        middles = 10.0 ** (k - 6) * ((edges[:-1] + edges[1:]) / 2)
        numbers += middles.tolist() + (-middles).tolist()
    return torch.tensor(sorted(numbers))


def code_book() -> torch.Tensor:
    """The sixteen numbers of NF4, ascending, from -1 to 1, with 0 as number 7.

    The magnitudes are quantiles of the standard normal distribution:

    - positive: at the 9 probabilities ``torch.linspace(OFFSET, 0.5, 9)`` but the last: 8 numbers;
    - negative: at ``torch.linspace(OFFSET, 0.5, 8)`` but the last: 7 numbers, with a minus;
    - and 0. All of it is divided by the largest magnitude.

    The probabilities are fp32, as linspace makes them; the quantiles are computed in fp64
    (``torch.special.ndtri``) and rounded to fp32, and so is the quotient. The result then has every
    bit of the table in bitsandbytes.

    Returns:
        fp32 [16].
    """
    ### BEGIN SOLUTION
    positive = torch.special.ndtri(torch.linspace(OFFSET, 0.5, 9)[:-1].double()).float()
    negative = -torch.special.ndtri(torch.linspace(OFFSET, 0.5, 8)[:-1].double()).float()
    book = torch.cat([negative, torch.zeros(1), positive.flip(0)])
    return book / book.abs().max()
    ### END SOLUTION


def quantize_nf4(x: torch.Tensor, blocksize: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Four bits a number and one scale for each block of neighbours.

    ``x`` is flattened, last axis fastest, and cut into blocks of ``blocksize``; the last may be
    short. A block's scale is its largest magnitude. The code is the place in `code_book` of the
    number nearest to ``x / scale`` (in fp32); exactly in the middle of two, it is the lower one.
    A block of zeros has scale 0 and the code of 0 everywhere.

    Args:
        x: any shape, not empty; fp32, bf16 or fp16.
        blocksize: at least 1.

    Returns:
        packed: uint8 [ceil(n / 2)]; the first of two codes is in the high four bits. For odd n the
            last low four bits hold the code of 0.
        absmax: fp32 [ceil(n / blocksize)].

    Raises:
        ValueError: ``x`` is empty or has a NaN or an Inf, or ``blocksize`` is less than 1.
    """
    ### BEGIN SOLUTION
    if blocksize < 1:
        raise ValueError(f"a block has at least one number, not {blocksize}")
    if x.numel() == 0 or not torch.isfinite(x).all():
        raise ValueError("an empty tensor, NaN and Inf have no codes")
    blocks = _blocks(x.reshape(-1).float(), blocksize)
    absmax = blocks.abs().amax(1)
    codes = _nearest(_scaled(blocks, absmax).reshape(-1)[: x.numel()], code_book())
    if x.numel() % 2:
        codes = torch.cat([codes, codes.new_full((1,), 7)])
    return (codes[0::2] << 4) | codes[1::2], absmax


def _blocks(flat: torch.Tensor, blocksize: int) -> torch.Tensor:
    """[n] to [blocks, blocksize], filled up with zeros."""
    return torch.nn.functional.pad(flat, (0, -len(flat) % blocksize)).reshape(-1, blocksize)


def _scaled(blocks: torch.Tensor, absmax: torch.Tensor) -> torch.Tensor:
    return blocks / torch.where(absmax == 0, 1.0, absmax)[:, None]


def _nearest(x: torch.Tensor, book: torch.Tensor) -> torch.Tensor:
    # How many midpoints lie below x is the place of the nearest number.
    middles = (book[:-1] + book[1:]) / 2
    return torch.bucketize(x, middles).to(torch.uint8)
    ### END SOLUTION


def dequantize_nf4(
    packed: torch.Tensor,
    absmax: torch.Tensor,
    shape: tuple[int, ...],
    blocksize: int = 64,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The numbers that `quantize_nf4` stands for: code book times scale in fp32, then ``dtype``.

    Args:
        packed: uint8 [ceil(n / 2)], n being the product of ``shape``.
        absmax: fp32 [ceil(n / blocksize)].
        shape: of the result.
        blocksize: as in `quantize_nf4`.
        dtype: of the result; a floating dtype.

    Returns:
        A tensor of this shape and dtype.

    Raises:
        ValueError: ``packed`` or ``absmax`` has another length than ``shape`` asks for.
    """
    ### BEGIN SOLUTION
    n = math.prod(shape)
    if len(packed) != -(-n // 2) or len(absmax) != -(-n // blocksize):
        raise ValueError(
            f"shape {list(shape)} takes {-(-n // 2)} bytes and {-(-n // blocksize)} scales, "
            f"not {len(packed)} and {len(absmax)}"
        )
    codes = torch.stack([packed >> 4, packed & 15], dim=1).reshape(-1)[:n]
    scales = absmax.repeat_interleave(blocksize)[:n]
    return (code_book()[codes.long()] * scales).reshape(shape).to(dtype)
    ### END SOLUTION


def double_quantize(
    absmax: torch.Tensor, blocksize: int = 256
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scales in eight bits, with a scale of their own for each block of ``blocksize`` of them.

    Scales are positive, which wastes the sign, so first their mean, the offset, is subtracted. Then
    as in `quantize_nf4`, with `dynamic_map` for a code book: blocks with the last one short, the
    largest magnitude as the block's scale, the nearest number, the lower one from the middle.
    A block of zeros has scale 0 and the code of 0, which is 127.

    Args:
        absmax: fp32 [blocks], at least one.
        blocksize: at least 1.

    Returns:
        codes: uint8 [blocks].
        absmax2: fp32 [ceil(blocks / blocksize)].
        offset: fp32 [], the mean of ``absmax``.

    Raises:
        ValueError: ``absmax`` is empty or has a NaN or an Inf, or ``blocksize`` is less than 1.
    """
    ### BEGIN SOLUTION
    if blocksize < 1:
        raise ValueError(f"a block has at least one scale, not {blocksize}")
    if absmax.numel() == 0 or not torch.isfinite(absmax).all():
        raise ValueError("no scales, NaN and Inf have no codes")
    offset = absmax.mean()
    blocks = _blocks(absmax - offset, blocksize)
    absmax2 = blocks.abs().amax(1)
    codes = _nearest(_scaled(blocks, absmax2).reshape(-1)[: len(absmax)], dynamic_map())
    return codes, absmax2, offset
    ### END SOLUTION


def double_dequantize(
    codes: torch.Tensor, absmax2: torch.Tensor, offset: torch.Tensor, blocksize: int = 256
) -> torch.Tensor:
    """The scales that `double_quantize` stands for: `dynamic_map` times scale, plus the offset.

    Args:
        codes: uint8 [blocks].
        absmax2: fp32 [ceil(blocks / blocksize)].
        offset: fp32 [].
        blocksize: as in `double_quantize`.

    Returns:
        fp32 [blocks].
    """
    ### BEGIN SOLUTION
    scales = absmax2.repeat_interleave(blocksize)[: len(codes)]
    return dynamic_map()[codes.long()] * scales + offset
    ### END SOLUTION


def bits_per_weight(blocksize: int = 64, double_blocksize: int | None = None) -> float:
    """Bits that a weight takes, its share of the scales included.

    Four bits, and an fp32 scale for each block. With ``double_blocksize`` the block's scale takes
    eight bits, and each ``double_blocksize`` of these share one in fp32. (The offset, one number
    for a whole tensor, is not counted.)
    """
    ### BEGIN SOLUTION
    if double_blocksize is None:
        return 4 + 32 / blocksize
    return 4 + 8 / blocksize + 32 / (blocksize * double_blocksize)
    ### END SOLUTION
