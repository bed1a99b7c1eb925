"""What the oracle measures by itself: this machine's limits, and the time of a submission's call.

Everything here runs in the oracle, with the oracle's clock: a submission can be slow or wrong, but
it cannot say how fast it was. All of it also runs on a CPU, where the figures mean little; that is
how the tests of the grader reach it.

Units: seconds, bytes, bytes/s, FLOP/s. A copy counts the bytes read and the bytes written.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from graders.oracle.checks import CheckFailed
from graders.oracle.proxy import BadAnswer, RemoteObject, StudentError
from graders.oracle.workers import WorkerLost
from graders.record import Figure

# Nothing that has to come through memory is faster than memory; beyond this a time is not believed.
# The margin is for the noise of two measurements.
ROOFLINE_MARGIN = 1.02
# What a submission can do wrong. Anything else is the grader's own fault, and is not remembered.
FAULTS = (CheckFailed, BadAnswer, StudentError, WorkerLost)
_CPU_BYTES = 64 * 2**20
_GPU_BYTES = 8 * 2**30
_DEFAULT_L2 = 64 * 2**20


def synchronize(device: str) -> None:
    """Wait until the oracle's own work on the device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@functools.cache
def device_facts(device: str) -> dict[str, Figure]:
    """Name, memory, versions: what a figure is worth nothing without."""
    facts: dict[str, Figure] = {"device": device, "torch": str(torch.__version__)}
    if not device.startswith("cuda"):
        return facts
    properties = torch.cuda.get_device_properties(device)
    facts |= {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": l2_bytes(device),
        "cuda": torch.version.cuda or "unknown",
        "driver": _driver(),
    }
    return facts


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return out.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def l2_bytes(device: str) -> int:
    """Size of the device's last cache; a generous guess where torch does not know it."""
    if not device.startswith("cuda"):
        return _DEFAULT_L2
    return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)) or _DEFAULT_L2


def device_times(
    call: Callable[[], object], device: str, *, samples: int = 10, warm_up: int = 3
) -> list[float]:
    """Seconds of ``call``, each taken on the device itself (CUDA events), after warm-up calls.

    For the oracle's own work only: an event in a submission's process can be forged.
    """
    for _ in range(warm_up):
        call()
    synchronize(device)
    times = []
    for _ in range(samples):
        if device.startswith("cuda"):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return times


