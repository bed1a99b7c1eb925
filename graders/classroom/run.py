"""Grade a class: read every submission, grade each distinct one once, sign, report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from graders.classroom import discover
from graders.classroom.discover import ClassError, Submission, SubmissionError
from graders.classroom.gpus import Lease, lease
from graders.classroom.html import render_class
from graders.classroom.pool import Done, Executor, LocalPool
from graders.classroom.progress import Progress
from graders.classroom.slot import Job, Setup
from graders.classroom.store import Conditions, Store, grader_version, write_atomically
from graders.classroom.summary import (
    Origin,
    Row,
    Summary,
    counts_line,
    fill,
    grades_csv,
    print_summary,
    summarize,
    summary_json,
)
from graders.manifest import Manifest, find_lab
from graders.oracle.stage import StageError, digest, python_files
from graders.record import Record, format_points
from graders.scoring import Expected, load_expected, score_ungraded
from graders.signing import load_keys
from graders.worker.limits import Limits

ROOT = Path(__file__).resolve().parents[2]
_BREAKER = 5  # so many failures of the grader before its first success end the run
_IMPORT_S = 120.0  # a slot's silence besides the tests: staging, collecting, on a busy machine


@dataclass(frozen=True)
class Settings:
    """What to grade, and how."""

    submissions: Path
    lab: str
    out: Path
    jobs: int = 0  # 0: one a core
    isolation: str = "sandbox"
    device: str = "cpu"
    gpus: str = "all"
    per_gpu: int = 1
    seed: int = 0
    executor: str = "local"
    address: str = ""
    feedback: bool = False
    per_slot: int = 200
    limits: Limits = field(default_factory=Limits)


@dataclass
class _Class:
    """The state of one run."""

    settings: Settings
    manifest: Manifest
    store: Store
    conditions: Conditions
    expected: Expected
    rows: dict[str, Row] = field(default_factory=dict)
    by_key: dict[str, list[str]] = field(default_factory=dict)  # students of each distinct work
    jobs: list[Job] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    graded_now: int = 0


def grade_class(settings: Settings, root: Path = ROOT) -> int:
    """Grade, report, write; 0 if every student has a result. Raises ClassError and its kin.

    KeyboardInterrupt goes on to the caller once everything graded so far is kept and said.
    """
    manifest = find_lab(root, settings.lab)
    if settings.isolation == "sandbox" and settings.executor == "local":
        from graders.isolation import sandbox

        sandbox.check_available()
    keys = load_keys()
    found = discover.discover(settings.submissions, manifest)
    if settings.executor == "ray" and settings.device == "cuda":
        leased = Lease(("any",), "cuda", settings.per_gpu)  # which ones is for Ray to say
    elif settings.executor == "ray":
        leased = Lease()
    else:
        leased = lease(settings.device, settings.gpus, settings.per_gpu)
    hidden = root / "graders" / manifest.name / "expected.json"
    conditions = Conditions(
        grader=grader_version(root, manifest),
        isolation=settings.isolation,
        device=leased.name,
        seed=settings.seed,
        limits=settings.limits,
    )
    expected = load_expected(
        root / "labs" / manifest.package / "expected.json", hidden if hidden.exists() else None
    )
    began = time.monotonic()
    with Store(settings.out, manifest, keys) as store:
        state = _Class(settings, manifest, store, conditions, expected)
        if not hidden.exists():
            state.notes.append("The hidden tests are not in this tree: only public ones ran.")
        if found.ignored:
            state.notes.append(f"Left aside, as no submissions: {', '.join(found.ignored)}")
        for submission in found.submissions:
            _read_one(state, submission)
        _name_equals(state, root)
        try:
            if state.jobs:
                _grade_jobs(state, _executor(settings, store, manifest, leased, root))
        except KeyboardInterrupt:
            left = len(state.jobs) - state.graded_now
            store.log("stop", left=left)
            print(
                f"\nstopped: {left} of {len(state.jobs)} submissions are left to grade. "
                f"What is graded is kept in {settings.out}; the same command goes on from there",
                file=sys.stderr,
                flush=True,
            )
            _write(state, time.monotonic() - began, leased)
            raise
        summary = _write(state, time.monotonic() - began, leased)
    print_summary(summary)
    print(f"\nresults are in {settings.out}: grades.csv, summary.html, records/", file=sys.stderr)
    return 0 if summary.count("failed") == summary.count("pending") == 0 else 1


# -- before grading --------------------------------------------------------------------------------


def _read_one(state: _Class, submission: Submission) -> None:
    row = state.rows[submission.student] = Row(student=submission.student)
    try:
        files = discover.read(submission, state.manifest)
    except SubmissionError as error:
        record = _rejection(state, str(error))
        _take(state, row, record, "")
        row.status, row.reason = "rejected", str(error)
        return
    key = state.store.key(files, state.conditions)
    row.submission_sha256 = digest(files)
    students = state.by_key.setdefault(key, [])
    students.append(submission.student)
    if len(students) > 1:
        first = state.rows[students[0]]
        if first.status == "graded":  # from the store
            again = state.store.result(key)
            if again is not None:
                _take(state, row, again, "stored")
        return
    stored = state.store.result(key)
    if stored is not None:
        _take(state, row, stored, "stored")
        return
    folder = state.store.package(files)
    state.jobs.append(Job(key, str(folder.resolve()), digest(files)))


def _rejection(state: _Class, reason: str) -> Record:
    """A record of 0 points in which every test says why."""
    hidden_present = any(t.visibility == "hidden" for t in state.expected.tests.values())
    tasks = score_ungraded(
        state.manifest,
        state.expected,
        hidden_present=hidden_present,
        gpu=state.conditions.device != "cpu",
        outcome="error",
        message=reason,
    )
    return Record(
        lab=state.manifest.name,
        title=state.manifest.title,
        target="",
        isolation=state.settings.isolation,
        seed=state.settings.seed,
        device=state.conditions.device,
        hidden_present=hidden_present,
        tasks=tasks,
    )


def _name_equals(state: _Class, root: Path) -> None:
    """Say who handed in the same files; the stubs as handed out make nobody a copyist."""
    try:
        stubs = digest(python_files(root / "labs" / state.manifest.package))
    except StageError:
        stubs = ""
    for students in state.by_key.values():
        for student in students:
            row = state.rows[student]
            row.untouched = row.submission_sha256 == stubs
            if not row.untouched:
                row.same_as = [other for other in students if other != student]


def _executor(
    settings: Settings, store: Store, manifest: Manifest, leased: Lease, root: Path
) -> Executor:
    setup = Setup(
        root=str(root),
        lab=manifest.name,
        isolation=settings.isolation,
        device="cuda" if leased.gpus else "cpu",
        seed=settings.seed,
        limits=settings.limits,
    )
    # A slot says something after each test, so it is never silent for longer than one.
    slowest = max(task.timeout_s for task in manifest.tasks)
    silence_s = 2 * slowest + _IMPORT_S
    if settings.executor == "ray":
        from graders.classroom.ray_pool import RayPool

        return RayPool(
            setup,
            grader_version(root, manifest),
            address=settings.address,
            jobs=settings.jobs,
            gpu_share=1 / settings.per_gpu if leased.gpus else 0.0,
            silence_s=silence_s,
        )
    if settings.executor == "local":
        return LocalPool(
            setup,
            store.work,
            settings.out / "logs",
            jobs=leased.slots(settings.jobs or cores()),
            gpus=leased.gpus,
            silence_s=silence_s,
            per_slot=settings.per_slot,
        )
    raise ClassError(f"there is no executor {settings.executor!r}")


def cores() -> int:
    """The processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -- grading ---------------------------------------------------------------------------------------


