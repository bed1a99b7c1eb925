"""Lab 03's GPU tier, tried on the CPU with small matrices: real workers, real references.

Times mean nothing here, so none is asserted but those that a test made itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from graders.lab03 import int4
from graders.oracle import gpu
from graders.oracle.checks import CheckFailed
from graders.oracle.grade import ROOT, Grader, Options
from graders.oracle.proxy import BadAnswer, StudentError
from tests.grader.wrapped import with_wrapped

WORK = int4.Workload(
    rows=96, columns=256, group_size=64, matrices=5, calls=3, library_matrices=2,
    dtype=torch.bfloat16,
)  # fmt: skip
SUBMISSION = ROOT / "solutions" / "lab03_quantization"
# A stack around the solution's, for what a submission may try.
WRAPPED = """
import time
import torch
from .solved import *
from .solved import Stack as Solved

class Stack(Solved):
    def add(self, packed, scales, zeros):
        {add}
    def run(self, x, probe):
        {run}
"""
HONEST = {"add": "super().add(packed, scales, zeros)", "run": "return super().run(x, probe)"}


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader("lab03", Options(device="cpu")) as made:
        yield made


@pytest.fixture
def measure(grader: Grader, tmp_path: Path) -> Callable[..., gpu.Measurement]:
    """Measure the solution with ``add`` and ``run`` replaced, in a worker of its own."""

    def run(batch: int = 3, copy_bandwidth: float | None = None, **bodies: str) -> gpu.Measurement:
        return with_wrapped(
            grader,
            "int4_kernel.py",
            WRAPPED.format(**{**HONEST, **bodies}) if bodies else None,
            tmp_path / "overlay",
            lambda student: int4.measure(
                student, WORK, batch, "cpu", copy_bandwidth=copy_bandwidth
            ),
        )

    return run


@pytest.mark.parametrize("batch", [1, 16])
def test_the_solution_is_measured(measure: Callable[..., gpu.Measurement], batch: int) -> None:
    found = measure(batch)
    assert len(found.samples_s) == len(found.reference_s) == WORK.calls
    assert 0 < found.fraction < 1 and found.ratio > 0
    figures = found.figures()
    assert json.loads(msgspec.json.encode(figures)) == figures
    assert f"batch {batch}: " in int4.line(found)


@pytest.mark.parametrize(
    "bodies",
    [
        {"run": "return super().run(x, probe) * 1.05"},
        {"run": "return torch.zeros(len(self._layers), len(x))"},
        # one row of one matrix's weights is taken for zeros
        {"add": "scales = scales.clone(); scales[7] = 0; super().add(packed, scales, zeros)"},
        # a group is left out
        {"add": "scales = scales.clone(); scales[:, 2] = 0; super().add(packed, scales, zeros)"},
        # the last matrix is not multiplied, but guessed to be like the one before
        {"run": "out = super().run(x, probe); out[-1] = out[-2]; return out"},
        # an input of eight bits: half the arithmetic
        {"run": "s = x.abs().max() / 127; return super().run((x / s).round() * s, probe)"},
        {"run": "s = x.abs().amax(); return super().run((x.float() / s).half().to("
                "torch.float8_e4m3fn).to(x.dtype) * s, probe)"},
        # the results of the call before, of the first call, for the first probe
        {"run": "now = super().run(x, probe); old = getattr(self, 'old', now); self.old = now; "
                "return old"},
        {"run": "self.x = getattr(self, 'x', x); return super().run(self.x, probe)"},
        {"run": "self.p = getattr(self, 'p', probe); return super().run(x, self.p)"},
        {"run": "return super().run(x, probe)[:, :-1]"},
        {"run": "return super().run(x, probe).double()"},
        {"run": "return super().run(x, probe) * float('nan')"},
    ],
    ids=[
        "scaled", "zeros", "a row", "a group", "a matrix", "int8 input", "fp8 input", "stale",
        "replayed", "first probe", "short", "double", "nan",
    ],
)  # fmt: skip
def test_wrong_products_are_refused(
    measure: Callable[..., gpu.Measurement], bodies: dict[str, str]
) -> None:
    with pytest.raises(CheckFailed):
        measure(**bodies)


def test_promises_are_no_results(measure: Callable[..., gpu.Measurement]) -> None:
    with pytest.raises(BadAnswer, match="object in place of its results"):
        measure(run="return iter(super().run(x, probe))")


def test_stubs_are_not_measured(measure: Callable[..., gpu.Measurement]) -> None:
    with pytest.raises(StudentError) as error:
        measure(run="raise NotImplementedError")
    assert "NotImplementedError" in error.value.types


def test_times_beyond_the_roofline_are_refused(measure: Callable[..., gpu.Measurement]) -> None:
    with pytest.raises(CheckFailed, match="measurement is invalid"):
        measure(copy_bandwidth=1.0)  # with a memory this slow, any time is too fast


def test_the_submission_cannot_turn_the_clock(measure: Callable[..., gpu.Measurement]) -> None:
    lie = "time.perf_counter = time.monotonic = time.time = lambda: 0.0; "
    found = measure(run=f"{lie}time.sleep(0.2); return super().run(x, probe)")
    assert min(found.samples_s) >= 0.2, "the span is the oracle's"


@pytest.mark.parametrize("batch", [1, 16])
def test_rounding_is_forgiven(batch: int) -> None:
    """Weights and results rounded to bf16, as most kernels do: far inside what is allowed."""
    generator = torch.Generator().manual_seed(batch)
    layers = [int4.random_layer(512, 2048, 128, generator) for _ in range(3)]
    x = torch.randn(batch, 2048, generator=generator).bfloat16()
    probe = torch.randn(512, generator=generator)
    rounded = [int4.exact_weights(layer, 128).bfloat16().float() for layer in layers]
    made = torch.stack([(x.float() @ w.T).bfloat16().float() @ probe for w in rounded])
    ((got, exact, norm),) = int4.expected(layers, [(x, probe)], [made], 128)
    int4.check_probed(got, exact, norm)
    error = (got.double() - exact).abs() / norm
    assert error.max() < int4.WORST_ERROR / 2 and error.mean() < int4.TYPICAL_ERROR


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab's own GPU tier, run where there is no GPU, with small matrices."""
    monkeypatch.setattr("graders.oracle.grade._gpu_device", lambda _: "cpu")
    monkeypatch.setattr(int4, "WORKLOAD", WORK)


