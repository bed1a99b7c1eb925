"""What the weights weigh in a storage format: scales and unquantized parts included."""

from __future__ import annotations

import math
from fractions import Fraction

from labs.common.formats import Format
from labs.common.models import ModelConfig

from .parameters import parameter_groups


def _exact_bits(fmt: Format) -> Fraction:
    bits = Fraction(fmt.bits)
    if fmt.group_size:
        bits += Fraction(fmt.scale_bits + fmt.zero_bits, fmt.group_size)
        if fmt.scale_group_size:
            bits += Fraction(fmt.second_scale_bits, fmt.group_size * fmt.scale_group_size)
    return bits


def bits_per_number(fmt: Format) -> float:
    """Bits that one stored number takes with its share of scales."""
    return float(_exact_bits(fmt))


def matrix_bytes(count: int, fmt: Format) -> int:
    """Bytes of ``count`` numbers in this format, rounded up to whole bytes."""
    return math.ceil(count * _exact_bits(fmt) / 8)


def weight_bytes(config: ModelConfig, fmt: Format) -> int:
    """Bytes of all weights."""
    bits = Fraction(0)
    for group, count in parameter_groups(config).items():
        bits += count * (_exact_bits(fmt) if group in ("attention", "mlp") else fmt.other_bits)
    return math.ceil(bits / 8)
