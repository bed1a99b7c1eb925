"""Measuring on a device, tried on the CPU with a tiny model: real workers, real references.

Times mean nothing here, so none is asserted but those that a test made itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from graders.lab01 import fast
from graders.oracle import gpu
from graders.oracle.checks import CheckFailed
from graders.oracle.grade import ROOT, Grader, Options
from graders.oracle.proxy import BadAnswer, StudentError
from graders.record import (
    ADVISORY,
    Record,
    RecordError,
    TaskResult,
    TestResult,
    for_feedback,
    from_json,
    measured,
    to_json,
)
from graders.report.html import render_html
from graders.report.terminal import make_console, print_report
from tests.grader.toy import course
from tests.grader.wrapped import with_wrapped

WORK = fast.Workload(
    vocab_size=97, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
    intermediate_size=96, prompt=5, steps=6, calls=2, reference_calls=1, calibration_rows=64,
)  # fmt: skip
SUBMISSION = ROOT / "solutions" / "lab01_token_generation"
# A decoder around the solution's, for what a submission may try.
WRAPPED = """
import time
import torch
from .solved import FastDecoder as Solved

class FastDecoder(Solved):
    def prefill(self, tokens):
        {prefill}
    def decode(self, steps):
        {decode}
"""
HONEST = {"prefill": "return super().prefill(tokens)", "decode": "return super().decode(steps)"}


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader("lab01", Options(device="cpu")) as made:
        yield made


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, fast.Rounding]:
    folder = tmp_path_factory.mktemp("given") / "model"
    fast.write_checkpoint(WORK, folder, 1, "cpu")
    model = fast.load_reference(WORK, folder, "cpu")
    return folder, model, fast.calibrate(WORK, model, "cpu", 1)


@pytest.fixture
def measure(
    grader: Grader, reference: tuple[Path, Any, fast.Rounding], tmp_path: Path
) -> Callable[..., gpu.Measurement]:
    """Measure the solution with ``prefill`` and ``decode`` replaced, in a worker of its own."""
    folder, model, rounding = reference

    def run(batch: int = 3, copy_bandwidth: float | None = None, **bodies: str) -> gpu.Measurement:
        return with_wrapped(
            grader,
            "fast_decode.py",
            WRAPPED.format(**{**HONEST, **bodies}) if bodies else None,
            tmp_path / "overlay",
            lambda student: fast.measure(
                student, WORK, batch, folder, model, rounding, "cpu", copy_bandwidth=copy_bandwidth
            ),
        )

    return run


@pytest.mark.parametrize("batch", [1, 3])
def test_the_solution_is_measured(measure: Callable[..., gpu.Measurement], batch: int) -> None:
    found = measure(batch)
    assert len(found.samples_s) == WORK.calls and len(found.reference_s) == WORK.reference_calls
    assert 0 < found.fraction < 1 and found.ratio > 0
    figures = found.figures()
    assert json.loads(msgspec.json.encode(figures)) == figures
    assert f"batch {batch}: " in fast.line(found)


@pytest.mark.parametrize(
    "bodies",
    [
        {"decode": "return (super().decode(steps) + 1) % 97"},
        {"decode": "return torch.full((self.batch, steps), 7)"},
        {
            "decode": "out = torch.tensor(super().decode(steps).tolist()); "
            "out[-1, -1] = (out[-1, -1] + 1) % 97; return out"
        },
        {"prefill": "return (super().prefill(tokens) + 1) % 97"},
        # the cache forgets the first token of the prompt
        {
            "prefill": "out = super().prefill(tokens); "
            "[k[:, :, 0].zero_() for k in self.keys + self.values]; return out"
        },
        # tokens of the call before
        {
            "decode": "now = super().decode(steps); old = getattr(self, 'old', now); "
            "self.old = now; return old"
        },
        # the first prompt's answer for all that follow
        {
            "prefill": "self.kept = getattr(self, 'kept', tokens); "
            "return super().prefill(self.kept)"
        },
        {"decode": "return super().decode(steps)[:, :-1]"},
        {"decode": "return super().decode(steps).float()"},
        {"decode": "return super().decode(steps) + 97"},
    ],
    ids=[
        "wrong", "constant", "one wrong token", "wrong first", "forgets", "stale", "replayed",
        "short", "float", "outside",
    ],
)  # fmt: skip
def test_wrong_tokens_are_refused(
    measure: Callable[..., gpu.Measurement], bodies: dict[str, str]
) -> None:
    with pytest.raises(CheckFailed):
        measure(**bodies)


def test_promises_are_no_results(measure: Callable[..., gpu.Measurement]) -> None:
    with pytest.raises(BadAnswer, match="object in place of its results"):
        measure(decode="return iter(super().decode(steps))")


def test_stubs_are_not_measured(
    measure: Callable[..., gpu.Measurement],
) -> None:
    with pytest.raises(StudentError) as error:
        measure(decode="raise NotImplementedError")
    assert "NotImplementedError" in error.value.types


def test_times_beyond_the_roofline_are_refused(measure: Callable[..., gpu.Measurement]) -> None:
    with pytest.raises(CheckFailed, match="measurement is invalid"):
        measure(copy_bandwidth=1.0)  # with a memory this slow, any time is too fast


def test_the_submission_cannot_turn_the_clock(measure: Callable[..., gpu.Measurement]) -> None:
    lie = "time.perf_counter = time.monotonic = time.time = lambda: 0.0; "
    found = measure(prefill=f"{lie}time.sleep(0.2); return super().prefill(tokens)")
    assert min(found.samples_s) >= 0.2, "prefill is inside the span, by the oracle's clock"
    assert min(found.facts["decode_samples_s"]) < min(found.samples_s)  # type: ignore[type-var]


def test_rounding_is_forgiven_and_nothing_else(
    reference: tuple[Path, Any, fast.Rounding],
) -> None:
    _, model, rounding = reference
    assert 0 < rounding.tolerance < 2 and rounding.allowed(21) < 0.7
    prompts = torch.randint(97, (5, 5), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        read, made = prompts, []
        for _ in range(3):
            made.append(model.float()(read).logits[:, -1].argmax(dim=-1))
            read = torch.cat((read, made[-1][:, None]), dim=1)
        model.bfloat16()
    tokens = torch.stack(made, dim=1)
    exact = fast.Rounding(rounding.logit_error, 1.0)
    fast.check_tokens(WORK, model, exact, prompts, tokens, "cpu")  # fp32's choice, judged in bf16
    with pytest.raises(CheckFailed, match="1 of 15 tokens are wrong, the first at step 2"):
        tokens[4, 2] = (tokens[4, 2] + 1) % 97
        fast.check_tokens(WORK, model, exact, prompts, tokens, "cpu")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab's own GPU tier, run where there is no GPU, with a tiny model."""
    monkeypatch.setattr("graders.oracle.grade._gpu_device", lambda _: "cpu")
    monkeypatch.setattr(fast, "WORKLOAD", WORK)


