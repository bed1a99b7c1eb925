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
    raise NotImplementedError("bits_per_number: your code here")


def matrix_bytes(count: int, fmt: Format) -> int:
    """Bytes of ``count`` numbers in this format, rounded up to whole bytes.

    (A real kernel pads each row to whole groups; rows of the models here are whole groups already.)
    """
    raise NotImplementedError("matrix_bytes: your code here")


def weight_bytes(config: ModelConfig, fmt: Format) -> int:
    """Bytes of all weights.

    The format applies to the matrices of attention and MLP (experts included). Everything else
    (embedding, head, norms, router, biases) stays at ``fmt.other_bits``.
    """
    raise NotImplementedError("weight_bytes: your code here")
