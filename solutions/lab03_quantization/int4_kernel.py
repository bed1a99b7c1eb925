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
    ### BEGIN SOLUTION
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)
    groups = codes.view(len(codes), -1, group_size).float()
    return ((groups - zeros_NG[..., None]) * scales_NG[..., None].float()).flatten(1)
    ### END SOLUTION


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
    ### BEGIN SOLUTION
    _check(x_BK, packed, scales_NG, zeros_NG, group_size)
    if not _kernel_takes(x_BK, group_size):
        weights = dequantize_int4(packed, scales_NG, zeros_NG, group_size)
        return x_BK @ weights.to(x_BK.dtype).T if x_BK.is_cuda else _exact(x_BK, weights)
    from .int4_cuda import SCALES, multiply, prepare

    if scales_NG.dtype not in SCALES:
        scales_NG = scales_NG.float()
    out = x_BK.new_empty(len(x_BK), len(packed))
    multiply(prepare(x_BK), packed.contiguous(), scales_NG.contiguous(), zeros_NG.contiguous(), out)
    return out


def _exact(x, weights):
    """A CPU may add up in bf16; this adds up in fp32 everywhere."""
    return (x.float() @ weights.T).to(x.dtype)


def _check(x, packed, scales, zeros, group_size):
    """Raise ValueError for what `matmul_int4` does not take."""
    if group_size < 32 or group_size & (group_size - 1):
        raise ValueError(f"a group of {group_size} columns: must be a power of two, 32 or more")
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    if columns % group_size:
        raise ValueError(f"groups of {group_size} do not divide {columns} columns")
    if x.dim() != 2 or x.shape[1] != columns:
        raise ValueError(f"x is {list(x.shape)}, the weights have {columns} columns")
    shape = (rows, columns // group_size)
    if tuple(scales.shape) != shape or tuple(zeros.shape) != shape:
        raise ValueError(f"scales and zeros must be {list(shape)}")


def _kernel_takes(x, group_size):
    """Whether the CUDA kernel can do it: tensor cores of Ampere and later, whole steps of it."""
    return (
        x.is_cuda
        and torch.version.hip is None
        and torch.cuda.get_device_capability(x.device) >= (8, 0)
        and x.dtype in (torch.bfloat16, torch.float16)
        and len(x) <= 16  # more rows are no longer bound by memory
        and group_size % 128 == 0
    )
    ### END SOLUTION


class Stack:
    """L matrices of one shape that are multiplied with the same input: what the grader times.

    As queries, keys and values share an input, or gate and up. One call makes all products, and
    many products a call are what makes a clock outside your process mean something.
    """

    def __init__(self, group_size: int) -> None:
        """An empty stack; ``group_size`` is that of all its matrices."""
        ### BEGIN SOLUTION
        self.group_size = group_size
        self._layers: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._whole: list[torch.Tensor] = []
        self._graphs: dict[tuple[int, torch.dtype], tuple] = {}
        ### END SOLUTION

    def add(self, packed: torch.Tensor, scales_NG: torch.Tensor, zeros_NG: torch.Tensor) -> None:
        """Take one more matrix, on the device it is to be used on, packed as for `matmul_int4`.

        Nothing is timed here: it may be laid out anew, once, all matrices in one piece if you like.
        """
        ### BEGIN SOLUTION
        self._layers.append((packed.clone(), scales_NG.clone(), zeros_NG.clone()))
        self._whole.clear()
        self._graphs.clear()
        ### END SOLUTION

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
        ### BEGIN SOLUTION
        if not self._whole:
            # Below one another they are one matrix: one launch in place of L, and no time between.
            self._whole = [torch.cat(parts) for parts in zip(*self._layers, strict=True)]
            heights = [len(packed) for packed, _, _ in self._layers]
            parts = (whole.split(heights) for whole in self._whole)
            self._layers = list(zip(*parts, strict=True))  # views: the copies are let go
        if not _kernel_takes(x_BK, self.group_size):
            return self._probed(matmul_int4(x_BK, *self._whole, self.group_size), probe_N)
        key = (len(x_BK), x_BK.dtype)
        if key not in self._graphs:
            self._graphs[key] = self._capture(x_BK)
        graph, given, results = self._graphs[key]
        given.copy_(x_BK)
        graph.replay()
        return self._probed(results, probe_N)

    def _probed(self, results, probe_N):
        """From ``[B, L * N]`` to ``[L, B]``."""
        return (results.unflatten(1, (len(self._layers), -1)).float() @ probe_N).T

    def _capture(self, x_BK):
        """A CUDA graph of one pass, its input, its results: what prepares x is launched with it."""
        given = x_BK.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            matmul_int4(given, *self._whole, self.group_size)  # compiled outside the capture
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = matmul_int4(given, *self._whole, self.group_size)
        return graph, given, results
        ### END SOLUTION
