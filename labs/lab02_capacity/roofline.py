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
    raise NotImplementedError("peak_flops: your code here")


def ridge_point(gpu: Gpu, dtype: str = "bf16") -> float:
    """The intensity, FLOP per byte, from which arithmetic is the limit and no longer memory.

    Raises:
        ValueError: the GPU does not compute in this dtype.
    """
    raise NotImplementedError("ridge_point: your code here")


def intensity(work: Work) -> float:
    """FLOP per byte of this work; infinite where no byte is moved."""
    raise NotImplementedError("intensity: your code here")


def attainable_flops(gpu: Gpu, flops_per_byte: float, dtype: str = "bf16") -> float:
    """The most FLOP/s that work of this intensity can reach: the height of the roof.

    Raises:
        ValueError: the GPU does not compute in this dtype.
    """
    raise NotImplementedError("attainable_flops: your code here")


def step_time(work: Work, gpu: Gpu, dtype: str = "bf16") -> float:
    """Seconds that this work takes at least: memory and arithmetic overlap, the longer one counts.

    Raises:
        ValueError: the GPU does not compute in this dtype.
    """
    raise NotImplementedError("step_time: your code here")


def bound(work: Work, gpu: Gpu, dtype: str = "bf16") -> str:
    """``"memory"`` if this work's intensity is below the ridge point, else ``"compute"``.

    Raises:
        ValueError: the GPU does not compute in this dtype.
    """
    raise NotImplementedError("bound: your code here")