def _grade_jobs(state: _Class, executor: Executor) -> None:
    def started(job: Job, attempt: int) -> None:
        state.store.log("start", key=job.key, attempt=attempt)

    failures = 0
    with Progress(len(state.jobs)) as progress, _stopping(executor):
        for done in executor.run(state.jobs, started):
            students = state.by_key[done.key]
            if done.record is None:
                failures += 1
                _fail(state, students, done)
                progress.done(students[0], f"failed: {done.error}", failed=True)
                if failures >= _BREAKER and not state.graded_now:
                    raise ClassError(
                        f"the grader failed on the first {failures} submissions, so it is its own "
                        f"fault: {done.error}. Nothing is lost; mend it and run it again"
                    )
                continue
            state.graded_now += 1
            state.store.keep(done.key, done.record)
            state.store.log(
                "done",
                key=done.key,
                seconds=round(done.seconds, 3),
                resident_bytes=done.resident_bytes,
            )
            for student in students:
                origin: Origin = "now" if student == students[0] else "shared"
                _take(state, state.rows[student], done.record, origin)
            row = state.rows[students[0]]
            others = f" and {len(students) - 1} more" if len(students) > 1 else ""
            points = f"{format_points(row.points, row.of)}/{format_points(row.of)}"
            progress.done(students[0] + others, points)


@contextmanager
def _stopping(executor: Executor) -> Iterator[None]:
    try:
        yield
    finally:
        executor.stop()


def _take(state: _Class, row: Row, record: Record, origin: Origin) -> None:
    """A result becomes a student's: figures, and the signed record on the disk."""
    row.status, row.origin = "graded", origin
    fill(row, record)
    state.versions = record.versions or state.versions
    state.store.give(row.student, record)
    if state.settings.feedback:
        from graders.report.html import render_html

        page = render_html(record, audience="feedback").encode()
        write_atomically(state.store.out / "feedback" / f"{row.student}.html", page)


def _fail(state: _Class, students: list[str], done: Done) -> None:
    state.store.log("failed", key=done.key, error=done.error)
    for student in students:
        row = state.rows[student]
        row.status, row.reason = "failed", f"the grader failed {done.attempts} times: {done.error}"
        state.store.withdraw(student)


# -- after grading ---------------------------------------------------------------------------------


def _write(state: _Class, seconds: float, leased: Lease) -> Summary:
    store = state.store
    notes = list(state.notes)
    notes += [f"A stored result was altered and is not used: {text}" for text in store.altered]
    if state.settings.isolation != "sandbox":
        notes.append(
            f"Graded with isolation {state.settings.isolation}: submissions could read this "
            "machine's files and use its network"
        )
    records = store.out / "records"
    strangers = sorted(path.stem for path in records.glob("*.json") if path.stem not in state.rows)
    if strangers:
        notes.append(
            f"Records of students without a submission now, kept: {', '.join(strangers[:10])}"
            + (f" and {len(strangers) - 10} more" if len(strangers) > 10 else "")
        )
    summary = summarize(
        state.manifest,
        list(state.rows.values()),
        seconds=seconds,
        graded_now=state.graded_now,
        notes=notes,
        isolation=state.settings.isolation,
        device=leased.name,
        versions=state.versions,
    )
    write_atomically(store.out / "grades.csv", grades_csv(summary))
    write_atomically(store.out / "summary.json", summary_json(summary))
    write_atomically(store.out / "summary.html", render_class(summary).encode())
    store.log("summary", counts=counts_line(summary))
    return summary
