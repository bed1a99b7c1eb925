"""What the weights weigh in a storage format: scales and unquantized parts included."""

from __future__ import annotations

import math

from labs.common.formats import Format
from labs.common.models import ModelConfig

from .parameters import parameter_groups


def bits_per_number(fmt: Format) -> float:
    """Bits that one stored number takes with its share of scales.

    Every group of ``group_size`` numbers has one scale and one zero point; with double
    quantization, every ``scale_group_size`` of those scales have one more scale of
    ``second_scale_bits``. A group size of 0 means that there is none.
    """
    ### BEGIN SOLUTION
    bits: float = fmt.bits
    if fmt.group_size:
        bits += (fmt.scale_bits + fmt.zero_bits) / fmt.group_size
        if fmt.scale_group_size:
            bits += fmt.second_scale_bits / (fmt.group_size * fmt.scale_group_size)
    return bits
    ### END SOLUTION


def matrix_bytes(count: int, fmt: Format) -> int:
    """Bytes of ``count`` numbers in this format, rounded up to whole bytes.

    (A real kernel pads each row to whole groups; rows of the models here are whole groups already.)
    """
    ### BEGIN SOLUTION
    return math.ceil(count * bits_per_number(fmt) / 8)
    ### END SOLUTION


def weight_bytes(config: ModelConfig, fmt: Format) -> int:
    """Bytes of all weights.

    The format applies to the matrices of attention and MLP (experts included). Everything else
    (embedding, head, norms, router, biases) stays at ``fmt.other_bits``.
    """
    ### BEGIN SOLUTION
    groups = parameter_groups(config)
    matrices = groups["attention"] + groups["mlp"]
    others = sum(groups.values()) - matrices
    return matrix_bytes(matrices, fmt) + math.ceil(others * fmt.other_bits / 8)
    ### END SOLUTION
