"""Lab 03's GPU tier: a product with packed four-bit weights, whether it is right and how fast.

One product of this size takes some ten microseconds, less than a request to the submission's
process does. So a timed call makes many: a fresh input times every matrix of a stack that is many
times larger than any cache. The results stay where they are; each of their rows comes back as its
dot product with a fresh vector, and each of these is checked against fp64. The codes are random, so
that no fewer bits than theirs can stand for them. What a request costs is in the time (on an H200
1 ms of the solution's 2.8), and the bands for points leave room for it.

Axes: B rows of the input, K input channels, N output channels, G groups along K, L matrices.
"""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from graders.hidden.graphs import graphed
from graders.oracle import gpu
from graders.oracle.checks import Check, CheckFailed
from graders.oracle.proxy import Student

TERA = 1e12
# Errors relative to the norm of a number's terms. A right kernel in bf16 has a typical one of
# 0.0023: weights and results are rounded to 8 bits. An input rounded to int8 makes it 0.010.
WORST_ERROR = 0.02
TYPICAL_ERROR = 0.004


@dataclass(frozen=True)
class Workload:
    """The stack and the calls. A matrix has the shape of Llama-3.1-8B's ``down_proj``."""

    rows: int = 4096
    columns: int = 14336
    group_size: int = 128
    matrices: int = 208  # 6.4 GB of weights; fewer where memory is short
    dtype: torch.dtype = torch.bfloat16
    calls: int = 7  # timed, after one that is not
    library_matrices: int = 12  # in bf16: 1.4 GB, many times any cache

    @property
    def matrix_bytes(self) -> int:
        """Codes, bf16 scales and eight-bit zeros of one matrix."""
        return self.rows * (self.columns // 2 + 3 * (self.columns // self.group_size))

    def bytes_moved(self, batch: int, matrices: int) -> int:
        """The least that a timed call moves: all weights, the input once, every result once."""
        results = matrices * batch * self.rows
        return matrices * self.matrix_bytes + (batch * self.columns + results) * self.dtype.itemsize

    def fitting(self, device: str) -> int:
        """How many matrices there is room for: the oracle and the submission hold them all."""
        if not device.startswith("cuda"):
            return self.matrices
        free, _ = torch.cuda.mem_get_info(device)
        return max(8, min(self.matrices, free // (5 * self.matrix_bytes)))


WORKLOAD = Workload()  # what is graded

Layer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # packed, scales, zeros


def random_layer(
    rows: int, columns: int, group_size: int, generator: torch.Generator,
    dtype: torch.dtype = torch.bfloat16,
) -> Layer:  # fmt: skip
    """Packed codes, scales and zeros that no formula gives, on the generator's device."""
    where: dict[str, Any] = {"generator": generator, "device": generator.device}
    packed = torch.randint(256, (rows, columns // 2), dtype=torch.uint8, **where)
    shape = (rows, columns // group_size)
    scales = (torch.rand(shape, **where) + 0.25) * 0.01
    zeros = torch.randint(16, shape, dtype=torch.uint8, **where)
    return packed, scales.to(dtype), zeros


def exact_weights(layer: Layer, group_size: int) -> torch.Tensor:
    """fp64 ``[N, K]``: (code - zero) * scale, column 2j from the low four bits of byte j."""
    packed, scales, zeros = layer
    codes = torch.empty(len(packed), 2 * packed.shape[1], dtype=torch.float64, device=packed.device)
    codes[:, 0::2] = (packed % 16).double()
    codes[:, 1::2] = (packed // 16).double()
    spread = [part.double().repeat_interleave(group_size, dim=1) for part in (zeros, scales)]
    return (codes - spread[0]) * spread[1]


def products(x_BK: torch.Tensor, weights_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """fp64 ``(x @ W.T, norm of its terms)``, each ``[B, N]``."""
    x = x_BK.double()
    return x @ weights_NK.T, ((x**2) @ (weights_NK**2).T).sqrt()


def check_products(check: Check, got: Any, x_BK: torch.Tensor, layer: Layer, group: int) -> None:
    """``got`` is ``x @ W.T``, within what the docstring of `matmul_int4` allows."""
    exact, norm = products(x_BK, exact_weights(layer, group).to(x_BK.device))
    rows, columns = len(layer[0]), 2 * layer[0].shape[1]
    given = {
        "x": f"{str(x_BK.dtype).removeprefix('torch.')}{list(x_BK.shape)}",
        "weights": f"[{rows}, {columns}] in groups of {group}",
    }
    got = check.tensor(got, shape=exact.shape, dtype=x_BK.dtype, given=given)
    loose = 1e-3 if x_BK.dtype is torch.float32 else 4 * torch.finfo(x_BK.dtype).eps
    excess = (got.double() - exact.cpu()).abs() - loose * (norm + exact.abs()).cpu()
    if float(excess.max()) > 0:
        place = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
        raise CheckFailed(
            f"{int((excess > 0).sum())} of {excess.numel()} numbers differ; the worst at "
            f"{list(place)}",
            given,
            expected=f"{float(exact[place]):.6g}",
            got=f"{float(got[place]):.6g}",
        )


def check_probed(got_LB: torch.Tensor, exact_LB: torch.Tensor, norm_LB: torch.Tensor) -> None:
    """The results' dot products with the probe are right: each of them, and all on the whole.

    Raises:
        CheckFailed: one is too far off, or they are less exact than bf16 explains.
    """
    error = (got_LB.double() - exact_LB).abs() / norm_LB
    if float(error.max()) > WORST_ERROR:
        wrong = (error > WORST_ERROR).nonzero()
        raise CheckFailed(
            f"{len(wrong)} of {error.numel()} rows are wrong, the first of matrix "
            f"{int(wrong[0, 0])}, row {int(wrong[0, 1])} of the input",
            expected=f"an error of at most {WORST_ERROR:g} of the norm of the terms",
            got=f"up to {float(error.max()):.3g}",
        )
    typical = float(error.square().mean().sqrt())
    allowed = TYPICAL_ERROR * (1 + 2 * error.numel() ** -0.5)  # few numbers have luck, good or bad
    if typical > allowed:
        raise CheckFailed(
            "the results are less exact than rounding to bf16 explains",
            expected=f"a typical error of at most {allowed:.2g} of the norm of the terms",
            got=f"{typical:.3g}",
        )


class Library:
    """The same product by a library, on weights of its own: what a submission is compared with."""

    def __init__(self, work: Workload, batch: int, device: str) -> None:
        """bf16 weights and F.linear, which calls cuBLAS."""
        self._device, self._count = device, work.library_matrices
        x = torch.randn(batch, work.columns, device=device).to(work.dtype)
        weights = [
            torch.randn(work.rows, work.columns, device=device).to(work.dtype)
            for _ in range(self._count)
        ]
        self._pass = graphed(lambda: [F.linear(x, w) for w in weights], device)

    def product_s(self) -> float:
        """Seconds of one product, launches not counted, on the device's own clock."""
        (seconds,) = gpu.device_times(self._pass, self._device, samples=1, warm_up=1)
        return seconds / self._count


def bitsandbytes_s(work: Workload, batch: int, device: str) -> float | None:
    """Seconds of one product by bitsandbytes' NF4 kernels; None where they do not run."""
    if not device.startswith("cuda"):
        return None
    try:
        import bitsandbytes.functional as bnb
        from bitsandbytes import matmul_4bit

        x = torch.randn(batch, work.columns, device=device).to(work.dtype)
        made = []
        for _ in range(work.library_matrices):
            w = torch.randn(work.rows, work.columns, device=device).to(work.dtype)
            made.append(bnb.quantize_4bit(w, blocksize=64, quant_type="nf4"))
        with torch.inference_mode():
            once = graphed(
                lambda: [matmul_4bit(x, w.t(), quant_state=state) for w, state in made], device
            )
            times = gpu.device_times(once, device)
    except Exception:  # not installed, or built for another CUDA: it is a remark, no condition
        return None
    return statistics.median(times) / work.library_matrices


def measure(
    student: Student,
    work: Workload,
    batch: int,
    device: str,
    *,
    copy_bandwidth: float | None = None,
) -> gpu.Measurement:
    """Time the submission's stack, in turns with cuBLAS in bf16; check every result.

    ``copy_bandwidth`` is measured when left out.

    Raises:
        CheckFailed, BadAnswer, StudentError, WorkerLost: what the submission did wrong; also for
            times beyond the roofline.
    """
    seed = secrets.randbits(48)  # nobody can have the answers ready
    generator = torch.Generator(device=device).manual_seed(seed)
    copy = copy_bandwidth or gpu.copy_bandwidth(device)
    library = Library(work, batch, device)
    matrices = work.fitting(device)
    stack = student.int4_kernel.Stack(work.group_size)
    layers = []
    for _ in range(matrices):
        layers.append(random_layer(work.rows, work.columns, work.group_size, generator))
        stack.add(*(part.cpu() for part in layers[-1]))
    result = gpu.Measurement(
        f"batch {batch}", bytes_moved=work.bytes_moved(batch, matrices), copy_bandwidth=copy
    )
    check, run, asked, answers = Check(device), stack.run, [], []
    for number in range(work.calls + 1):
        # Call 0 warms up, and nothing tells the submission so.
        x = torch.randn(batch, work.columns, generator=generator, device=device).to(work.dtype)
        probe = torch.randn(work.rows, generator=generator, device=device)
        given = x.cpu(), probe.cpu()
        with gpu.Flush(device) as flush:
            flush()
        seconds, got = gpu.timed(lambda given=given: run(*given), device)  # type: ignore[misc]
        answers.append(check.tensor(got, shape=(matrices, batch), dtype=torch.float32))
        asked.append((x, probe))
        # As many products as a call makes; the library's call has no request around it.
        library_s = library.product_s() * matrices
        if number:
            result.samples_s.append(seconds)
            result.reference_s.append(library_s)
    del library
    for got, exact, norm in expected(layers, asked, answers, work.group_size):
        check_probed(got, exact, norm)
    result.facts = {
        **gpu.device_facts(device),
        "seed": seed,
        "batch": batch,
        "matrices": matrices,
        "rows": work.rows,
        "columns": work.columns,
        "group_size": work.group_size,
    }
    if nf4 := bitsandbytes_s(work, batch, device):
        result.facts["bitsandbytes_s"] = nf4 * matrices
    result.require_possible()
    return result


def expected(
    layers: list[Layer],
    asked: list[tuple[torch.Tensor, torch.Tensor]],
    answers: list[torch.Tensor],
    group_size: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each call: what came back, what it had to be, and the norm of its terms, ``[L, B]``."""
    x_CBK = torch.stack([x for x, _ in asked])
    probe_CN = torch.stack([probe for _, probe in asked]).double()
    exact, norm = [], []
    for layer in layers:  # each is unpacked once for all calls
        y, terms = products(x_CBK.flatten(0, 1), exact_weights(layer, group_size))
        y, terms = (part.unflatten(0, x_CBK.shape[:2]) for part in (y, terms))
        exact.append(torch.einsum("cbn,cn->cb", y, probe_CN))
        norm.append(torch.einsum("cbn,cn->cb", terms**2, probe_CN**2).sqrt())
    exact_CLB, norm_CLB = (torch.stack(part, dim=1).cpu() for part in (exact, norm))
    yield from zip(answers, exact_CLB, norm_CLB, strict=True)


def line(found: gpu.Measurement) -> str:
    """The measurement for the report."""
    nf4 = found.facts.get("bitsandbytes_s")
    beside = (
        f", {float(nf4) / found.median_s:.2f} times as fast as bitsandbytes' NF4"
        if isinstance(nf4, float)
        else ""
    )
    each = found.median_s / float(found.facts["matrices"])  # type: ignore[arg-type]
    return (
        f"{found.name}: {found.fraction:.2f} of copy bandwidth "
        f"({found.bandwidth / TERA:.2f} of {found.copy_bandwidth / TERA:.2f} TB/s, "
        f"{each * 1e6:.1f} us a product), "
        f"{found.ratio:.2f} times as fast as cuBLAS in bf16{beside}"
    )
