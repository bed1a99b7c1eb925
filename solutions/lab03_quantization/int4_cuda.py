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
    ### BEGIN SOLUTION
    parts = x_BK.view(len(x_BK), -1, 4, 4, 2, 4)  # B, 128 columns, t, j, half, place in it
    sums = x_BK.float().view(len(x_BK), -1, COLUMNS).sum(dim=2)
    return parts.permute(1, 3, 0, 2, 5, 4).contiguous(), sums.T.contiguous()
    ### END SOLUTION


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
    ### BEGIN SOLUTION
    x, sums = ready
    (batch, rows), groups = out_BN.shape, scales_NG.shape[1]
    columns = 2 * packed.shape[1]
    if packed.data_ptr() % 16:
        packed = packed.clone()  # a view from the middle of something: loads are of 16 bytes
    warps, high, stages = tile or _tile(rows, packed.device)
    launch = _compiled(
        out_BN.dtype, scales_NG.dtype, (batch + 7) // 8, batch == 1, warps, high, stages
    )
    launch(
        grid=(-(-rows // (16 * high)), 1, 1),
        block=(32 * warps, 1, 1),
        args=[
            packed, scales_NG, zeros_NG, x, sums, out_BN,
            rows, columns, groups, columns // groups // COLUMNS, batch,
        ],
    )  # fmt: skip


def _tile(rows: int, device: torch.device) -> tuple[int, int, int]:
    """Few rows make few blocks: then more warps share the columns of each. Measured on an H200."""
    many = rows >= 32 * 8 * torch.cuda.get_device_properties(device).multi_processor_count
    return (4, 2, 4) if many else (8, 1, 4)


@functools.cache
def _compiled(
    dtype: torch.dtype, scale: torch.dtype, eights: int, one: bool, warps: int, high: int,
    stages: int,
) -> Callable[..., Any]:  # fmt: skip
    """The kernel for these sizes; compiling takes about a second, once."""
    kind, bits, value = LIFTS[dtype]
    scale_type, to_float = SCALES[scale]
    defines = {
        "KIND": f'"{kind}"', "LIFT": f"{bits * 0x10001:#x}u", "OFFSET": f"{value}.f",
        "SCALE": scale_type, "TO_FLOAT": to_float, "EIGHTS": eights, "ONE": int(one),
        "WARPS": warps, "HIGH": high, "STAGES": stages,
    }  # fmt: skip
    head = "".join(f"#define {name} {value}\n" for name, value in defines.items())
    return torch.cuda._compile_kernel(head + _source(), "matmul_int4")


def _source() -> str:
    """The kernel, in CUDA C++. The rows of a 16 x 16 tile are a lane's g and g + 8, as mma asks."""
    return r"""
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

__device__ __forceinline__ float to_float(SCALE s) { float f; TO_FLOAT; return f; }

// Two codes of a word, four bits apart by 16, as two floats.
__device__ __forceinline__ u32 lift(u32 w, int by) { return ((w >> by) & 0x000f000fu) | LIFT; }

__device__ __forceinline__ void fetch(uint4* to, const uint4* from) {
    const u32 at = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" :: "r"(at), "l"(from));
}

__device__ __forceinline__ void mma(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." KIND "." KIND ".f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A block takes HIGH x 16 rows; its warps share the columns and add up at the end.
extern "C" __global__ void __launch_bounds__(32 * WARPS) matmul_int4(
    const uint4* __restrict__ packed, const SCALE* __restrict__ scales,
    const u8* __restrict__ zeros, const uint4* __restrict__ x, const float* __restrict__ sums,
    u16* __restrict__ out, int N, int K, int G, int steps_a_group, int B) {
    __shared__ uint4 ring[WARPS][STAGES][2 * HIGH][32];
    __shared__ float share[WARPS][16 * HIGH][8 * EIGHTS + 1];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first = blockIdx.x * 16 * HIGH, steps = K / 128;
    const int each = ((steps + WARPS - 1) / WARPS + 3) / 4 * 4;
    const int begin = min(warp * each, steps), end = min(begin + each, steps);
    const uint4* weights[2 * HIGH];
    size_t groups[2 * HIGH];
    float total[HIGH][EIGHTS][4] = {}, scale[2 * HIGH], zero[2 * HIGH], scale_next[2 * HIGH],
        zero_next[2 * HIGH];
    uint4 v[EIGHTS][4] = {};  // rows of x that are not there stay 0

#pragma unroll
    for (int m = 0; m < 2 * HIGH; m++) {
        const size_t row = min(first + m * 8 + g, N - 1);
        weights[m] = packed + row * (K / 32) + begin * 4 + t;
        groups[m] = row * G;
    }
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (begin + s < end)
#pragma unroll
            for (int m = 0; m < 2 * HIGH; m++) {
                fetch(&ring[warp][s][m][lane], weights[m]);
                weights[m] += 4;
            }
        asm volatile("cp.async.commit_group;");
    }
    // Lane t of a row looks up the scale of step t of four; they exchange what they found.
    const int group = min(begin + t, steps - 1) / steps_a_group;
#pragma unroll
    for (int m = 0; m < 2 * HIGH; m++) {
        scale_next[m] = to_float(scales[groups[m] + group]);
        zero_next[m] = (float)zeros[groups[m] + group] + OFFSET;
    }

    int slot = 0;
    const uint4* px = x + ((size_t)begin * 4 * B + g) * 4 + t;
    for (int base = begin; base < end; base += 4) {
        const int next = min(base + 4 + t, steps - 1) / steps_a_group;
#pragma unroll
        for (int m = 0; m < 2 * HIGH; m++) {
            scale[m] = scale_next[m];
            zero[m] = zero_next[m];
            scale_next[m] = to_float(scales[groups[m] + next]);
            zero_next[m] = (float)zeros[groups[m] + next] + OFFSET;
        }
#pragma unroll
        for (int d = 0; d < 4; d++) {
            const int step = base + d;
            if (step >= end) break;
#pragma unroll
            for (int n = 0; n < EIGHTS; n++)
                if (n * 8 + g < B)
#pragma unroll
                    for (int j = 0; j < 4; j++) v[n][j] = px[(j * B + n * 8) * 4];
            px += 16 * B;
            asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
            uint4 now[2 * HIGH];
#pragma unroll
            for (int m = 0; m < 2 * HIGH; m++) now[m] = ring[warp][slot][m][lane];
            if (step + STAGES - 1 < end)
#pragma unroll
                for (int m = 0; m < 2 * HIGH; m++) {
                    fetch(&ring[warp][(slot + STAGES - 1) % STAGES][m][lane], weights[m]);
                    weights[m] += 4;
                }
            asm volatile("cp.async.commit_group;");
            slot = (slot + 1) % STAGES;
#pragma unroll
            for (int m = 0; m < HIGH; m++) {
                const int from = (lane & ~3) + d;
                const float s0 = __shfl_sync(~0u, scale[2 * m], from);
                const float s1 = __shfl_sync(~0u, scale[2 * m + 1], from);
                const float z0 = __shfl_sync(~0u, zero[2 * m], from);
                const float z1 = __shfl_sync(~0u, zero[2 * m + 1], from);
                const u32 upper[4] = {now[2 * m].x, now[2 * m].y, now[2 * m].z, now[2 * m].w};
                const u32 lower[4] = {now[2 * m + 1].x, now[2 * m + 1].y, now[2 * m + 1].z,
                                      now[2 * m + 1].w};
                float acc[EIGHTS][4] = {};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const u32 p = upper[j], q = lower[j];
#pragma unroll
                    for (int n = 0; n < EIGHTS; n++) {
                        mma(acc[n], lift(p, 0), lift(q, 0), lift(p, 4), lift(q, 4), v[n][j].x,
                            v[n][j].y);
                        mma(acc[n], lift(p, 8), lift(q, 8), lift(p, 12), lift(q, 12), v[n][j].z,
                            v[n][j].w);
                    }
                }
#pragma unroll
                for (int n = 0; n < EIGHTS; n++) {
                    const int column = n * 8 + 2 * t;
                    const float u0 = column < B ? sums[step * B + column] : 0.f;
                    total[m][n][0] += s0 * (acc[n][0] - z0 * u0);
                    total[m][n][2] += s1 * (acc[n][2] - z1 * u0);
#if !ONE
                    const float u1 = column + 1 < B ? sums[step * B + column + 1] : 0.f;
                    total[m][n][1] += s0 * (acc[n][1] - z0 * u1);
                    total[m][n][3] += s1 * (acc[n][3] - z1 * u1);
#endif
                }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < HIGH; m++)
#pragma unroll
        for (int n = 0; n < EIGHTS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                share[warp][m * 16 + g + i / 2 * 8][n * 8 + 2 * t + i % 2] = total[m][n][i];
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * HIGH * 8 * EIGHTS; i += 32 * WARPS) {
        const int row = i % (16 * HIGH), n = i / (16 * HIGH);
        if (n < B && first + row < N) {
            float sum = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += share[w][row][n];
            u16 rounded;
            asm("cvt.rn." KIND ".f32 %0, %1;" : "=h"(rounded) : "f"(sum));
            out[(size_t)n * N + first + row] = rounded;
        }
    }
}
"""
    ### END SOLUTION
