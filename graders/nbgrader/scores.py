"""From a signed record to the points of a gradebook.

Nothing gets into a gradebook that is not a number between zero and the task's points, for every
task, from a record that the instructor's key signed for this student, this lab and these files.
A refusal is an error of the course and costs the student nothing: the submission stays ungraded.
"""

from __future__ import annotations

import atexit
import math
import tempfile
import textwrap
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from graders.classroom.discover import Submission, SubmissionError, read
from graders.classroom.store import write_atomically
from graders.manifest import Manifest
from graders.oracle.stage import digest, write_files
from graders.record import (
    Record,
    TaskResult,
    Visibility,
    for_feedback,
    format_points,
    from_json,
    to_json,
)
from graders.report.terminal import clean, failing_needs, shorten_chars
from graders.scoring import score_ungraded
from graders.signing import Key, sign, verify

if TYPE_CHECKING:
    from graders.oracle.grade import Grader

WIDTH = 76  # columns that a feedback page shows without scrolling
_CENTS = 6  # decimals kept: more than anybody reads, fewer than a sum of thirds shows


class Refused(ValueError):
    """A score that must not reach a gradebook: whose, which, why."""


# -- scores ----------------------------------------------------------------------------------------


def task_scores(record: Record, manifest: Manifest, tasks: Collection[str]) -> dict[str, float]:
    """Points by task id for exactly ``tasks``. Raises Refused.

    ``record`` need not have come through ``validate``: every number is looked at again here.
    """
    if record.lab != manifest.name:
        raise Refused(f"this is a record of {record.lab}, not of {manifest.name}")
    if not record.hidden_present:
        raise Refused("the hidden tests did not run: grade in a tree that has them")
    by_id: dict[str, list[TaskResult]] = {}
    for result in record.tasks:
        by_id.setdefault(result.id, []).append(result)
    found = {}
    for name in tasks:
        results = by_id.get(name, [])
        if len(results) != 1:
            raise Refused(f"task {name!r} has {len(results)} results in the record, not one")
        found[name] = _points(results[0], manifest.task(name).points)
    return found


def _points(result: TaskResult, points: float) -> float:
    where = f"task {result.id!r}"
    if result.status == "not_attempted":
        raise Refused(f"{where} was not attempted (no GPU): grade where there is one")
    for name, value in (("points", result.points), ("score", result.earned)):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise Refused(f"{where}: the {name} {value!r} is no finite number")
    if not math.isclose(result.points, points, abs_tol=1e-9):
        raise Refused(f"{where} was graded for {result.points:g} points; lab.toml says {points:g}")
    if result.earned < 0:
        raise Refused(f"{where}: the score {result.earned:g} is below 0")
    if result.earned > points + 1e-9:
        raise Refused(f"{where}: the score {result.earned:g} is above its maximum {points:g}")
    return float(min(round(float(result.earned), _CENTS), points))


def messages(record: Record, only: Visibility | None = None) -> dict[str, str]:
    """By task id, what the submission's author may read: plain text, without hidden inputs.

    ``only`` leaves out the other kind of tests and the points, which count both.
    """
    shown = for_feedback(record)
    return {task.id: _message(task, shown, only) for task in shown.tasks}


def _message(task: TaskResult, record: Record, only: Visibility | None) -> str:
    tests = [test for test in task.tests if only in (None, test.visibility)]
    passed = sum(test.outcome == "passed" for test in tests)
    earned = f"{format_points(task.earned, task.points)} of {format_points(task.points)} points, "
    kind = f"{only} tests" if only else "tests"
    lines = [f"{task.title}: {'' if only else earned}{passed} of {len(tests)} {kind} passed"]
    lines += [
        f"builds on {need.id}, which fails: fix that first"
        for need in failing_needs(task, record.tasks)
        if only is None
    ]
    told: set[str] = set()
    for test in tests:
        if test.outcome == "passed" or test.invariant in told:
            continue
        told.add(test.invariant)
        alike = sum(t.invariant == test.invariant and t.outcome != "passed" for t in tests)
        more = f", {alike} tests" if alike > 1 else ""
        broken = f"{clean(test.invariant).strip()} ({test.visibility}{more})"
        lines += textwrap.wrap(broken, WIDTH, initial_indent="- ", subsequent_indent="  ")
        for label, text in (("given", test.given), ("expected", test.expected)):
            if text:
                lines.append(f"    {label} {shorten_chars(text)}")
    lines += dict.fromkeys(shorten_chars(note) for test in tests for note in test.notes)
    return "\n".join(lines) + "\n"


