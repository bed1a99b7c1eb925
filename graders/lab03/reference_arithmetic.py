"""References for integers, packing, NF4 and FP8: fp64, exact fractions, and loops over numbers.

Nothing here shares code with the solution.
"""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import torch

Shape = tuple[int, ...]


def generator(seed: int) -> torch.Generator:
    """A seeded source of random numbers."""
    return torch.Generator().manual_seed(seed)


def randn(seed: int, *shape: int) -> torch.Tensor:
    """Normal fp32 numbers."""
    return torch.randn(*shape, generator=generator(seed))


def randint(seed: int, high: int, *shape: int) -> torch.Tensor:
    """uint8 numbers below ``high``."""
    return torch.randint(high, shape, generator=generator(seed)).to(torch.uint8)


# -- integers --------------------------------------------------------------------------------------


def slices(x: torch.Tensor, axis: int | None) -> list[torch.Tensor]:
    """The parts of ``x`` that share a scale, in fp64, in the order of ``axis``."""
    x = x.double()
    if axis is None:
        return [x]
    return [x.select(axis, index) for index in range(x.shape[axis])]


def scale_shape(x: torch.Tensor, axis: int | None) -> Shape:
    """The shape that the scales must have."""
    if axis is None:
        return ()
    return tuple(n if k == axis % x.dim() else 1 for k, n in enumerate(x.shape))


def symmetric_scales(x: torch.Tensor, bits: int, axis: int | None) -> torch.Tensor:
    """fp64 scales, one for each slice, shaped as they must be."""
    top = 2 ** (bits - 1) - 1
    found = [float(part.abs().max()) / top for part in slices(x, axis)]
    return torch.tensor(found, dtype=torch.float64).reshape(scale_shape(x, axis))


