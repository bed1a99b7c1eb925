"""What a graded class came to: rows, figures over them, and the files and table made of them."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from graders.manifest import Manifest
from graders.record import Record, format_points, totals
from graders.report.terminal import clean, print_page

# graded: a record with points. rejected: the submission cannot be graded, and its author reads why.
# failed: the grader could not, twice; nobody's fault but ours. pending: the run was stopped before.
Status = Literal["graded", "rejected", "failed", "pending"]
Origin = Literal["now", "stored", "shared", ""]
BINS = 10


class TaskPoints(msgspec.Struct, frozen=True):
    """One task of one student."""

    id: str
    earned: float
    points: float
    status: str


class Row(msgspec.Struct, kw_only=True):
    """One student. ``origin`` tells whether the grading happened in this run."""

    student: str
    status: Status = "pending"
    origin: Origin = ""
    points: float = 0.0
    of: float = 0.0
    gpu_points: float | None = None
    gpu_of: float = 0.0
    tasks: list[TaskPoints] = []
    seconds: float = 0.0
    submission_sha256: str = ""
    graded: str = ""
    untouched: bool = False  # the stubs as they were handed out
    same_as: list[str] = []  # students who handed in exactly these files, stubs apart
    reason: str = ""


def fill(row: Row, record: Record) -> None:
    """Take over a record's figures."""
    cpu, gpu = totals(record, "cpu"), totals(record, "gpu")
    row.points, row.of = cpu.earned, cpu.points
    row.gpu_of = gpu.points
    row.gpu_points = gpu.earned if gpu.points and gpu.not_attempted < gpu.points else None
    row.tasks = [TaskPoints(t.id, t.earned, t.points, t.status) for t in record.tasks]
    row.seconds, row.graded = record.duration_s, record.started
    row.submission_sha256 = record.submission_sha256


@dataclass
class TaskFigures:
    """How a class did in one task. Counts of students; ``mean`` is a share of its points."""

    id: str
    title: str
    points: float
    full: int = 0
    part: int = 0
    none: int = 0
    mean: float = 0.0


@dataclass
class Summary:
    """Everything the table, the page and the files say."""

    lab: str
    title: str
    rows: list[Row]
    tasks: list[TaskFigures] = field(default_factory=list)
    bins: list[int] = field(default_factory=list)
    seconds: float = 0.0  # of the run
    graded_now: int = 0  # submissions, each counted once
    notes: list[str] = field(default_factory=list)
    isolation: str = "sandbox"
    device: str = "cpu"
    versions: dict[str, str] = field(default_factory=dict)

    def count(self, status: Status) -> int:
        """Students with this status."""
        return sum(row.status == status for row in self.rows)

    @property
    def points(self) -> list[float]:
        """The CPU points of graded students, ascending."""
        return sorted(row.points for row in self.rows if row.status == "graded")

    @property
    def of(self) -> float:
        """The CPU tier's points."""
        return max((row.of for row in self.rows), default=0.0)

    @property
    def most_failed(self) -> list[TaskFigures]:
        """Tasks by the share of their points that was missed, the largest first."""
        return sorted((t for t in self.tasks if t.mean < 1), key=lambda t: t.mean)

    @property
    def slowest(self) -> list[Row]:
        """Graded students by the time their submission took."""
        graded = [row for row in self.rows if row.status == "graded"]
        return sorted(graded, key=lambda row: -row.seconds)

    @property
    def rate(self) -> float:
        """Submissions a minute in this run."""
        return 60 * self.graded_now / self.seconds if self.seconds else 0.0

    @property
    def quartiles(self) -> tuple[float, float, float, float, float]:
        """Least, lower quartile, median, upper quartile, most."""
        points = self.points
        if len(points) < 2:
            value = points[0] if points else 0.0
            return (value,) * 5  # type: ignore[return-value]
        low, middle, high = statistics.quantiles(points, n=4, method="inclusive")
        return points[0], low, middle, high, points[-1]


def summarize(manifest: Manifest, rows: Sequence[Row], **about: object) -> Summary:
    """Work the figures out."""
    summary = Summary(manifest.name, manifest.title, sorted(rows, key=lambda row: row.student))
    for name, value in about.items():
        setattr(summary, name, value)
    for task in manifest.tasks:
        figures = TaskFigures(task.id, task.title, task.points)
        theirs = [
            done
            for row in rows
            if row.status == "graded"
            for done in row.tasks
            if done.id == task.id and done.status != "not_attempted"
        ]
        if not theirs:
            continue
        figures.full = sum(done.status in ("passed", "to_grade") for done in theirs)
        figures.none = sum(done.earned <= 0 for done in theirs)
        figures.part = len(theirs) - figures.full - figures.none
        figures.mean = math.fsum(t.earned for t in theirs) / (task.points * len(theirs))
        summary.tasks.append(figures)
    summary.bins = [0] * BINS
    for points in summary.points:
        share = points / summary.of if summary.of else 0.0
        summary.bins[min(BINS - 1, max(0, math.floor(share * BINS + 1e-9)))] += 1
    return summary


# -- files -----------------------------------------------------------------------------------------


