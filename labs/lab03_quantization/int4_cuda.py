"""One CUDA kernel over packed four-bit weights, for up to 16 rows of input at a time.

A code becomes a float without a conversion: its four bits are put into the mantissa of a constant.
128 in bf16 has an empty mantissa whose last bit is worth 1, so its bits with a code ORed in are
128 + code, exactly (1024 + code in fp16). One AND and one OR make two codes of a word ready for the
tensor cores. These multiply them with x as they are, and what the constant and the zero point added
is taken off once for a group: it is a multiple of the sum of x over the group's columns.

Weights come through a ring in shared memory (``cp.async``), each lane reading back its own bytes:
so they are on their way long before they are needed and need no registers to wait in. Compiled at
run time by NVRTC, which comes with torch: no compiler has to be installed. Only `int4_kernel`
imports this module, and only where there is a GPU.

Axes: B rows of the input, K input channels, N output channels, G groups along K.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

COLUMNS = 128  # that a warp takes at a time; groups must be a multiple of it
MOST_ROWS = 16  # of the input, in one launch
# Bits of a constant whose mantissa takes a code, and its value.
LIFTS = {torch.bfloat16: ("bf16", 0x4300, 128), torch.float16: ("f16", 0x6400, 1024)}
SCALES = {
    torch.float16: ("u16", 'asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(s))'),
    torch.bfloat16: ("u16", "f = __uint_as_float((u32)s << 16)"),
    torch.float32: ("float", "f = s"),
}


def prepare(x_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` in the order in which the lanes of a warp meet the codes, and its sums.

    Returns:
        ``x`` as ``[K / 128, 4, B, 4, 8]``: for lane t of a row and its word j, of each 128 columns,
        the eight columns 32 t + 8 j and on, in the order 0 4 1 5 2 6 3 7: a word masked once
        gives a code of its low half and one of its high half.
        fp32 ``[K / 128, B]``: the sum over each 128 columns.
    """
    raise NotImplementedError("prepare: your code here")


def multiply(
    ready: tuple[torch.Tensor, torch.Tensor],
    packed: torch.Tensor,
    scales_NG: torch.Tensor,
    zeros_NG: torch.Tensor,
    out_BN: torch.Tensor,
    tile: tuple[int, int, int] | None = None,
) -> None:
    """Fill ``out`` with the product of ``x`` and the weights.

    Args:
        ready: from `prepare`; 16 rows at most.
        packed: as for `matmul_int4`, contiguous, in groups of a multiple of 128 columns.
        scales_NG: contiguous, fp16, bf16 or fp32.
        zeros_NG: contiguous.
        out_BN: contiguous, bf16 or fp16 as ``x``.
        tile: warps of a block, 16s of rows of a block, stages of the ring; chosen if left out.
    """
    raise NotImplementedError("multiply: your code here")
