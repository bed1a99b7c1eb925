"""Two Triton kernels that make one decode step of one sequence: five launches a layer.

At batch 1 a step is a chain of matrix-vector products with a little work between them. A library
runs that little work as kernels of its own, each of which drains the GPU. Here it is part of the
products: the norm before one, SiLU and the residual after one. Only `fast_decode` imports this
module, and only where there is Triton.

Axes: C input channels, N output channels, S cache slots, K key-value heads, G query heads per
key-value head, D head_dim.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Weights that one program holds at once: enough loads in flight to fill the memory bus.
_TILE = 8192


@triton.jit
def _matvec_kernel(
    x, w, out, gain, residual, eps, N, half,
    C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """A few rows of ``w @ x`` a program, with what stands before and after it."""
    raise NotImplementedError("_matvec_kernel: your code here")


def matvec(
    w_NC: torch.Tensor,
    x_C: torch.Tensor,
    *,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    residual: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    overlap: bool = False,
) -> torch.Tensor:
    """``w @ x``, accumulated in fp32.

    Args:
        w_NC: contiguous weights.
        x_C: the vector.
        gain: if given, ``x`` is RMSNormed with this gain and ``eps`` first.
        eps: of that norm.
        gated: the first half of the rows is the gate, the second is up: ``silu(gate) * up``.
        residual: if given, added to the result.
        dtype: of the result; that of ``x`` when left out.
        overlap: let weights be loaded while the kernel before is still running (Hopper and later).

    Returns:
        ``[N]``, or ``[N / 2]`` when ``gated``.
    """
    raise NotImplementedError("matvec: your code here")


@triton.jit
def _attend_kernel(
    qkv, cos, sin, position, keys, values, out, scale, H, K, slots,
    G: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """One key-value head: rotate, write the cache, attend with the head's group of queries."""
    raise NotImplementedError("_attend_kernel: your code here")


def attend_one(
    qkv: torch.Tensor,
    cos_SD: torch.Tensor,
    sin_SD: torch.Tensor,
    position: torch.Tensor,
    keys_KSD: torch.Tensor,
    values_KSD: torch.Tensor,
    *,
    overlap: bool = False,
) -> torch.Tensor:
    """Rotate one token's queries and key, write its key and value, attend over all slots so far.

    Args:
        qkv: all query heads, key heads and value heads of the token, one after the other.
        cos_SD: of every position, from `rope_tables`.
        sin_SD: likewise.
        position: int64 ``[1]``, on the device: a captured graph reads it at every replay.
        keys_KSD: the cache; slot ``position`` is written.
        values_KSD: likewise.
        overlap: as for `matvec`.

    Returns:
        ``[H * D]`` in the dtype of ``qkv``. head_dim must be a power of two, 16 or more.
    """
    raise NotImplementedError("attend_one: your code here")