def grades_csv(summary: Summary) -> bytes:
    """One line a student. Points are empty where there are none: a missing grade is no 0."""
    tasks = list(dict.fromkeys(t.id for row in summary.rows for t in row.tasks))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "student", "status", "points", "of", "gpu_points", "gpu_of",
            *tasks, "graded", "submission_sha256", "reason",
        ]
    )  # fmt: skip
    for row in summary.rows:
        earned = {task.id: task for task in row.tasks}
        known = row.status in ("graded", "rejected")
        writer.writerow(
            [
                _cell(row.student),
                row.status,
                format_points(row.points, row.of) if known else "",
                format_points(row.of) if row.of else "",
                "" if row.gpu_points is None else format_points(row.gpu_points, row.gpu_of),
                format_points(row.gpu_of) if row.gpu_of else "",
                *(_task_cell(earned.get(task)) for task in tasks),
                row.graded,
                row.submission_sha256,
                _cell(row.reason),
            ]
        )
    return text.getvalue().encode()


def _task_cell(task: TaskPoints | None) -> str:
    if task is None or task.status == "not_attempted":
        return ""
    return format_points(task.earned, task.points)


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula, on one line."""
    text = " ".join(clean(text).split())
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def summary_json(summary: Summary) -> bytes:
    """Every figure, for programs."""
    least, low, middle, high, most = summary.quartiles
    counts = {s: summary.count(s) for s in ("graded", "rejected", "failed", "pending")}  # type: ignore[arg-type]
    fields = {
        "schema": 1,
        "lab": summary.lab,
        "title": summary.title,
        "isolation": summary.isolation,
        "device": summary.device,
        "versions": summary.versions,
        "students": len(summary.rows),
        **counts,
        "graded_now": summary.graded_now,
        "seconds": round(summary.seconds, 3),
        "per_minute": round(summary.rate, 2),
        "of": summary.of,
        "mean": statistics.fmean(summary.points) if summary.points else None,
        "quartiles": [least, low, middle, high, most] if summary.points else None,
        "histogram": summary.bins,
        "tasks": [vars(task) for task in summary.tasks],
        "notes": summary.notes,
        "rows": summary.rows,
    }
    return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"


# -- the terminal ----------------------------------------------------------------------------------


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """The table: what came out, how it is spread, what went wrong."""
    print_page(_render(summary), console)


def counts_line(summary: Summary) -> str:
    """`12 students: 9 graded, 2 rejected, 1 failed`."""
    parts = [
        f"{summary.count(status)} {status}"
        for status in ("graded", "rejected", "failed", "pending")
        if summary.count(status) or status == "graded"  # type: ignore[arg-type]
    ]  # type: ignore[misc]
    students = len(summary.rows)
    return f"{students} student{'s' if students != 1 else ''}: " + ", ".join(parts)


def origin_line(summary: Summary) -> str:
    """How much of it was done now."""
    stored = sum(row.origin == "stored" for row in summary.rows)
    shared = sum(row.origin == "shared" for row in summary.rows)
    text = f"{summary.graded_now} graded now in {summary.seconds:.0f} s"
    if summary.graded_now and summary.seconds:
        text += f" ({summary.rate:.1f} a minute)"
    if stored:
        text += f", {stored} unchanged since an earlier run"
    if shared:
        text += f", {shared} the same files as another student's"
    return text


def _render(summary: Summary) -> RenderableType:
    parts: list[RenderableType] = [
        Text(f"{summary.lab}  {summary.title}", style="bold"),
        Text(f"{counts_line(summary)}; isolation {summary.isolation}, {summary.device}"),
        Text(origin_line(summary), style="dim"),
        Text(),
    ]
    if summary.points:
        parts += [*_distribution(summary), Text(), _tasks(summary), Text(), _slowest(summary)]
    for status, title in (("rejected", "Rejected"), ("failed", "Failed: not the students' fault")):
        rows = [row for row in summary.rows if row.status == status]
        if rows:
            parts += [Text(), Text(title, style="bold red"), _reasons(rows)]
    parts += [Text()] * bool(summary.notes)
    parts += [Text(note, style="yellow") for note in summary.notes]
    return Group(*parts)


def _distribution(summary: Summary) -> Iterable[RenderableType]:
    least, low, middle, high, most = (format_points(value) for value in summary.quartiles)
    mean = format_points(statistics.fmean(summary.points))
    yield Text(
        f"Points of {format_points(summary.of)}: mean {mean}, median {middle}, "
        f"half of them from {low} to {high}, all from {least} to {most}"
    )
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    widest = max(summary.bins)
    for number, count in enumerate(summary.bins):
        low_end, high_end = (summary.of * n / BINS for n in (number, number + 1))
        closing = "]" if number == BINS - 1 else ")"
        table.add_row(
            Text(f"[{low_end:g}, {high_end:g}{closing}", style="dim"),
            str(count),
            Text("█" * math.ceil(40 * count / widest), style="green"),
        )
    yield table


def _tasks(summary: Summary) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), title="Tasks, most missed first")
    table.title_justify, table.title_style = "left", "bold"
    for name, justify in (
        ("task", "left"), ("all", "right"), ("part", "right"), ("none", "right"), ("mean", "right"),
    ):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for task in sorted(summary.tasks, key=lambda t: t.mean):
        table.add_row(
            task.id, str(task.full), str(task.part), str(task.none), f"{100 * task.mean:.0f} %"
        )
    return table


def _slowest(summary: Summary) -> RenderableType:
    rows = [f"{row.student} {row.seconds:.1f} s" for row in summary.slowest[:5]]
    return Text("Slowest: " + ", ".join(rows))


def _reasons(rows: Sequence[Row]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(Text(clean(row.student)), Text(" ".join(clean(row.reason).split())))
    return table
