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
    ### BEGIN SOLUTION
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    live = rows < N
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    other = tl.zeros([ROWS, BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for start in tl.static_range(0, C, BLOCK):
        i = start + columns
        inside = i < C
        mask = live[:, None] & inside[None, :]
        place = rows[:, None].to(tl.int64) * C + i[None, :]
        weights = tl.load(w + place, mask=mask, other=0.0, eviction_policy="evict_first")
        if GATED:
            skip = half.to(tl.int64) * C
            second = tl.load(w + skip + place, mask=mask, other=0.0, eviction_policy="evict_first")
        if OVERLAP and start == 0:
            # Weights never change, so they may be loaded while the kernel before still runs; only
            # its results must be waited for.
            tl.extra.cuda.gdc_wait()
        value = tl.load(x + i, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares += value * value
            value *= tl.load(gain + i, mask=inside, other=0.0).to(tl.float32)
        total += weights.to(tl.float32) * value[None, :]
        if GATED:
            other += second.to(tl.float32) * value[None, :]
    if OVERLAP:  # any earlier, and the next kernel's loads would compete with these
        tl.extra.cuda.gdc_launch_dependents()
    result = tl.sum(total, axis=1)
    # RMSNorm divides all channels by one number, so it can be done after the product.
    scale = tl.rsqrt(tl.sum(squares) / C + eps) if NORM else 1.0
    result *= scale
    if GATED:
        result = result * tl.sigmoid(result) * (tl.sum(other, axis=1) * scale)
    if RESIDUAL:
        result += tl.load(residual + rows, mask=live, other=0.0).to(tl.float32)
    tl.store(out + rows, result, mask=live)
    ### END SOLUTION


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
    ### BEGIN SOLUTION
    rows, channels = w_NC.shape
    rows = rows // 2 if gated else rows
    out = torch.empty(rows, dtype=dtype or x_C.dtype, device=x_C.device)
    block = min(triton.next_power_of_2(channels), _TILE)
    per_program = max(1, _TILE // block // (2 if gated else 1))
    _matvec_kernel[(triton.cdiv(rows, per_program),)](
        x_C, w_NC, out, gain if gain is not None else x_C,
        residual if residual is not None else x_C, eps, rows, rows,
        C=channels, ROWS=per_program, BLOCK=block, NORM=gain is not None, GATED=gated,
        RESIDUAL=residual is not None, OVERLAP=overlap, num_warps=8,
        **({"launch_pdl": True} if overlap else {}),
    )  # fmt: skip
    return out
    ### END SOLUTION


@triton.jit
def _attend_kernel(
    qkv, cos, sin, position, keys, values, out, scale, H, K, slots,
    G: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """One key-value head: rotate, write the cache, attend with the head's group of queries."""
    ### BEGIN SOLUTION
    head = tl.program_id(0)
    if OVERLAP:  # few programs: the rest of the GPU may load the next kernel's weights at once
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    p = tl.load(position)
    d = tl.arange(0, D)
    partner = (d + D // 2) % D
    sign = tl.where(d < D // 2, -1.0, 1.0)
    c = tl.load(cos + p * D + d).to(tl.float32)
    s = tl.load(sin + p * D + d).to(tl.float32) * sign
    g = tl.arange(0, GROUP)  # padded to what a matrix unit takes
    real = (g < G)[:, None]
    q_rows = qkv + (head * G + g)[:, None] * D
    q = tl.load(q_rows + d[None, :], mask=real, other=0.0).to(tl.float32) * c[None, :]
    q += tl.load(q_rows + partner[None, :], mask=real, other=0.0).to(tl.float32) * s[None, :]
    k_row = qkv + (H + head) * D
    k = tl.load(k_row + d).to(tl.float32) * c + tl.load(k_row + partner).to(tl.float32) * s
    v = tl.load(qkv + (H + K + head) * D + d)
    cache = head.to(tl.int64) * slots * D
    tl.store(keys + cache + p * D + d, k)
    tl.store(values + cache + p * D + d, v)
    # The new token's key and value are taken from registers: what was just stored is not visible
    # to the program's other threads yet.
    kind = keys.dtype.element_ty
    q = q.to(kind)
    k = k.to(kind).to(tl.float32)
    largest = tl.sum(q.to(tl.float32) * k[None, :], axis=1) * scale
    total = tl.full([GROUP], 1.0, tl.float32)
    sums = tl.zeros([GROUP, D], tl.float32) + v.to(tl.float32)[None, :]
    for start in range(0, p, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        earlier = slot < p
        place = cache + slot[:, None] * D + d[None, :]
        k_SD = tl.load(keys + place, mask=earlier[:, None], other=0.0)
        v_SD = tl.load(values + place, mask=earlier[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k_SD), input_precision="ieee") * scale
        scores = tl.where(earlier[None, :], scores, float("-inf"))
        grown = tl.maximum(largest, tl.max(scores, axis=1))
        shrink = tl.exp(largest - grown)
        weights = tl.exp(scores - grown[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        sums = sums * shrink[:, None]
        sums += tl.dot(weights.to(kind), v_SD, input_precision="ieee")
        largest = grown
    place = (head * G + g)[:, None] * D + d[None, :]
    tl.store(out + place, sums / total[:, None], mask=real)
    ### END SOLUTION


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
    ### BEGIN SOLUTION
    kv_heads, slots, head_dim = keys_KSD.shape
    heads = qkv.numel() // head_dim - 2 * kv_heads
    out = torch.empty(heads * head_dim, dtype=qkv.dtype, device=qkv.device)
    group = heads // kv_heads
    _attend_kernel[(kv_heads,)](
        qkv, cos_SD, sin_SD, position, keys_KSD, values_KSD, out, head_dim**-0.5, heads, kv_heads,
        slots, G=group, GROUP=max(16, triton.next_power_of_2(group)), D=head_dim, BLOCK=64,
        OVERLAP=overlap, num_warps=4, **({"launch_pdl": True} if overlap else {}),
    )  # fmt: skip
    return out
    ### END SOLUTION
