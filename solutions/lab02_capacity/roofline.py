"""The roofline: a kernel takes the longer of its arithmetic and its memory traffic.

Source: Williams, Waterman and Patterson, "Roofline" (2009).
"""

from __future__ import annotations

from labs.common.hardware import Gpu
from labs.common.serving import Work


def peak_flops(gpu: Gpu, dtype: str) -> float:
    """Dense peak of ``gpu`` in ``dtype``, FLOP/s.

    Raises:
        ValueError: the GPU has no such dtype; the message names those it has.
    """
    ### BEGIN SOLUTION
    if dtype not in gpu.dense_flops:
        raise ValueError(
            f"{gpu.name} does not compute in {dtype}, but in {', '.join(gpu.dense_flops)}"
        )
    return gpu.dense_flops[dtype]
    ### END SOLUTION


def ridge_point(gpu: Gpu, dtype: str = "bf16") -> float:
    """The intensity, FLOP per byte, from which arithmetic is the limit and no longer memory.

    Raises:
        ValueError: the GPU does not compute in this dtype.
    """
    ### BEGIN SOLUTION
    return peak_flops(gpu, dtype) / gpu.memory_bandwidth
    ### END SOLUTION


def intensity(work: Work) -> float:
    """FLOP per byte of this work; infinite where no byte is moved."""
    ### BEGIN SOLUTION
    return work.flops / work.bytes if work.bytes else float("inf")
    ### END SOLUTION


def attainable_flops(gpu: Gpu, flops_per_byte: float, dtype: str = "bf16") -> float:
    """The most FLOP/s that work of this intensity can reach: the height of the roof.

    Raises:
        ValueError: the GPU does not compute in this dtype.
    """
    ### BEGIN SOLUTION
    return min(peak_flops(gpu, dtype), flops_per_byte * gpu.memory_bandwidth)
    ### END SOLUTION


def step_time(work: Work, gpu: Gpu, dtype: str = "bf16") -> float:
    """Seconds that this work takes at least: memory and arithmetic overlap, the longer one counts.

    Raises:
        ValueError: the GPU does not compute in this dtype.
    """
    ### BEGIN SOLUTION
    return max(work.flops / peak_flops(gpu, dtype), work.bytes / gpu.memory_bandwidth)
    ### END SOLUTION


def bound(work: Work, gpu: Gpu, dtype: str = "bf16") -> str:
    """``"memory"`` if this work's intensity is below the ridge point, else ``"compute"``.

    Raises:
        ValueError: the GPU does not compute in this dtype.
    """
    ### BEGIN SOLUTION
    return "memory" if intensity(work) < ridge_point(gpu, dtype) else "compute"
    ### END SOLUTION