@functools.cache
def copy_bandwidth(device: str) -> float:
    """Bytes/s, read plus written, of a large copy within the device's memory; measured once.

    The buffers are gigabytes, or a quarter of the free memory together: many times the cache.
    """
    size = _CPU_BYTES
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        size = min(_GPU_BYTES, free // 4) // 2
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = device_times(functools.partial(target.copy_, source), device)
    del source, target
    _release(device)
    return 2 * size / statistics.median(times)


@functools.cache
def matmul_rate(device: str, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of a large square matrix product on random data (zeros draw less power); once."""
    n = 8192 if device.startswith("cuda") else 256
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty(n, n, dtype=dtype, device=device)
    times = device_times(functools.partial(torch.mm, a, b, out=out), device)
    del a, b, out
    _release(device)
    return 2 * n**3 / statistics.median(times)


def _release(device: str) -> None:
    """Give freed memory back, so that the submission's process can have it."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


class Flush:
    """Overwrites several times the last cache: what a call finds there is not from the last call.

    ``with Flush(device) as flush: flush(); ...``. The buffer is freed at the end.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._buffer: torch.Tensor | None = torch.empty(
            4 * l2_bytes(device), dtype=torch.uint8, device=device
        )

    def __call__(self) -> None:
        """Overwrite, and wait until it is done."""
        assert self._buffer is not None, "the flush is over"
        self._buffer.zero_()
        synchronize(self._device)

    def __enter__(self) -> Flush:
        return self

    def __exit__(self, *_: object) -> None:
        self._buffer = None


def once(cache: dict[str, Any], name: str, make: Callable[[], Any]) -> Any:
    """The value of ``make`` for this run. A submission's failure is remembered like a value."""
    if name not in cache:
        try:
            cache[name] = make()
        except FAULTS as error:
            cache[name] = error
    if isinstance(cache[name], FAULTS):
        raise cache[name]
    return cache[name]


def timed(call: Callable[[], Any], device: str = "cpu") -> tuple[float, Any]:
    """(wall-clock seconds, value) of one call of the submission, seen from the oracle.

    The span starts before the request is sent and ends when the output's bytes are here. So the
    value must be data: an object that stayed in the submission's process may not have been
    computed yet.

    Raises:
        BadAnswer: the value is, or holds, such an object.
    """
    synchronize(device)  # the oracle's own pending work is not the submission's
    started = time.perf_counter()
    value = call()
    synchronize(device)
    elapsed = time.perf_counter() - started
    if _is_remote(value):
        raise BadAnswer("the timed call returned an object in place of its results")
    return elapsed, value


def _is_remote(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_remote, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_remote, value))
    return isinstance(value, RemoteObject)


@dataclass
class Measurement:
    """Times of one submission at one size, and what they are measured against.

    ``bytes_moved`` is the least a call has to read and write, ``flops`` the least it has to
    compute; either may be 0 when it does not count. ``reference_s`` are the times of a library's
    call that does the same, taken in turns with the submission's. ``facts`` go along untouched.
    """

    name: str
    samples_s: list[float] = field(default_factory=list)
    bytes_moved: float = 0.0
    flops: float = 0.0
    copy_bandwidth: float = 0.0
    matmul_rate: float = 0.0
    reference_s: list[float] = field(default_factory=list)
    facts: dict[str, Figure] = field(default_factory=dict)

    @property
    def median_s(self) -> float:
        """The time that counts."""
        return statistics.median(self.samples_s)

    @property
    def bandwidth(self) -> float:
        """Bytes/s of the median."""
        return self.bytes_moved / self.median_s

    @property
    def roofline_s(self) -> float:
        """No call can take less: its bytes at copy bandwidth, or its FLOPs at the matmul rate."""
        memory = self.bytes_moved / self.copy_bandwidth if self.copy_bandwidth else 0.0
        compute = self.flops / self.matmul_rate if self.matmul_rate else 0.0
        return max(memory, compute)

    @property
    def fraction(self) -> float:
        """Share of what the machine can do: 1 is the roofline."""
        return self.roofline_s / self.median_s

    @property
    def ratio(self) -> float:
        """How many times as fast as the reference; 0 when there is none."""
        return statistics.median(self.reference_s) / self.median_s if self.reference_s else 0.0

    def require_possible(self) -> None:
        """Refuse times that no honest call on this machine can have.

        Any single sample counts: a submission that cheats in some calls cheats.

        Raises:
            CheckFailed: a time is not positive, or beyond the roofline.
        """
        fastest = min(self.samples_s)
        if not fastest > 0 or self.roofline_s / fastest > ROOFLINE_MARGIN:
            raise CheckFailed(
                f"{self.name}: faster than this machine's memory and arithmetic allow, so the "
                "measurement is invalid",
                expected=f"at least {self.roofline_s:.4g} s a call",
                got=f"{fastest:.4g} s",
            )

    def figures(self) -> dict[str, Figure]:
        """Everything as JSON-able figures."""
        found: dict[str, Figure] = {
            "samples_s": list(self.samples_s),
            "median_s": self.median_s,
            "bytes_moved": float(self.bytes_moved),
            "flops": float(self.flops),
            "copy_bandwidth": self.copy_bandwidth,
            "matmul_rate": self.matmul_rate,
            "bandwidth": self.bandwidth,
            "fraction": self.fraction,
        }
        if self.reference_s:
            found |= {"reference_s": list(self.reference_s), "ratio": self.ratio}
        return found | self.facts
