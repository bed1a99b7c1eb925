"""The class as one page: no script, no outside request, light and dark, fit to print or to mail."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from graders.classroom.summary import BINS, Summary, counts_line, origin_line
from graders.record import format_points
from graders.report.html import page_template
from graders.report.terminal import clean


@dataclass(frozen=True)
class _Column:
    """One column of a histogram; ``height`` is a percentage of the highest."""

    label: str
    count: int
    height: float


def render_class(summary: Summary) -> str:
    """The page. It names students: it is the instructor's."""
    points = summary.points
    return page_template("graders.classroom", "class.html").render(
        summary=summary,
        counts=counts_line(summary),
        origin=origin_line(summary),
        mean=format_points(statistics.fmean(points)) if points else "–",
        quartiles=[format_points(value) for value in summary.quartiles],
        columns=_histogram(summary),
        seconds=_times([row.seconds for row in summary.rows if row.status == "graded"]),
        tasks=[
            {
                "task": task,
                "full": 100 * task.full / total,
                "part": 100 * task.part / total,
                "mean": f"{100 * task.mean:.0f} %",
            }
            for task in sorted(summary.tasks, key=lambda t: t.mean)
            if (total := task.full + task.part + task.none)
        ],
        rejected=[row for row in summary.rows if row.status in ("rejected", "failed")],
        task_ids=[task.id for task in summary.tasks],
        points=lambda value, of: format_points(value, of),
        text=lambda value: " ".join(clean(value).split()),
    )


def _columns(counts: list[int], labels: list[str]) -> list[_Column]:
    highest = max(counts, default=0) or 1
    pairs = zip(labels, counts, strict=True)
    return [_Column(label, count, 100 * count / highest) for label, count in pairs]


def _histogram(summary: Summary) -> list[_Column]:
    labels = [f"{summary.of * n / BINS:g}–{summary.of * (n + 1) / BINS:g}" for n in range(BINS)]
    return _columns(summary.bins, labels)


def _times(seconds: list[float]) -> list[_Column]:
    """How long submissions took, in bins that double: hangs lie far out."""
    if not seconds:
        return []
    powers = [math.floor(math.log2(max(value, 1e-2))) for value in seconds]
    span = range(min(powers), max(powers) + 1)
    return _columns([powers.count(n) for n in span], [f"{2.0**n:.3g} s" for n in span])
