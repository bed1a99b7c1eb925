"""The record of one graded submission: what every report is rendered from.

A record is plain JSON with a schema version. It is checked when it is written and again when it
is read, so that a number in a report was a finite number within its bounds all the way.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

SCHEMA = 1

Visibility = Literal["public", "hidden"]
Outcome = Literal["passed", "failed", "error", "missing", "not_attempted"]
Tier = Literal["cpu", "gpu"]
# "to_grade": every public test passed, and the hidden ones were not here to run.
# One figure of a measurement: a number, raw samples, or a name such as the device's.
Figure = float | int | str | list[float]
Status = Literal["passed", "partial", "failed", "to_grade", "not_attempted"]


class RecordError(ValueError):
    """A record that cannot be believed, and why."""


class TestResult(msgspec.Struct, forbid_unknown_fields=True):
    """One test. `given`, `expected` and `got` are text, ready to show; `invariant` is the test's
    docstring; `notes` are lines on what the oracle measured.
    """

    __test__ = False  # the name starts with "Test", and pytest would try to collect it

    id: str
    task: str
    visibility: Visibility
    weight: float = 1.0
    outcome: Outcome = "missing"
    invariant: str = ""
    message: str = ""
    given: str = ""
    expected: str = ""
    got: str = ""
    traceback: str = ""
    stdout: str = ""
    duration_s: float = 0.0
    notes: list[str] = []


class TaskResult(msgspec.Struct, forbid_unknown_fields=True):
    """One task. `possible_public` are the points that its public tests carry."""

    id: str
    title: str
    tier: Tier
    points: float
    earned: float
    possible_public: float
    status: Status
    tests: list[TestResult] = []
    needs: list[str] = []


class Record(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One submission graded once. `started` is ISO 8601; `plots` are (title, inline SVG);
    `measurements` are figures by the measurement's name.
    """

    schema: int = SCHEMA
    lab: str
    title: str
    target: str
    submission_sha256: str = ""
    isolation: str = "process"
    seed: int = 0
    device: str = "cpu"
    versions: dict[str, str] = {}
    started: str = ""
    duration_s: float = 0.0
    hidden_present: bool
    tasks: list[TaskResult]
    plots: list[tuple[str, str]] = []
    measurements: dict[str, dict[str, Figure]] = {}


class Totals(msgspec.Struct, frozen=True):
    """Points of one tier. earned + lost + to_grade + not_attempted == points."""

    earned: float
    lost: float
    to_grade: float
    not_attempted: float
    points: float


def to_grade(task: TaskResult, hidden_present: bool) -> float:
    """Points of a task that hidden tests carry which were not here to run."""
    if hidden_present or task.status == "not_attempted":
        return 0.0
    return max(0.0, task.points - task.possible_public)


_WORDS: dict[Status, str] = {
    "passed": "passed",
    "partial": "in part",
    "failed": "failed",
    "to_grade": "public tests passed",
    "not_attempted": "not attempted",
}


def status_word(task: TaskResult) -> str:
    """What a report calls the task's status."""
    if task.status == "to_grade" and not task.tests:
        return "no public test"
    return _WORDS[task.status]


def totals(record: Record, tier: Tier) -> Totals:
    """Add up a tier's tasks."""
    tasks = [task for task in record.tasks if task.tier == tier]
    points = math.fsum(task.points for task in tasks)
    earned = math.fsum(task.earned for task in tasks)
    pending = math.fsum(to_grade(task, record.hidden_present) for task in tasks)
    absent = math.fsum(task.points for task in tasks if task.status == "not_attempted")
    lost = math.fsum(
        task.points - task.earned - to_grade(task, record.hidden_present)
        for task in tasks
        if task.status != "not_attempted"
    )
    return Totals(earned, max(0.0, lost), pending, absent, points)


ADVISORY = "Timings are advisory: the submission's code shares the device with the measurement."


def measured(record: Record) -> list[tuple[str, str]]:
    """(task id, line) for everything the tests noted, each line once, in the order of the tests."""
    lines = [(task.id, line) for task in record.tasks for test in task.tests for line in test.notes]
    return list(dict.fromkeys(lines))


def everything_earned(record: Record) -> bool:
    """Whether each task that was attempted passed all tests that were here: the exit code's
    question.
    """
    return any(task.status != "not_attempted" for task in record.tasks) and all(
        task.status in ("passed", "to_grade", "not_attempted") for task in record.tasks
    )


