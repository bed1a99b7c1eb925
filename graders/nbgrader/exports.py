"""Results in the formats of other platforms: Canvas's CSV, Gradescope's results.json, JUnit's XML.

All are made from records. What an author may read is decided in one place, ``for_feedback``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graders.nbgrader.scores import Refused, messages
from graders.record import (
    Record,
    TaskResult,
    TestResult,
    Visibility,
    for_feedback,
    format_points,
    totals,
    validate,
)
from graders.report.terminal import clean

# -- Canvas ----------------------------------------------------------------------------------------

# What Canvas's import wants before the assignments; it finds a student by any one of the ids.
CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
_POINTS_ROW = "    Points Possible"  # so indented in Canvas's own export
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Column:
    """One assignment: points by student."""

    title: str
    points: float
    scores: dict[str, float]


def read_roster(path: Path) -> list[list[str]]:
    """Canvas's export of a gradebook: its header and the students. Raises Refused."""
    try:
        rows = [row for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"the roster {path} cannot be read: {error}") from None
    if not rows or rows[0][: len(CANVAS)] != list(CANVAS):
        raise Refused(
            f"{path} is no export of Canvas's gradebook: it should begin with {', '.join(CANVAS)}"
        )
    header, *students = rows
    return [header, *(row for row in students if not row[0].strip().startswith("Points Possible"))]


def canvas_csv(
    columns: Sequence[Column],
    roster: list[list[str]] | None = None,
    match: str = "SIS Login ID",
) -> tuple[str, list[str]]:
    """(the file to import, students with a score whom the roster does not have).

    With a roster its own columns name the students, and an assignment's title that is there
    already (``lab01 (1234)``) is used as Canvas wrote it. A student without a score has an empty
    field, which Canvas leaves alone. Raises Refused for what is no score.
    """
    for column in columns:
        for student, value in column.scores.items():
            if not math.isfinite(value) or not 0 <= value <= column.points + 1e-9:
                raise Refused(f"{student}, {column.title}: {value!r} of {column.points:g} points")
    students = {name for column in columns for name in column.scores}
    if roster is None:
        titles = [column.title for column in columns]
        people = [([_text(name), "", "", _text(name), ""], name) for name in sorted(students)]
    else:
        header = roster[0]
        if match not in header[: len(CANVAS)]:
            raise Refused(f"the roster has no column {match!r} with ids: {', '.join(CANVAS)}")
        at = header.index(match)
        titles = [_as_canvas_wrote_it(column.title, header) for column in columns]
        people = [(row[: len(CANVAS)], row[at].strip()) for row in roster[1:]]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([*CANVAS, *titles])
    writer.writerow([_POINTS_ROW, "", "", "", "", *(f"{column.points:g}" for column in columns)])
    for fields, name in people:
        scores = [
            format_points(c.scores[name], c.points) if name in c.scores else "" for c in columns
        ]
        writer.writerow([*fields, *scores])
    return out.getvalue(), sorted(students - {name for _, name in people})


