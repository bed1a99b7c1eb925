"""The roofline: a kernel takes the longer of its arithmetic and its memory traffic.

Source: Williams, Waterman and Patterson, "Roofline" (2009).
"""

from __future__ import annotations

from labs.common.hardware import Gpu
from labs.common.serving import Work


def peak_flops(gpu: Gpu, dtype: str) -> float:
    """Dense peak of ``gpu`` in ``dtype``, FLOP/s."""
    if dtype not in gpu.dense_flops:
        raise ValueError(f"{gpu.name} has no {dtype}; it has {', '.join(gpu.dense_flops)}")
    return gpu.dense_flops[dtype]


def ridge_point(gpu: Gpu, dtype: str = "bf16") -> float:
    """The intensity, FLOP per byte, from which arithmetic is the limit and no longer memory."""
    return peak_flops(gpu, dtype) / gpu.memory_bandwidth


def intensity(work: Work) -> float:
    """FLOP per byte of this work; infinite where no byte is moved."""
    return work.flops / work.bytes if work.bytes else float("inf")


def attainable_flops(gpu: Gpu, flops_per_byte: float, dtype: str = "bf16") -> float:
    """The most FLOP/s that work of this intensity can reach: the height of the roof."""
    return min(peak_flops(gpu, dtype), flops_per_byte * gpu.memory_bandwidth)


def step_time(work: Work, gpu: Gpu, dtype: str = "bf16") -> float:
    """Seconds that this work takes at least."""
    return max(work.flops / peak_flops(gpu, dtype), work.bytes / gpu.memory_bandwidth)


def bound(work: Work, gpu: Gpu, dtype: str = "bf16") -> str:
    """``"memory"`` if this work's intensity is below the ridge point, else ``"compute"``."""
    return "memory" if intensity(work) < ridge_point(gpu, dtype) else "compute"
