"""How far the grading of a class is: a bar on a terminal, a line a submission in a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from graders.report.terminal import clean, make_console


class Progress:
    """``with Progress(300) as progress: progress.done("ann", "87/100")``."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or make_console(sys.stderr)
        self.total, self.count, self.failed = total, 0, 0
        self._began = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self.console.is_terminal and self.total:
            columns = (
                TextColumn("grading"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[now]}", markup=False),
            )  # fmt: skip
            self._bar = Bar(*columns, console=self.console, transient=True, refresh_per_second=4)
            self._bar.add_task("", total=self.total, now="starting")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def done(self, who: str, what: str, *, failed: bool = False) -> None:
        """One submission is through."""
        self.count += 1
        self.failed += failed
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], advance=1, now=f"{self.pace()}  {clean(who)}: {clean(what)}"
            )
            return
        width = len(str(self.total))
        self.console.print(
            f"[{self.count:>{width}}/{self.total}] {clean(who)}: {clean(what)}  ({self.pace()})",
            soft_wrap=True,
        )

    def pace(self) -> str:
        """Rate and time left, and how many failed."""
        seconds = max(time.monotonic() - self._began, 1e-3)
        left = (self.total - self.count) * seconds / max(self.count, 1)
        text = f"{60 * self.count / seconds:.1f} a minute, {duration(left)} left"
        return text + (f", {self.failed} failed" if self.failed else "")


def duration(seconds: float) -> str:
    """``40 s``, ``7 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
