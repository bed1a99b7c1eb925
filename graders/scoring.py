"""Points from test results and the committed list of expected tests.

Weights and visibility come from the committed lists, never from a run: a test that vanishes is a
failure, and a test that nobody listed is an error for whoever wrote it, not for the student.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec

from graders.manifest import Manifest, Task
from graders.record import Status, TaskResult, TestResult, Visibility

SCHEMA = 1
NO_GPU = "not attempted (no GPU)"
_SYNC = "Run `nox -s sync` to write the list of expected tests anew"


class ScoringError(Exception):
    """The list of expected tests and the run do not fit each other."""


class ExpectedTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a committed list."""

    task: str
    weight: float
    visibility: Visibility


class HiddenShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many hidden tests a task has, and their weights added up: all that a student's release
    says of them.
    """

    tests: int
    weight: float


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`tests` by test id; `hidden` by task id."""

    schema: int = SCHEMA
    tests: dict[str, ExpectedTest] = {}
    hidden: dict[str, HiddenShare] = {}


def read_expected(path: Path) -> Expected:
    """One `expected.json`. Raises ScoringError."""
    try:
        expected = msgspec.json.decode(Path(path).read_bytes(), type=Expected)
    except FileNotFoundError:
        raise ScoringError(f"{path}: there is no such file. {_SYNC}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ScoringError(f"{path}: {error}. {_SYNC}.") from None
    if expected.schema != SCHEMA:
        raise ScoringError(f"{path}: schema {expected.schema} is unknown, not {SCHEMA}. {_SYNC}.")
    weights = [*(t.weight for t in expected.tests.values())]
    weights += [share.weight for share in expected.hidden.values()]
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ScoringError(f"{path}: a weight is not a positive number. {_SYNC}.")
    return expected


def load_expected(public: Path, hidden: Path | None = None) -> Expected:
    """The lab's committed list, joined with the grader's own where hidden tests are present."""
    merged = read_expected(public)
    if any(test.visibility != "public" for test in merged.tests.values()):
        raise ScoringError(f"{public}: lists a hidden test by name. {_SYNC}.")
    if hidden is None:
        return merged
    more = read_expected(hidden)
    if any(test.visibility != "hidden" for test in more.tests.values()):
        raise ScoringError(f"{hidden}: lists a public test. {_SYNC}.")
    if both := merged.tests.keys() & more.tests.keys():
        raise ScoringError(f"{hidden}: {min(both)} is also a public test. {_SYNC}.")
    return Expected(tests={**merged.tests, **more.tests}, hidden=merged.hidden)


def make_expected(tests: dict[str, ExpectedTest]) -> tuple[Expected, Expected]:
    """(public list, hidden list) as `nox -s sync` commits them, in test order (small first)."""
    public = {k: t for k, t in tests.items() if t.visibility == "public"}
    hidden = {k: t for k, t in tests.items() if t.visibility == "hidden"}
    shares = {
        task: HiddenShare(
            tests=sum(t.task == task for t in hidden.values()),
            weight=math.fsum(t.weight for t in hidden.values() if t.task == task),
        )
        for task in sorted({t.task for t in hidden.values()})
    }
    return Expected(tests=public, hidden=shares), Expected(tests=hidden)


def expected_json(expected: Expected) -> bytes:
    """As committed: indented, one order, so that a diff shows what changed."""
    fields = msgspec.to_builtins(expected)
    if not fields["hidden"]:
        del fields["hidden"]
    return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"


def score_ungraded(
    manifest: Manifest, expected: Expected, *, hidden_present: bool, gpu: bool, **told: Any
) -> list[TaskResult]:
    """Zeros for work that no test could see; ``told`` are fields that every test's result gets."""
    results = [
        TestResult(name, test.task, test.visibility, **told)
        for name, test in expected.tests.items()
    ]
    return score(manifest, expected, results, hidden_present=hidden_present, gpu=gpu)


def score(
    manifest: Manifest,
    expected: Expected,
    results: Iterable[TestResult],
    *,
    hidden_present: bool,
    gpu: bool,
    tasks: Collection[str] | None = None,
) -> list[TaskResult]:
    """One TaskResult per task of the manifest, in its order; `tasks` keeps only those (a run of
    one task).

    A task's points are its weighted share of passing tests over public and hidden weight
    together. Without the hidden tests only public weight can be earned; the rest stays open and
    is neither earned nor lost. Raises ScoringError where the lists and the run disagree.
    """
    by_id: dict[str, TestResult] = {}
    for result in results:
        if result.id not in expected.tests:
            raise ScoringError(
                f"the test {result.id} is not in the list of expected tests. {_SYNC}."
            )
        # Two results for one test: a pass counts only if both passed.
        if result.id not in by_id or result.outcome != "passed":
            by_id[result.id] = result
    known = {task.id for task in manifest.tasks}
    named = {t.task for t in expected.tests.values()} | expected.hidden.keys()
    if strangers := named - known:
        raise ScoringError(
            f"expected tests name a task {min(strangers)!r} not in lab.toml. {_SYNC}."
        )
    if tasks is not None and (unknown := set(tasks) - known):
        raise ScoringError(
            f"there is no task {min(unknown)!r}; tasks are {', '.join(sorted(known))}."
        )
    return [
        _score_task(task, expected, by_id, hidden_present=hidden_present, gpu=gpu)
        for task in manifest.tasks
        if tasks is None or task.id in tasks
    ]


def _score_task(
    task: Task, expected: Expected, by_id: dict[str, TestResult], *, hidden_present: bool, gpu: bool
) -> TaskResult:
    listed = {key: t for key, t in expected.tests.items() if t.task == task.id}
    hidden = {key: t for key, t in listed.items() if t.visibility == "hidden"}
    public_weight = math.fsum(t.weight for t in listed.values() if t.visibility == "public")
    hidden_weight = math.fsum(t.weight for t in hidden.values())
    share = expected.hidden.get(task.id, HiddenShare(tests=0, weight=0.0))
    if hidden_present and (
        share.tests != len(hidden) or not math.isclose(share.weight, hidden_weight, abs_tol=1e-9)
    ):
        raise ScoringError(
            f"task {task.id!r}: the lab's list counts {share.tests} hidden tests of weight "
            f"{share.weight:g}, the grader's {len(hidden)} of {hidden_weight:g}. {_SYNC}."
        )
    if not hidden_present:
        listed = {key: t for key, t in listed.items() if t.visibility == "public"}
        hidden_weight = share.weight
    total = public_weight + hidden_weight
    if total <= 0:
        raise ScoringError(
            f"task {task.id!r} has no expected test, so nobody can earn it. {_SYNC}."
        )

    attempted = gpu or task.tier == "cpu"
    tests: list[TestResult] = []
    for key, line in listed.items():
        result = by_id.get(key)
        if not attempted:
            result = TestResult(
                key, task.id, line.visibility, outcome="not_attempted", message=NO_GPU
            )
        elif result is None:
            result = TestResult(
                key, task.id, line.visibility, outcome="missing", message="the test gave no result"
            )
        tests.append(
            msgspec.structs.replace(
                result, task=task.id, visibility=line.visibility, weight=line.weight
            )
        )
    passed = math.fsum(test.weight for test in tests if test.outcome == "passed")
    all_passed = all(test.outcome == "passed" for test in tests)
    complete = hidden_present or hidden_weight == 0
    earned = task.points if all_passed and complete else task.points * passed / total
    status: Status
    if not attempted:
        status, earned = "not_attempted", 0.0
    elif all_passed:
        status = "passed" if complete else "to_grade"
    else:
        status = "partial" if passed > 0 else "failed"
    return TaskResult(
        id=task.id,
        title=task.title,
        tier=task.tier,
        points=task.points,
        earned=earned,
        possible_public=task.points * public_weight / total,
        status=status,
        tests=tests,
        needs=list(task.needs),
    )
