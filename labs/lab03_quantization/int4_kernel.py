"""Multiplying with four-bit weights that stay packed (GPU tier).

A weight is read once a token at batch 1, so time is bytes. Four bits are a quarter of the bytes of
bf16, but only for a kernel that unpacks in registers: one that writes the weights out in bf16 first
reads and writes more than it saves.

Axes: B rows of the input, K input channels, N output channels, G groups along K, L matrices.
"""

from __future__ import annotations

import torch


def dequantize_int4(
    packed: torch.Tensor, scales_NG: torch.Tensor, zeros_NG: torch.Tensor, group_size: int
) -> torch.Tensor:
    """The weights that the packed codes stand for, fp32 ``[N, K]``. Arguments as `matmul_int4`."""
    raise NotImplementedError("dequantize_int4: your code here")


def matmul_int4(
    x_BK: torch.Tensor,
    packed: torch.Tensor,
    scales_NG: torch.Tensor,
    zeros_NG: torch.Tensor,
    group_size: int,
) -> torch.Tensor:
    """``x @ W.T``, where ``W[n, k] = (code[n, k] - zeros[n, g]) * scales[n, g]``.

    Column k belongs to group ``g = k // group_size``.

    Args:
        x_BK: bf16, fp16 or fp32, B of 1 or more.
        packed: uint8 ``[N, K / 2]``; byte j of a row holds the code of column 2j in its low four
            bits and that of column 2j + 1 in its high four bits.
        scales_NG: floating point, of any dtype.
        zeros_NG: uint8, 0 to 15.
        group_size: columns that share a scale and a zero: a power of two, 32 or more; divides K.

    Returns:
        ``[B, N]`` in the dtype of ``x``, accumulated in fp32. A result y may be off by
        ``4 * eps * (|y| + norm)``: eps is that of the dtype of ``x`` (for fp32 ``4 * eps`` is
        0.001), norm is ``sqrt(sum over k of (x[k] * W[n, k]) ** 2)``. That is room for weights
        rounded to the dtype of ``x`` and a result rounded once, at the end; not for an ``x``
        rounded to eight bits.

    Raises:
        ValueError: a group size that is not allowed, or shapes that do not fit each other.
    """
    raise NotImplementedError("matmul_int4: your code here")


class Stack:
    """L matrices of one shape that are multiplied with the same input: what the grader times.

    As queries, keys and values share an input, or gate and up. One call makes all products, and
    many products a call are what makes a clock outside your process mean something.
    """

    def __init__(self, group_size: int) -> None:
        """An empty stack; ``group_size`` is that of all its matrices."""
        raise NotImplementedError("Stack.__init__: your code here")

    def add(self, packed: torch.Tensor, scales_NG: torch.Tensor, zeros_NG: torch.Tensor) -> None:
        """Take one more matrix, on the device it is to be used on, packed as for `matmul_int4`.

        Nothing is timed here: it may be laid out anew, once, all matrices in one piece if you like.
        """
        raise NotImplementedError("Stack.add: your code here")

    def run(self, x_BK: torch.Tensor, probe_N: torch.Tensor) -> torch.Tensor:
        """Multiply ``x`` with every matrix, and each result with ``probe``.

        All L results, each ``[B, N]`` in the dtype of ``x`` and equal to `matmul_int4`, would take
        longer to bring to the grader than to make. So each of their rows is reduced to one number,
        its dot product with ``probe`` in fp32, which nobody can know without the row.

        Args:
            x_BK: as for `matmul_int4`; another one in every call.
            probe_N: fp32, on the same device; another one in every call.

        Returns:
            fp32 ``[L, B]`` on that device.
        """
        raise NotImplementedError("Stack.run: your code here")