def test_the_tier_through_the_grader(grader: Grader, on_cpu: None) -> None:
    grader.options.only = ("int4_kernel",)
    (result,) = (record := grader.run("solution")).tasks
    tests = {test.id: test for test in result.tests}
    right = ["public::test_int4_on_paper"] + [
        f"hidden::test_int4_{name}" for name in ("products", "weights", "refuses", "stack")
    ]
    assert {name: tests[name].outcome for name in right} == dict.fromkeys(right, "passed")
    for name in ("bandwidth[0.2]", "library[2.0]"):  # how fast a CPU is does not matter here
        test = tests[f"hidden::test_int4_{name}"]
        assert test.outcome == "passed" or "slower than asked for" in test.message
    assert set(record.measurements) == {"int4_kernel batch 1", "int4_kernel batch 16"}
    assert len(record.measurements["int4_kernel batch 16"]["samples_s"]) == WORK.calls  # type: ignore[arg-type]


# name: what is changed in int4_kernel.py's CPU path, and the tests that must see it.
MISTAKES = {
    "nibbles swapped": ("(packed & 15, packed >> 4)", "(packed >> 4, packed & 15)"),
    "halves side by side": ("dim=-1).flatten(1)", "dim=1).flatten(1)"),
    "zero left out": ("groups - zeros_NG[..., None]", "groups - 8"),
    "rounded to bf16": ("(x.float() @ weights.T)", "(x.bfloat16() @ weights.T.bfloat16())"),
    "any group size": ("if group_size < 32 or group_size & (group_size - 1):", "if False:"),
    "shapes unchecked": ("tuple(zeros.shape) != shape", "False"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_seen(grader: Grader, on_cpu: None, tmp_path: Path, name: str) -> None:
    find, replace = MISTAKES[name]
    source = (SUBMISSION / "int4_kernel.py").read_text()
    assert source.count(find) == 1, "the solution changed: so must this mistake"
    for path in SUBMISSION.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "int4_kernel.py").write_text(source.replace(find, replace))
    grader.options.only = ("int4_kernel",)
    (result,) = grader.run(tmp_path).tasks
    failed = {test.id for test in result.tests if test.outcome == "failed"}
    wanted = {"refuses"} if name in ("any group size", "shapes unchecked") else {"products"}
    assert failed & {f"hidden::test_int4_{test}" for test in wanted}
    if wanted == {"products"}:  # what is wrong is not timed
        assert "hidden::test_int4_bandwidth[0.2]" in failed


def test_stubs_earn_nothing_on_a_gpu_and_cost_no_time(
    grader: Grader, on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int4, "measure", None)  # calling it would be an error of its own
    grader.options.only = ("int4_kernel",)
    (result,) = grader.run("labs").tasks
    assert result.earned == 0 and len(result.tests) == 12
    assert {test.message for test in result.tests} == {"not written yet"}


def test_counted_bytes_of_the_real_workload() -> None:
    work = int4.Workload()
    codes, scales, zeros = 4096 * 14336 // 2, 4096 * 112 * 2, 4096 * 112
    assert work.matrix_bytes == codes + scales + zeros
    one = int4.random_layer(8, 256, 128, torch.Generator())
    small = int4.Workload(rows=8, columns=256)
    assert small.matrix_bytes == sum(part.nbytes for part in one)
    assert small.bytes_moved(3, 5) == 5 * small.matrix_bytes + 3 * 256 * 2 + 5 * 3 * 8 * 2