def ranges(x: torch.Tensor, bits: int, axis: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """fp64 (scales, unrounded zero points) of the zero-point quantizer."""
    scales, zeros = [], []
    for part in slices(x, axis):
        lo, hi = min(float(part.min()), 0.0), max(float(part.max()), 0.0)
        scale = (hi - lo) / (2**bits - 1) or 1.0
        scales.append(scale)
        zeros.append(-lo / scale)
    shape = scale_shape(x, axis)
    return (
        torch.tensor(scales, dtype=torch.float64).reshape(shape),
        torch.tensor(zeros, dtype=torch.float64).reshape(shape),
    )


# -- packing ---------------------------------------------------------------------------------------


def nibbles(codes: list[int], order: str) -> list[int]:
    """Bytes of a list of codes."""
    pairs = zip(codes[0::2], codes[1::2], strict=True)
    if order == "low_first":
        return [first + 16 * second for first, second in pairs]
    return [16 * first + second for first, second in pairs]


def word(fields: list[int]) -> int:
    """Eight numbers of four bits as one signed 32-bit word, the first in the low bits."""
    unsigned = sum(field * 16**k for k, field in enumerate(fields))
    return unsigned - 2**32 if unsigned >= 2**31 else unsigned


def gptq_words(codes: torch.Tensor, zeros: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(qweight, qzeros) of codes [out, in] and zero points [out, groups]."""
    by_column, by_group = codes.tolist(), zeros.T.tolist()
    outs, ins = codes.shape
    qweight = [[word(by_column[o][i : i + 8]) for o in range(outs)] for i in range(0, ins, 8)]
    qzeros = [
        [word([15 if z == 0 else z - 1 for z in row[o : o + 8]]) for o in range(0, outs, 8)]
        for row in by_group
    ]
    return torch.tensor(qweight, dtype=torch.int32), torch.tensor(qzeros, dtype=torch.int32)


# -- NF4 -------------------------------------------------------------------------------------------


def nf4_book() -> list[float]:
    """The code book in fp64, by the quantiles of Python's statistics module."""
    offset, normal = 0.9677083, NormalDist()
    positive = [normal.inv_cdf(offset + (0.5 - offset) * k / 8) for k in range(8)]
    negative = [-normal.inv_cdf(offset + (0.5 - offset) * k / 7) for k in range(7)]
    return sorted(v / positive[0] for v in [*positive, *negative, 0.0])


def dynamic_book() -> list[float]:
    """bitsandbytes' eight-bit dynamic code in fp64."""
    numbers = [0.0, 1.0]
    for decade, part in itertools.product(range(7), range(64)):
        if part < 2**decade:
            middle = (0.1 + 0.9 * (part + 0.5) / 2**decade) * 10.0 ** (decade - 6)
            numbers += [middle, -middle]
    return sorted(numbers)


def scaled(x: torch.Tensor, blocksize: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(numbers over their block's largest magnitude [n], these magnitudes [blocks]), fp64."""
    blocks = x.double().reshape(-1).split(blocksize)
    absmax = torch.stack([block.abs().max() for block in blocks])
    return torch.cat([b / (m or 1.0) for b, m in zip(blocks, absmax, strict=True)]), absmax


def nearest(
    values: torch.Tensor, book: list[float], margin: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(place of the nearest number, whether the choice is clear by ``margin``) of fp64 values."""
    table = torch.tensor(book, dtype=torch.float64)
    middles = (table[:-1] + table[1:]) / 2
    place = (values[:, None] > middles).sum(1)
    clear = ((values[:, None] - middles).abs() > margin).all(1)
    return place, clear


def halves(packed: torch.Tensor, n: int) -> torch.Tensor:
    """The first ``n`` codes of bytes that have the first code in the high half."""
    codes = [code for byte in packed.tolist() for code in divmod(byte, 16)]
    return torch.tensor(codes[:n])


# -- FP8 -------------------------------------------------------------------------------------------

# bias, mantissa bits, the code of the largest finite number, whether there are infinities
FP8 = {"e4m3": (7, 3, 0x7E, False), "e5m2": (15, 2, 0x7B, True), "e3m4": (3, 4, 0x7E, False)}
TORCH_FP8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def fp8_number(code: int, fmt: str) -> float:
    """The number of one code."""
    bias, mantissa_bits, largest, infinite = FP8[fmt]
    sign, code = (-1.0, code - 128) if code >= 128 else (1.0, code)
    if code > largest:
        return sign * math.inf if infinite and code == largest + 1 else math.nan
    exponent, mantissa = divmod(code, 2**mantissa_bits)
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp(2**mantissa_bits + mantissa, exponent - bias - mantissa_bits)


def fp8_table(fmt: str) -> torch.Tensor:
    """fp64 numbers of all 256 codes."""
    return torch.tensor([fp8_number(code, fmt) for code in range(256)], dtype=torch.float64)


def fp8_codes(x: torch.Tensor, fmt: str, saturate: bool) -> torch.Tensor:
    """uint8 codes of numbers that are not NaN: a search among all numbers of the format."""
    largest = FP8[fmt][2]
    table = fp8_table(fmt)[: largest + 1]
    # One number more, where the next would be: what rounds to it is beyond the largest.
    table = torch.cat([table, 2 * table[-1:] - table[-2:-1]])
    middles = (table[:-1] + table[1:]) / 2
    magnitude = x.double().abs().reshape(-1)
    code = torch.searchsorted(middles, magnitude)  # how many midpoints lie below
    tie = (code <= largest) & (middles[code.clamp(max=largest)] == magnitude)
    code = torch.where(tie & (code % 2 == 1), code + 1, code)
    code = code.clamp(max=largest if saturate else largest + 1).reshape(x.shape)
    return (code + 128 * torch.signbit(x)).to(torch.uint8)


def fp8_inputs(fmt: str) -> torch.Tensor:
    """fp32 numbers where casts go wrong: all numbers, all midpoints, and their neighbours."""
    table = fp8_table(fmt)
    table = table[table.isfinite()].unique()
    step = table[-1] - table[-2]
    table = torch.cat([table, torch.stack([table[-1] + step, table[-1] + 1.5 * step])])
    numbers = torch.cat([table, (table[:-1] + table[1:]) / 2]).float()
    up, down = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    numbers = torch.cat([numbers, numbers.nextafter(up), numbers.nextafter(down)])
    return torch.cat([numbers, -numbers, torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
