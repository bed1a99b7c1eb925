"""The report in a terminal or a pipe, and the live line while a run is going on."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import IO, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from graders.record import (
    ADVISORY,
    Record,
    TaskResult,
    TestResult,
    everything_earned,
    format_points,
    measured,
    status_word,
    to_grade,
    totals,
)

STDOUT_LINES = 12
TRACEBACK_LINES = 30
VALUE_CHARS = 600

_STYLE = {
    "passed": "green",
    "partial": "yellow",
    "failed": "red",
    "to_grade": "cyan",
    "not_attempted": "dim",
}


class _Console(Console):
    """A console whose reader may leave: rich would end the program, and with it the grading."""

    def on_broken_pipe(self) -> None:
        """Send what is still to come to nowhere."""
        self.quiet = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.file.fileno())
        os.close(null)


def make_console(file: IO[str] | None = None, *, width: int | None = None) -> Console:
    """A console with colour on terminals and none in pipes (rich decides, and honours NO_COLOR)."""
    stream = file or sys.stdout
    tty = stream.isatty()
    if isinstance(stream, io.TextIOWrapper):
        # A student's arrow or accent must not end a run on a terminal that cannot show it.
        stream.reconfigure(errors="replace")
    # In a pipe rich assumes 80 columns; a log reads better a little wider.
    return _Console(
        file=stream,
        width=width or (None if tty else 100),
        highlight=False,
        markup=False,
        emoji=False,
    )


def clean(text: str) -> str:
    """Student text without control characters: it must not move the cursor or recolour the
    report.
    """
    return "".join(
        c
        if c in "\n\t" or (c.isprintable() and not "\ud800" <= c <= "\udfff")
        else "\N{REPLACEMENT CHARACTER}"
        for c in text.replace("\r\n", "\n")
    )


def shorten_lines(text: str, limit: int) -> str:
    """The first and last lines of a long text, with a count of what was left out between them."""
    lines = clean(text).rstrip().split("\n")
    lines = [line if len(line) <= 300 else line[:297] + "..." for line in lines]
    if len(lines) <= limit:
        return "\n".join(lines)
    head = limit // 2
    left_out = len(lines) - limit
    return "\n".join([*lines[:head], f"... {left_out} lines left out ...", *lines[head - limit :]])


def shorten_chars(text: str, limit: int = VALUE_CHARS) -> str:
    """A value's text, cut at `limit` characters."""
    text = clean(text).strip()
    return (
        text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"
    )


def first_failure(task: TaskResult) -> TestResult | None:
    """The failure to show: a public one before a hidden one, in the order of the tests (small
    cases first).
    """
    failures = [t for t in task.tests if t.outcome in ("failed", "error", "missing")]
    return min(failures, key=lambda t: t.visibility == "hidden", default=None)


def test_name(test: TestResult) -> str:
    """A test's name without its visibility, which the reports say in words."""
    return clean(test.id.removeprefix(f"{test.visibility}::"))


def failing_needs(task: TaskResult, tasks: Iterable[TaskResult]) -> list[TaskResult]:
    """The tasks that this one builds on and that fail themselves."""
    return [t for t in tasks if t.id in task.needs and t.status in ("failed", "partial")]


def needs_line(needs: list[TaskResult]) -> str:
    """What to mend first: one line, however many tasks there are."""
    names = ", ".join(need.id for need in needs)
    if len(needs) == 1:
        return f"builds on {names}, which fails: fix that first"
    return f"builds on {names}, which fail: fix those first"