def test_the_tier_through_the_grader(grader: Grader, on_cpu: None) -> None:
    grader.options.only = ("fast_decode",)
    (result,) = (record := grader.run("solution")).tasks
    tests = {test.id: test for test in result.tests}
    assert tests["hidden::test_fast_decode_tokens"].outcome == "passed"
    for name in ("one[0.2]", "batch[0.1]"):  # a CPU's share of its copy bandwidth, by this model
        test = tests[f"hidden::test_fast_decode_{name}"]
        assert (test.outcome, test.message.split(": ")[1]) == ("failed", "slower than asked for")
    assert [line.split(":")[0] for _, line in measured(record)] == ["batch 1", "batch 32"]
    assert set(record.measurements) == {"fast_decode batch 1", "fast_decode batch 32"}
    assert len(record.measurements["fast_decode batch 32"]["samples_s"]) == WORK.calls  # type: ignore[arg-type]


def test_stubs_earn_nothing_on_a_gpu_and_cost_no_time(
    grader: Grader, on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "write_checkpoint", None)  # calling it would be an error of its own
    grader.options.only = ("fast_decode",)
    (result,) = grader.run("labs").tasks
    assert result.earned == 0 and len(result.tests) == 8
    assert {test.message for test in result.tests} == {"not written yet"}


def test_counted_bytes_of_the_real_workload() -> None:
    work = fast.Workload()
    assert work.weight_bytes() == 2 * 1_235_814_400  # Llama-3.2-1B's own count of parameters
    assert work.kv_bytes_per_token == 32768
    short = fast.Workload(prompt=10, steps=2)
    assert short.decode_bytes(3) == 2 * work.weight_bytes() + (11 + 12) * 3 * 32768
    assert short.bytes_moved(3) == short.decode_bytes(3) + work.weight_bytes()