def format_points(points: float, of: float | None = None) -> str:
    """Points with at most two decimals, rounded to the nearest, so that columns add up.

    ``of`` is the full mark that they are a part of. What falls short of it never reads as all of
    it: 19.999 of 20 is 19.99.
    """
    cents = round(points * 100)  # of two halves that make a whole number, one goes up
    if of is not None and points < of - 1e-9 and cents >= round(of * 100):
        cents = math.floor(points * 100)
    return f"{cents / 100:.2f}".rstrip("0").rstrip(".")


def _number(where: str, value: float, low: float, high: float | None = None) -> None:
    if not math.isfinite(value):
        raise RecordError(f"{where} is {value}, which is not a finite number")
    if value < low:
        raise RecordError(f"{where} is {value:g}, below {low:g}")
    if high is not None and value > high + 1e-9:
        raise RecordError(f"{where} is {value:g}, above its maximum {high:g}")


def validate(record: Record) -> Record:
    """Refuse NaN, negative and over-maximum numbers, doubled ids and unknown schemas. Returns the
    record.
    """
    if record.schema != SCHEMA:
        raise RecordError(f"schema {record.schema} is unknown; this grader reads schema {SCHEMA}")
    _number("duration_s", record.duration_s, 0)
    seen_tasks: set[str] = set()
    for task in record.tasks:
        where = f"task {task.id!r}"
        if task.id in seen_tasks:
            raise RecordError(f"{where} is there twice")
        seen_tasks.add(task.id)
        _number(f"{where}: points", task.points, 0)
        _number(f"{where}: possible_public", task.possible_public, 0, task.points)
        limit = task.points if record.hidden_present else task.possible_public
        if task.status == "not_attempted":
            limit = 0.0
        _number(f"{where}: earned", task.earned, 0, limit)
        if task.status == "passed" and not math.isclose(task.earned, task.points, abs_tol=1e-9):
            raise RecordError(f"{where} is passed with {task.earned:g} of {task.points:g} points")
        seen_tests: set[str] = set()
        for test in task.tests:
            if test.id in seen_tests:
                raise RecordError(f"test {test.id!r} is there twice")
            seen_tests.add(test.id)
            if test.task != task.id:
                raise RecordError(f"test {test.id!r} of task {test.task!r} lies in {where}")
            _number(f"test {test.id!r}: weight", test.weight, 0)
            _number(f"test {test.id!r}: duration_s", test.duration_s, 0)
    for name, figures in record.measurements.items():
        for key, value in figures.items():
            for number in value if isinstance(value, list) else [value]:
                if not isinstance(number, str):
                    _number(f"measurement {name!r}: {key}", number, -math.inf)
    return record


def to_json(record: Record) -> bytes:
    """The record as indented UTF-8 JSON. Raises RecordError for one that could not be read back."""
    validate(record)  # before encoding: JSON has no NaN, and the encoder would write null
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def for_feedback(record: Record) -> Record:
    """The record as the submission's author may see it after hidden tests ran.

    A hidden test keeps its invariant, outcome and notes, nothing else: its id may spell inputs too.
    Notes are the oracle's words, with rounded figures; raw samples stay here, because a submission
    could spell something in them.
    Where hidden tests ran, whatever the submission wrote (output, exceptions, results, plots) is
    left out of public tests as well, because code that has seen hidden inputs can repeat them
    there. The author sees all of that by running the public tests. What the instructor wrote
    (given and expected of public tests) stays.
    """
    if not record.hidden_present:
        return record

    def redact(task: TaskResult, number: int, test: TestResult) -> TestResult:
        if test.visibility == "hidden":
            return TestResult(
                f"{task.id}: hidden test {number}",
                test.task,
                "hidden",
                weight=test.weight,
                outcome=test.outcome,
                invariant=test.invariant,
                notes=test.notes,
            )
        return msgspec.structs.replace(
            test, message="", got="", traceback="", stdout="", duration_s=0.0
        )

    tasks = [
        msgspec.structs.replace(
            task, tests=[redact(task, n, test) for n, test in enumerate(task.tests, 1)]
        )
        for task in record.tasks
    ]
    return msgspec.structs.replace(record, tasks=tasks, plots=[], measurements={}, duration_s=0.0)


class _Version(msgspec.Struct):
    schema: int


def from_json(data: bytes | str) -> Record:
    """Read a record back. Raises RecordError."""
    try:
        version = msgspec.json.decode(data, type=_Version).schema
        if version != SCHEMA:
            raise RecordError(f"schema {version} is unknown; this grader reads schema {SCHEMA}")
        return validate(msgspec.json.decode(data, type=Record))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"not a record: {error}") from None