def _table(record: Record) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("task", overflow="fold")
    table.add_column("", overflow="fold", ratio=1)
    table.add_column("tests", justify="right", no_wrap=True)
    table.add_column("points", justify="right", no_wrap=True)
    # Beside the points and not among the words: numbers that add up stand in columns.
    waiting = {task.id: to_grade(task, record.hidden_present) for task in record.tasks}
    if any(waiting.values()):
        table.add_column("to grade", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for task in record.tasks:
        skipped = task.status == "not_attempted"
        passed = sum(t.outcome == "passed" for t in task.tests)
        pending = waiting[task.id]
        table.add_row(
            Text(task.id),
            Text(task.title),
            Text("-" if skipped else f"{passed}/{len(task.tests)}"),
            Text(
                f"-/{format_points(task.points)}"
                if skipped
                else f"{format_points(task.earned, task.points)}/{format_points(task.points)}"
            ),
            *([Text(format_points(pending) if pending else "-")] if any(waiting.values()) else []),
            Text(status_word(task), style=_STYLE[task.status]),
        )
    return table


def total_lines(record: Record) -> list[str]:
    """One line per tier. What hidden tests would add is said apart, never as earned or lost."""
    lines, pending = [], []
    for tier, name in (("cpu", "CPU tier"), ("gpu", "GPU tier")):
        sums = totals(record, tier)  # type: ignore[arg-type]
        if not sums.points:
            continue
        if sums.not_attempted >= sums.points:
            lines.append(
                f"{name}  not attempted (no GPU), worth {format_points(sums.points)} points"
            )
            continue
        whole = format_points(sums.points)
        if sums.to_grade:
            public = sums.points - sums.to_grade
            lines.append(
                f"{name}  {format_points(sums.earned, public)} of the "
                f"{format_points(public)} points that public tests carry"
            )
            pending.append(f"{format_points(sums.to_grade)} of {whole}")
        else:
            lines.append(f"{name}  {format_points(sums.earned, sums.points)}/{whole}")
    if pending:
        lines.append(f"Still to be graded by hidden tests: {' and '.join(pending)} points")
    return lines


def _measured(record: Record) -> Iterable[RenderableType]:
    """What the tests measured, whether they passed or not."""
    lines = measured(record)
    if not lines:
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for task, line in lines:
        table.add_row(Text("measured", style="dim"), Text(task), Text(shorten_chars(line)))
    yield table
    yield Text(ADVISORY, style="dim")
    yield Text()


def _failure(record: Record, task: TaskResult) -> Iterable[RenderableType]:
    test = first_failure(task)
    if test is None:
        return
    yield Rule(Text(f"{task.id}: {task.title}", style="bold"), align="left", characters="─")
    if needs := failing_needs(task, record.tasks):
        yield Text(needs_line(needs), style="yellow")
    if test.invariant:
        yield Text(clean(test.invariant).strip(), style="bold")
    yield Text(f"{test.visibility} test {test_name(test)}", style="dim")
    if test.message:
        yield Text(shorten_chars(test.message, 1200))
    for label, value in (("given", test.given), ("expected", test.expected), ("got", test.got)):
        if value:
            grid = Table.grid(padding=(0, 1))
            grid.add_column(width=9, no_wrap=True)
            grid.add_column(overflow="fold")
            style = "green" if label == "expected" else "red" if label == "got" else ""
            grid.add_row(Text(label, style="dim"), Text(shorten_chars(value), style=style))
            yield Padding(grid, (0, 0, 0, 2))
    for label, text, limit in (
        ("your traceback", test.traceback, TRACEBACK_LINES),
        ("your output", test.stdout, STDOUT_LINES),
    ):
        if text.strip():
            yield Text(f"  {label}", style="dim")
            yield Padding(Text(shorten_lines(text, limit), overflow="fold"), (0, 0, 0, 4))
    others = sum(t.outcome in ("failed", "error", "missing") for t in task.tests) - 1
    if others:
        yield Text(f"and {others} more failing test{'s' if others > 1 else ''}", style="dim")
    yield Text()


def render(record: Record) -> RenderableType:
    """The whole report as one rich renderable."""
    parts: list[RenderableType] = []
    for task in record.tasks:
        parts += _failure(record, task)
    parts += [
        Text(f"{record.lab}  {record.title}", style="bold"),
        Text(
            f"{record.target} on {record.device}, isolation {record.isolation}, "
            + (f"seed {record.seed}, " if record.seed else "")
            + f"{record.duration_s:.1f} s",
            style="dim",
        ),
        Text(),
        _table(record),
        Text(),
        *_measured(record),
        *(Text(line, style="bold") for line in total_lines(record)),
    ]
    if not everything_earned(record):
        # The first failing task that stands on firm ground is where help is worth most.
        failing = [t for t in record.tasks if t.status in ("failed", "partial")]
        solid = [t for t in failing if not failing_needs(t, record.tasks)]
        if failing:
            name = record.lab.partition("_")[0]
            task = (solid or failing)[0]
            parts += [
                Text(),
                # The command that works without nox installed, as the README gives it.
                Text(
                    f"Stuck? The next hint: python3 noxfile.py -s {name} -- "
                    f"--hint --task {task.id}",
                    style="cyan",
                ),
            ]
    return Group(*parts)


def print_report(record: Record, console: Console | None = None) -> None:
    """Print the report: failures first, the table and totals last, where the eye lands."""
    print_page(render(record), console)


def print_page(page: RenderableType, console: Console | None = None) -> None:
    """Print to a terminal as it is, elsewhere without the blanks at the ends of lines."""
    console = console or make_console()
    if console.is_terminal:
        console.print(page)
        return
    # rich pads lines to the full width; in a file that is only noise.
    with console.capture() as capture:
        console.print(page)
    console.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))
    console.file.flush()


class Progress:
    """What runs right now: one live line on a terminal, a plain line per finished task in a pipe.

    with Progress(total=40) as progress:
        progress.task("rms_norm"); progress.test(True); ...
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or make_console(sys.stderr)
        self.total, self.done, self.failed = total, 0, 0
        self._task, self._passed, self._seen = "", 0, 0
        self._started = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                self._line(), console=self.console, transient=True, refresh_per_second=8
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish_task()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def task(self, task_id: str) -> None:
        """Tests that follow belong to this task."""
        if task_id != self._task:
            self._finish_task()
            self._task, self._passed, self._seen = task_id, 0, 0
            self._refresh()

    def not_attempted(self, task_id: str, reason: str) -> None:
        """A test that was left out. A task's first one says why for all of them."""
        if task_id != self._task:
            self.task(task_id)
            if self._live is None:
                self.console.print(Text(f"{task_id}: {reason}"), soft_wrap=True)

    def test(self, passed: bool) -> None:
        """One test is done."""
        self.done += 1
        self._seen += 1
        self._passed += passed
        self.failed += not passed
        self._refresh()

    def _line(self) -> Spinner:
        seconds = time.monotonic() - self._started
        failed = f", {self.failed} failed" if self.failed else ""
        text = (
            f"{self.done}/{max(self.done, self.total)} tests{failed}  {self._task}  {seconds:.0f} s"
        )
        return Spinner("dots", text=Text(text, no_wrap=True, overflow="ellipsis"))

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._line())

    def _finish_task(self) -> None:
        if self._live is None and self._seen:
            self.console.print(
                Text(f"{self._task}: {self._passed} of {self._seen} tests passed"), soft_wrap=True
            )
        self._seen = 0