def test_machine_figures() -> None:
    assert gpu.copy_bandwidth("cpu") > 0 and gpu.copy_bandwidth("cpu") == gpu.copy_bandwidth("cpu")
    assert gpu.matmul_rate("cpu", torch.float32) > 0
    assert gpu.device_facts("cpu")["torch"] == torch.__version__
    with gpu.Flush("cpu") as flush:
        flush()
    seconds, value = gpu.timed(lambda: time.sleep(0.01) or [torch.ones(1)])
    assert seconds >= 0.01 and value[0] == 1


def test_a_measurement_counts_the_median_and_doubts_the_fastest() -> None:
    found = gpu.Measurement("m", [2.0, 1.0, 9.0], 10.0, 6.0, 10.0, 3.0, [8.0, 4.0, 2.0])
    assert (found.median_s, found.roofline_s, found.fraction, found.ratio) == (2.0, 2.0, 1.0, 2.0)
    with pytest.raises(CheckFailed):
        found.require_possible()  # 1.0 s is half of what the arithmetic takes
    gpu.Measurement("m", [1.99, 2.5], 20.0, copy_bandwidth=10.0).require_possible()
    with pytest.raises(CheckFailed):
        gpu.Measurement("m", [0.0]).require_possible()


# -- notes -----------------------------------------------------------------------------------------


NOTING = '''
import pytest

@pytest.mark.task("double", weight=1)
def test_double_refuses_text(student, check, note, run_cache):
    """Text is refused with a TypeError."""
    note("halves: 0.50 <of> all", name="double halves", fraction=0.5, samples_s=[0.25, 0.75])
    run_cache["seen"] = run_cache.get("seen", 0) + 1
    note(f"seen {run_cache['seen']}")
    with check.raises(TypeError):
        student.double.double("two")
'''


def text_of(record: Record, path: Path) -> str:
    with path.open("w") as file:
        print_report(record, make_console(file))
    return path.read_text()


@pytest.mark.parametrize("passing", [True, False])
def test_notes_reach_every_report(tmp_path: Path, passing: bool) -> None:
    with course(tmp_path / "course") as made:
        hidden = tmp_path / "course" / "graders" / "lab90"
        # The only hidden tests lie in a file of another name: every test_*.py is collected.
        (hidden / "test_more_hidden.py").write_text(NOTING)
        (hidden / "test_hidden.py").unlink()
        record = made.grade({} if passing else {"double.py": "def double(x):\n    return x * 2\n"})
        again = made.grade({})
    lines = [("double", "halves: 0.50 <of> all"), ("double", "seen 1")]
    assert measured(record) == measured(again) == lines, "a run's cache ends with the run"
    assert record.tasks[0].status == ("passed" if passing else "partial")
    assert record.measurements == {"double halves": {"fraction": 0.5, "samples_s": [0.25, 0.75]}}
    assert from_json(to_json(record)) == record
    feedback = for_feedback(record)
    assert measured(feedback) == lines and feedback.measurements == {}
    assert feedback.tasks[0].tests[-1].visibility == "hidden"
    text = text_of(record, tmp_path / "report.txt")
    assert "measured  double  halves: 0.50 <of> all" in text and ADVISORY in text
    page = render_html(feedback, audience="feedback")
    assert "halves: 0.50 &lt;of&gt; all" in page and "advisory" in page


def test_reports_without_notes_say_nothing_of_them(tmp_path: Path) -> None:
    test = TestResult("public::a", "t", "public", outcome="passed")
    task = TaskResult("t", "T", "cpu", 100, 100, 100, "passed", [test])
    record = Record(lab="lab90", title="Toy", target="labs", hidden_present=True, tasks=[task])
    assert "advisory" not in text_of(record, tmp_path / "r.txt") + render_html(record)
    old = json.loads(to_json(record))
    del old["measurements"], old["tasks"][0]["tests"][0]["notes"]
    assert from_json(json.dumps(old)) == record, "older records still read"
    record.measurements["m"] = {"samples_s": [1.0, float("nan")]}
    with pytest.raises(RecordError, match="not a finite number"):
        to_json(record)