# -- records ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Records:
    """Folders of signed records, ``<student>.json``. Read in this order; the last is written."""

    folders: tuple[Path, ...]
    keys: tuple[Key, ...]

    def find(self, student: str, lab: str, submission_sha256: str) -> Record | None:
        """The student's record of exactly these files; None where there is none.

        Raises Refused for one of somebody else or of another lab, and SigningError for one that
        was altered or signed with another key.
        """
        for folder in self.folders:
            try:
                envelope = (folder / f"{student}.json").read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
            found = verify(envelope, self.keys)
            if found.who != student:
                raise Refused(
                    f"{folder / student}.json is signed for {found.who!r}, not for {student!r}"
                )
            record = from_json(found.record)
            if record.lab != lab:
                raise Refused(f"{folder / student}.json is a record of {record.lab}, not of {lab}")
            if record.submission_sha256 == submission_sha256:
                return record
        return None

    def keep(self, student: str, record: Record) -> None:
        """Sign and write a record, whole or not at all."""
        envelope = sign(to_json(record), who=student, key=self.keys[-1])
        write_atomically(self.folders[-1] / f"{student}.json", envelope, mode=0o600)


# -- grading ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What one student handed in: the package's files, or why there are none."""

    student: str
    files: dict[str, bytes]
    problem: str = ""

    @property
    def sha256(self) -> str:
        """What a record calls these files."""
        return digest(self.files)


def work_of(student: str, folder: Path, manifest: Manifest) -> Work:
    """Read a submission's package; one that cannot be read is no error here, it earns 0."""
    try:
        return Work(student, read(Submission(student, folder), manifest))
    except SubmissionError as error:
        return Work(student, {}, str(error))


def grade(work: Work, grader: Grader) -> Record:
    """The record of one student's work, graded now."""
    if work.problem:
        return nothing_graded(grader, work)
    with tempfile.TemporaryDirectory(prefix="inferlab-submission-") as temporary:
        package = Path(temporary) / grader.manifest.package
        write_files(package, work.files)
        record = grader.run(str(package))
    if record.submission_sha256 != work.sha256:
        raise Refused("the grader saw other files than were handed in: a fault of the course")
    return msgspec.structs.replace(record, target=work.student)


def nothing_graded(grader: Grader, work: Work) -> Record:
    """A record of zeros for work that cannot be read. The reason stands with each task."""
    note = f"nothing could be graded: {work.problem}"
    tasks = score_ungraded(
        grader.manifest,
        grader.expected(),
        hidden_present=grader.hidden_present,
        gpu=grader.options.device == "cuda",
        outcome="missing",
        notes=[note],
    )
    return Record(
        lab=grader.manifest.name, title=grader.manifest.title, target=work.student,
        submission_sha256=work.sha256, isolation=grader.options.isolation,
        hidden_present=grader.hidden_present, tasks=tasks,
    )  # fmt: skip


def up_to_date(record: Record, grader: Grader) -> bool:
    """Whether a kept record still fits the lab: the same tests, weights, points and isolation."""
    then = {test.id: (test.task, test.weight) for task in record.tasks for test in task.tests}
    now = {name: (test.task, test.weight) for name, test in grader.expected().tests.items()}
    points = {task.id: task.points for task in record.tasks}
    return (
        record.isolation == grader.options.isolation
        and then == now
        and points == {task.id: task.points for task in grader.manifest.tasks}
        and (record.device != "cpu" or grader.options.device != "cuda")
    )


_graders: dict[tuple[Path, str, str, str], Grader] = {}


def shared_grader(root: Path, lab: str, isolation: str, device: str) -> Grader:
    """One grader for all submissions of this process: torch is imported once."""
    # Here, because it brings torch: every nbgrader command reads the course's configuration.
    from graders.oracle.grade import Grader, Options

    key = (root, lab, isolation, device)
    if key not in _graders:
        _graders[key] = Grader(lab, Options(isolation=isolation, device=device), root)
        atexit.register(_graders[key].close)
    return _graders[key]


def read_records(folders: Iterable[Path], keys: tuple[Key, ...]) -> dict[str, Record]:
    """All records of the folders, by student; the first folder that has a student wins.

    Raises SigningError for the first one that was altered, and Refused for one in another's place.
    """
    found: dict[str, Record] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            if path.stem in found or path.name.startswith("."):
                continue
            envelope = verify(path.read_bytes(), keys)
            if envelope.who != path.stem:
                raise Refused(f"{path} is signed for {envelope.who!r}")
            found[path.stem] = from_json(envelope.record)
    return found