def _text(value: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{value}" if value.startswith(_FORMULA) else value


def _as_canvas_wrote_it(title: str, header: list[str]) -> str:
    for name in header[len(CANVAS) :]:
        if name == title or name.startswith(f"{title} ("):
            return name
    return title


def canvas_columns(records: dict[str, Record], tiers: Sequence[str] = ("cpu",)) -> list[Column]:
    """A column for each lab of the records."""
    labs: dict[str, dict[str, float]] = {}
    points: dict[str, float] = {}
    for student, record in records.items():
        sums = [totals(validate(record), tier) for tier in tiers]  # type: ignore[arg-type]
        labs.setdefault(record.lab, {})[student] = math.fsum(s.earned for s in sums)
        most = math.fsum(s.points for s in sums)
        if points.setdefault(record.lab, most) != most:
            raise Refused(f"{student}: {record.lab} of {most:g} points, others had another maximum")
    return [Column(lab, points[lab], scores) for lab, scores in sorted(labs.items())]


# -- Gradescope ------------------------------------------------------------------------------------


def gradescope(
    record: Record,
    tiers: Sequence[str] = ("cpu",),
    hidden: str = "after_published",
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The results.json of a submission. ``notes`` are lines for its author, above the tests.

    A task is two entries where it has both kinds of tests: the public ones, whose points its author
    sees at once, and the hidden ones, shown as ``hidden`` says. Raises Refused.
    """
    if not record.hidden_present:
        raise Refused("the hidden tests did not run: the autograder's zip lacks them")
    validate(record)
    kinds: tuple[Visibility, ...] = ("public", "hidden")
    texts = {kind: messages(record, kind) for kind in kinds}
    tests: list[dict[str, Any]] = []
    for task in record.tasks:
        if task.tier not in tiers:
            continue
        if task.status == "not_attempted":
            raise Refused(f"task {task.id!r} was not attempted (no GPU)")
        told = {kind: texts[kind][task.id] for kind in kinds}
        tests += _entries(task, told, hidden)
    return {
        "score": round(math.fsum(t.earned for t in record.tasks if t.tier in tiers), 6),
        "execution_time": record.duration_s,
        "output": "\n".join([f"{record.lab}: {record.title}", *notes]),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
        "extra_data": {"submission_sha256": record.submission_sha256, "schema": record.schema},
    }


def _entries(task: TaskResult, texts: dict[Visibility, str], hidden: str) -> list[dict[str, Any]]:
    kinds: dict[Visibility, list[TestResult]] = {"public": [], "hidden": []}
    for test in task.tests:
        kinds[test.visibility].append(test)
    public = min(task.possible_public, task.points)
    most = {"public": public, "hidden": task.points - public}
    weight = {k: math.fsum(t.weight for t in tests) for k, tests in kinds.items()}
    entries: list[dict[str, Any]] = []
    for kind, tests in kinds.items():
        if not tests:
            continue
        passed = math.fsum(t.weight for t in tests if t.outcome == "passed")
        all_passed = all(t.outcome == "passed" for t in tests)
        share = 1.0 if all_passed else passed / weight[kind] if weight[kind] else 0.0
        entries.append({
            "name": f"{task.id}: {task.title} ({kind} tests)",
            "score": round(most[kind] * share, 6),
            "max_score": round(most[kind], 6),
            "status": "passed" if all_passed else "failed",
            "output": texts[kind],
            "output_format": "text",
            "visibility": "visible" if kind == "public" else hidden,
        })  # fmt: skip
    if abs(math.fsum(entry["score"] for entry in entries) - task.earned) > 1e-4:
        raise Refused(f"task {task.id!r}: its parts do not add up to {task.earned:g} points")
    return entries


def gradescope_json(record: Record, **options: Any) -> str:
    """As written to results.json."""
    return json.dumps(gradescope(record, **options), indent=2, allow_nan=False) + "\n"


# -- JUnit -----------------------------------------------------------------------------------------


_JUNIT = {"failed": "failure", "error": "error", "missing": "error", "not_attempted": "skipped"}


def junit(records: Iterable[tuple[str, Record]], *, full: bool = False) -> str:
    """One testsuite a (student, record). ``full`` shows what only the instructor may read."""
    top = ET.Element("testsuites")
    for student, record in records:
        shown = validate(record) if full else for_feedback(validate(record))
        tests = [(task, test) for task in shown.tasks for test in task.tests]
        counts: dict[str, int] = {
            "tests": len(tests),
            "failures": sum(test.outcome == "failed" for _, test in tests),
            "errors": sum(test.outcome in ("error", "missing") for _, test in tests),
            "skipped": sum(test.outcome == "not_attempted" for _, test in tests),
        }
        suite = ET.SubElement(
            top, "testsuite", name=_xml(f"{record.lab} {student}".strip()),
            timestamp=record.started, time=f"{shown.duration_s:.3f}",
        )  # fmt: skip
        for key, value in counts.items():
            suite.set(key, str(value))
        properties = ET.SubElement(suite, "properties")
        for task in shown.tasks:
            earned = "" if task.status == "not_attempted" else format_points(task.earned)
            ET.SubElement(
                properties, "property", name=f"points.{task.id}",
                value=f"{earned}/{format_points(task.points)}",
            )  # fmt: skip
        for task, test in tests:
            case = ET.SubElement(
                suite, "testcase", classname=f"{record.lab}.{task.id}", name=_xml(test.id),
                time=f"{test.duration_s:.3f}",
            )  # fmt: skip
            kind = _JUNIT.get(test.outcome)
            if kind is None:
                continue
            found = ET.SubElement(case, kind, message=_xml(test.invariant or test.message))
            lines = [test.message, *test.notes]
            for label, text in (("given", test.given), ("expected", test.expected),
                                ("got", test.got)):  # fmt: skip
                lines += [f"{label} {text}"] if text else []
            found.text = _xml("\n".join(line for line in [*lines, test.traceback] if line))
    ET.indent(top)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(top, "unicode") + "\n"


def _xml(text: str) -> str:
    """Text without the characters that XML cannot hold, and none that moves a cursor."""
    return clean(text)
