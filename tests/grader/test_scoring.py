"""Points and records: a vanished test is no pass, open points are neither earned nor lost."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest

from graders.manifest import Manifest, Task
from graders.record import (
    Record,
    RecordError,
    TaskResult,
    TestResult,
    everything_earned,
    for_feedback,
    format_points,
    from_json,
    to_json,
    totals,
)
from graders.scoring import (
    Expected,
    ExpectedTest,
    ScoringError,
    expected_json,
    load_expected,
    make_expected,
    read_expected,
    score,
)


def task(name: str, points: float, tier: str = "cpu", needs: tuple[str, ...] = ()) -> Task:
    return Task(
        id=name,
        title=name.title(),
        module=name,
        points=points,
        tier=tier,  # type: ignore[arg-type]
        timeout_s=10,
        hints=("look again",),
        needs=needs,
    )


MANIFEST = Manifest(
    number=1,
    package="lab01_x",
    title="X",
    summary="x",
    minutes=10,
    preload=(),
    tasks=(task("norm", 40), task("rope", 60, needs=("norm",)), task("fast", 20, "gpu")),
    plots=(),
    directory=Path("labs/lab01_x"),
)
LINES = {
    "p::norm": ExpectedTest("norm", 1, "public"),
    "h::norm1": ExpectedTest("norm", 1, "hidden"),
    "h::norm2": ExpectedTest("norm", 2, "hidden"),
    "p::rope": ExpectedTest("rope", 1, "public"),
    "p::fast": ExpectedTest("fast", 1, "public"),
}
PUBLIC, HIDDEN = make_expected(LINES)
ALL = Expected(tests=LINES, hidden=PUBLIC.hidden)


def results(*ids: str, outcome: str = "passed") -> list[TestResult]:
    return [
        TestResult(i, LINES[i].task, LINES[i].visibility, outcome=outcome)  # type: ignore[arg-type]
        for i in ids
    ]


def record(tasks: list[TaskResult], hidden: bool) -> Record:
    return Record(lab="lab01_x", title="X", target="labs", hidden_present=hidden, tasks=tasks)


def test_everything_passed_earns_everything() -> None:
    done = score(MANIFEST, ALL, results(*LINES), hidden_present=True, gpu=True)
    assert [(t.earned, t.status) for t in done] == [(40, "passed"), (60, "passed"), (20, "passed")]
    assert everything_earned(record(done, True))


def test_a_task_earns_its_weighted_share_and_a_missing_test_is_no_pass() -> None:
    ran = results("p::norm", "h::norm1", "p::rope")
    ran[0].weight = 1000  # what a run says about weights does not matter
    done = score(MANIFEST, ALL, ran, hidden_present=True, gpu=True)
    assert (done[0].earned, done[0].status) == (20, "partial")
    assert done[0].possible_public == 10
    assert {t.id: t.outcome for t in done[0].tests}["h::norm2"] == "missing"
    assert (done[2].earned, done[2].status) == (0, "failed")
    assert not everything_earned(record(done, True))


@pytest.mark.parametrize("outcome", ["failed", "error", "missing", "not_attempted"])
def test_only_a_pass_is_a_pass(outcome: str) -> None:
    done = score(MANIFEST, ALL, results(*LINES, outcome=outcome), hidden_present=True, gpu=True)
    assert [t.earned for t in done] == [0, 0, 0]
    assert [t.status for t in done] == ["failed"] * 3


def test_without_hidden_tests_their_points_stay_open() -> None:
    ran = results("p::norm", "p::rope", "p::fast")
    done = score(MANIFEST, PUBLIC, ran, hidden_present=False, gpu=False)
    assert (done[0].earned, done[0].possible_public, done[0].status) == (10, 10, "to_grade")
    assert (done[1].earned, done[1].status) == (60, "passed")
    sums = totals(record(done, False), "cpu")
    assert (sums.earned, sums.lost, sums.to_grade, sums.points) == (70, 0, 30, 100)
    ran[0].outcome = "failed"
    done = score(MANIFEST, PUBLIC, ran, hidden_present=False, gpu=False)
    sums = totals(record(done, False), "cpu")
    assert (sums.earned, sums.lost, sums.to_grade) == (60, 10, 30)
    # The joined list must give the same when the hidden tests did not run.
    assert score(MANIFEST, ALL, ran, hidden_present=False, gpu=False) == done


def test_gpu_tasks_without_a_gpu_are_not_attempted() -> None:
    done = score(MANIFEST, ALL, results(*LINES), hidden_present=True, gpu=False)
    assert (done[2].status, done[2].earned) == ("not_attempted", 0)
    assert done[2].tests[0].message == "not attempted (no GPU)"
    assert everything_earned(record(done, True))
    sums = totals(record(done, True), "gpu")
    assert (sums.lost, sums.not_attempted) == (0, 20)


def test_two_results_for_one_test_count_as_the_worse() -> None:
    for order in (("failed", "passed"), ("passed", "failed")):
        ran = [r for outcome in order for r in results("p::rope", outcome=outcome)]
        done = score(MANIFEST, ALL, ran, hidden_present=True, gpu=False, tasks=["rope"])
        assert [(t.id, t.earned) for t in done] == [("rope", 0)]


def test_disagreements_tell_to_sync() -> None:
    ran = [*results("p::norm"), TestResult("p::new", "norm", "public", outcome="passed")]
    with pytest.raises(ScoringError, match=r"p::new .* `nox -s sync`"):
        score(MANIFEST, ALL, ran, hidden_present=True, gpu=True)
    with pytest.raises(ScoringError, match="counts 2 hidden tests"):
        score(MANIFEST, PUBLIC, [], hidden_present=True, gpu=True)
    with pytest.raises(ScoringError, match="no expected test"):
        score(MANIFEST, Expected(), [], hidden_present=True, gpu=True)
    lost = Expected(tests={**LINES, "p::x": ExpectedTest("x", 1, "public")}, hidden=ALL.hidden)
    with pytest.raises(ScoringError, match="a task 'x' not in"):
        score(MANIFEST, lost, [], hidden_present=True, gpu=True)
    with pytest.raises(ScoringError, match="no task 'nrom'"):
        score(MANIFEST, ALL, [], hidden_present=True, gpu=True, tasks=["nrom"])


def test_the_committed_lists_round_trip(tmp_path: Path) -> None:
    public, hidden = tmp_path / "public.json", tmp_path / "hidden.json"
    public.write_bytes(expected_json(PUBLIC))
    hidden.write_bytes(expected_json(HIDDEN))
    assert json.loads(public.read_bytes())["hidden"] == {"norm": {"tests": 2, "weight": 3.0}}
    assert "hidden" not in json.loads(hidden.read_bytes())
    assert load_expected(public) == PUBLIC
    assert load_expected(public, hidden) == ALL
    with pytest.raises(ScoringError, match="by name"):
        load_expected(hidden)
    with pytest.raises(ScoringError, match="no such file"):
        read_expected(tmp_path / "none.json")
    for bad in ('{"schema": 2}', "{", '{"tests": {"a": {"task": "norm"}}}', "\udcff"):
        public.write_bytes(bad.encode("utf-8", "surrogateescape"))
        with pytest.raises(ScoringError, match="nox -s sync"):
            read_expected(public)


def test_records_round_trip() -> None:
    done = score(MANIFEST, ALL, results(*LINES), hidden_present=True, gpu=False)
    whole = record(done, True)
    whole.plots = [("a", "<svg/>")]
    assert from_json(to_json(whole)) == whole


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("earned", float("nan"), "not a finite"),
        ("earned", float("inf"), "not a finite"),
        ("earned", -1.0, "below 0"),
        ("earned", 41.0, "above its maximum 40"),
        ("points", float("nan"), "not a finite"),
        ("possible_public", 99.0, "above its maximum"),
        ("earned", 39.0, "passed with 39 of 40"),
    ],
)
def test_numbers_out_of_bounds_are_refused(field: str, value: float, says: str) -> None:
    done = score(MANIFEST, ALL, results(*LINES), hidden_present=True, gpu=False)
    setattr(done[0], field, value)
    with pytest.raises(RecordError, match=says):
        to_json(record(done, True))
    with pytest.raises(RecordError):
        from_json(msgspec.json.encode(record(done, True)))


def test_open_points_cannot_be_earned() -> None:
    ran = results("p::norm", "p::rope")
    done = score(MANIFEST, PUBLIC, ran, hidden_present=False, gpu=False)
    done[0].earned = 11
    with pytest.raises(RecordError, match="above its maximum 10"):
        to_json(record(done, False))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"schema": 2}', b'{"schema": 1}', b"\xff", b'{"schema": "1"}']
)
def test_other_things_are_no_records(data: bytes) -> None:
    with pytest.raises(RecordError):
        from_json(data)


def test_feedback_carries_nothing_out() -> None:
    ran = results(*LINES, outcome="failed")
    for test in ran:
        test.invariant = "Must hold."
        test.message = test.got = test.traceback = test.stdout = "CARRIED"
        if test.visibility == "hidden":
            test.given = test.expected = "CARRIED"
    done = score(MANIFEST, ALL, ran, hidden_present=True, gpu=True)
    whole = record(done, True)
    whole.plots = [("CARRIED", "<svg/>")]
    seen = to_json(for_feedback(whole)).decode()
    assert "CARRIED" not in seen
    assert "h::" not in seen
    assert "Must hold." in seen
    assert "CARRIED" in to_json(whole).decode()


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (20, "20"),
        (19.999, "19.99"),
        (20 - 1e-8, "19.99"),
        (20 - 1e-12, "20"),
        (19.98765, "19.99"),
        (10.8888, "10.89"),
        (20 / 3, "6.67"),
        (0, "0"),
        (0.29, "0.29"),
    ],
)
def test_points_are_rounded_but_never_to_a_full_mark(points: float, text: str) -> None:
    assert format_points(points, 20) == text


@pytest.mark.parametrize("whole", [7, 8, 10, 12, 14, 17, 100])
@pytest.mark.parametrize("tests", [3, 7, 16, 32])
def test_two_parts_of_a_mark_add_up(whole: int, tests: int) -> None:
    """What is earned and what is to be graded, as printed: their sum is the mark."""
    for passed in range(1, tests):
        part = whole * passed / tests
        printed = [format_points(part, whole), format_points(whole - part)]
        assert math.isclose(sum(map(float, printed)), whole, abs_tol=1e-9), printed


def test_a_full_mark_need_not_be_whole() -> None:
    assert format_points(33.2999, 33.3) == "33.29"
    assert format_points(33.3, 33.3) == "33.3"
    assert format_points(33.2999) == "33.3"  # a sum that is no part of anything


@pytest.mark.parametrize("points", [[33.3, 33.3, 33.4], [100 / 7] * 6 + [100 - 6 * (100 / 7)]])
@pytest.mark.parametrize("cases", [1, 3, 7, 49])
def test_no_float_dust(points: list[float], cases: int) -> None:
    """All tests passed is all points, to the last bit, and the report says 100."""
    names = [f"t{number}" for number in range(len(points))]
    manifest = msgspec.structs.replace(
        MANIFEST, tasks=tuple(task(n, p) for n, p in zip(names, points, strict=True))
    )
    lines = {
        f"p::{name}[{case}]": ExpectedTest(name, 1 / cases + case * 0.1, "public")
        for name in names
        for case in range(cases)
    }
    ran = [TestResult(i, line.task, "public", outcome="passed") for i, line in lines.items()]
    done = score(manifest, Expected(tests=lines), ran, hidden_present=True, gpu=False)
    assert [t.earned for t in done] == points
    assert {t.status for t in done} == {"passed"}
    assert format_points(totals(record(done, True), "cpu").earned, 100) == "100"
    ran[0].outcome = "failed"
    done = score(manifest, Expected(tests=lines), ran, hidden_present=True, gpu=False)
    assert done[0].earned < points[0]
    assert format_points(totals(record(done, True), "cpu").earned, 100) != "100"


@pytest.mark.parametrize("weight", ["0", "-1", "1e999", "null", '"1"', "NaN"])
def test_a_weight_that_is_no_positive_number_is_refused(tmp_path: Path, weight: str) -> None:
    line = '{"task": "norm", "visibility": "public", "weight": ' + weight + "}"
    path = tmp_path / "expected.json"
    path.write_text('{"schema": 1, "tests": {"p::norm": ' + line + "}}")
    with pytest.raises(ScoringError, match="expected.json"):
        read_expected(path)
