"""The class as one page: no script, no outside request, light and dark, fit to print or to mail."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from graders.classroom.summary import BINS, Summary, counts_line, origin_line
from graders.record import format_points
from graders.report.terminal import clean

_WIDTH, _HEIGHT, _FLOOR = 640, 200, 170


@dataclass(frozen=True)
class _Column:
    """One column of a histogram, in pixels; the text under it and above it."""

    x: float
    y: float
    width: float
    height: float
    label: str
    count: int


def render_class(summary: Summary) -> str:
    """The page. It names students: it is the instructor's."""
    environment = Environment(
        loader=PackageLoader("graders.classroom", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    points = summary.points
    return environment.get_template("class.html").render(
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
    widest = max(counts, default=0) or 1
    step = _WIDTH / max(len(counts), 1)
    return [
        _Column(
            x=number * step + 4,
            y=_FLOOR - (height := 145 * count / widest),
            width=step - 8,
            height=height,
            label=label,
            count=count,
        )
        for number, (count, label) in enumerate(zip(counts, labels, strict=True))
    ]


def _histogram(summary: Summary) -> list[_Column]:
    labels = [f"{summary.of * n / BINS:g}–{summary.of * (n + 1) / BINS:g}" for n in range(BINS)]
    return _columns(summary.bins, labels)


def _times(seconds: list[float]) -> list[_Column]:
    """How long submissions took, in bins that double: hangs lie far out."""
    if not seconds:
        return []
    first = math.floor(math.log2(max(min(seconds), 1e-2)))
    last = math.floor(math.log2(max(max(seconds), 1e-2)))
    counts = [0] * (last - first + 1)
    for value in seconds:
        counts[math.floor(math.log2(max(value, 1e-2))) - first] += 1
    labels = [f"{2.0**n:g}–{2.0 ** (n + 1):g} s" for n in range(first, last + 1)]
    return _columns(counts, labels)
