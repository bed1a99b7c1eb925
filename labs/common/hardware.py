"""GPUs: memory, bandwidth, dense peaks, interconnect. Datasheet rates are limits, never reached.

Peaks are dense: datasheets of Ampere and later print twice as much "with sparsity".

Memory has two figures. The name says 80 GB; the driver reports 81,559 MiB, which is 85.5 GB:
vendors count HBM in powers of two and write GB, and error correction or firmware keep a part.
What a program can have is `memory_bytes`, the total that nvidia-smi shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .units import GB, MIB, TB

TFLOPS = 1e12


@dataclass(frozen=True)
class Gpu:
    """One GPU. Bytes, bytes/s, FLOP/s (int8: OP/s).

    Attributes:
        marketed_gb: the number in the product's name.
        memory_bytes: what the driver reports as the card's total memory.
        memory_bandwidth: peak, both directions together.
        interconnect_bandwidth: peak to other GPUs, both directions together.
        dense_flops: peak by dtype, without sparsity.
    """

    name: str
    key: str
    marketed_gb: int
    memory_bytes: int
    memory_bandwidth: float
    interconnect: str
    interconnect_bandwidth: float
    source: str
    date: str
    dense_flops: dict[str, float] = field(default_factory=dict)


def _gpu(
    key: str,
    name: str,
    memory: tuple[int, int],  # GB by name, MiB by driver
    bandwidth_tb: float,
    link: tuple[str, float],  # name, GB/s
    source: str,
    **peaks_tflops: float,
) -> Gpu:
    return Gpu(
        name=name,
        key=key,
        marketed_gb=memory[0],
        memory_bytes=memory[1] * MIB,
        memory_bandwidth=bandwidth_tb * TB,
        interconnect=link[0],
        interconnect_bandwidth=link[1] * GB,
        source=f"{source}; memory as nvidia-smi reports it",
        date="2026-11",
        dense_flops={dtype: peak * TFLOPS for dtype, peak in peaks_tflops.items()},
    )


_AMPERE = "NVIDIA A100 Tensor Core GPU datasheet"
_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet"
_PCIE3, _PCIE4, _PCIE5 = ("PCIe 3 x16", 32), ("PCIe 4 x16", 64), ("PCIe 5 x16", 128)

GPUS: dict[str, Gpu] = {
    gpu.key: gpu
    for gpu in (
        _gpu("a100-40", "A100 SXM 40 GB", (40, 40960), 1.555, ("NVLink 3", 600), _AMPERE,
             fp32=19.5, tf32=156, bf16=312, fp16=312, int8=624),
        _gpu("a100-80", "A100 SXM 80 GB", (80, 81920), 2.039, ("NVLink 3", 600), _AMPERE,
             fp32=19.5, tf32=156, bf16=312, fp16=312, int8=624),
        _gpu("h100-sxm", "H100 SXM 80 GB", (80, 81559), 3.35, ("NVLink 4", 900), _HOPPER,
             fp32=67, tf32=494.7, bf16=989.4, fp16=989.4, fp8=1978.9, int8=1978.9),
        _gpu("h100-pcie", "H100 PCIe 80 GB", (80, 81559), 2.0, _PCIE5, _HOPPER,
             fp32=51, tf32=378, bf16=756, fp16=756, fp8=1513, int8=1513),
        _gpu("h200", "H200 SXM 141 GB", (141, 143771), 4.8, ("NVLink 4", 900),
             "NVIDIA H200 Tensor Core GPU datasheet",
             fp32=67, tf32=494.7, bf16=989.4, fp16=989.4, fp8=1978.9, int8=1978.9),
        _gpu("b200", "B200 180 GB", (180, 183359), 8.0, ("NVLink 5", 1800),
             "NVIDIA DGX B200 datasheet, per GPU",
             fp32=75, tf32=1125, bf16=2250, fp16=2250, fp8=4500, int8=4500, fp4=9000),
        _gpu("l4", "L4 24 GB", (24, 23034), 0.3, _PCIE4, "NVIDIA L4 Tensor Core GPU datasheet",
             fp32=30.3, tf32=60, bf16=121, fp16=121, fp8=242.5, int8=242.5),
        _gpu("l40s", "L40S 48 GB", (48, 46068), 0.864, _PCIE4, "NVIDIA L40S datasheet",
             fp32=91.6, tf32=183, bf16=362, fp16=362, fp8=733, int8=733),
        _gpu("t4", "T4 16 GB", (16, 15360), 0.32, _PCIE3, "NVIDIA T4 datasheet",
             fp32=8.1, fp16=65, int8=130),
        _gpu("a10g", "A10G 24 GB", (24, 23028), 0.6, _PCIE4, "NVIDIA A10G datasheet (AWS G5)",
             fp32=31.2, tf32=35, bf16=70, fp16=70, int8=140),
        _gpu("rtx4090", "RTX 4090 24 GB", (24, 24564), 1.008, _PCIE4,
             "NVIDIA Ada GPU architecture whitepaper",
             fp32=82.6, tf32=82.6, bf16=165.2, fp16=165.2, fp8=330.3, int8=660.6),
    )
}  # fmt: skip


def gpu(key: str) -> Gpu:
    """The GPU called ``key``. Raises KeyError naming the known keys."""
    try:
        return GPUS[key]
    except KeyError:
        raise KeyError(f"no GPU {key!r}; known are {', '.join(GPUS)}") from None
