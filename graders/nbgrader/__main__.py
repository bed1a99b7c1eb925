"""``python -m graders.nbgrader``: behind ``nox -s course`` and ``nox -s export``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# As in graders.__main__: before torch loads its OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from graders.manifest import LabNotFound, ManifestError  # noqa: E402
from graders.nbgrader.exports import (  # noqa: E402
    canvas_columns,
    canvas_csv,
    gradescope_json,
    junit,
    read_roster,
)
from graders.nbgrader.gradescope import autograder_zip, read_metadata, run  # noqa: E402
from graders.nbgrader.parts import ROOT, CourseError  # noqa: E402
from graders.nbgrader.scores import Refused, read_records  # noqa: E402
from graders.oracle.grade import GradeError  # noqa: E402
from graders.oracle.workers import WorkerLost  # noqa: E402
from graders.record import RecordError  # noqa: E402
from graders.scoring import ScoringError  # noqa: E402
from graders.signing import SigningError, load_keys  # noqa: E402

_HIDDEN = ("visible", "after_due_date", "after_published", "hidden")
_ERRORS = (
    CourseError, GradeError, LabNotFound, ManifestError, OSError, RecordError, Refused,
    ScoringError, SigningError, WorkerLost,
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m graders.nbgrader", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)
    course = verbs.add_parser("course", help="write an nbgrader course")
    course.add_argument("dest", type=Path, help="a new folder, or a course made earlier")
    course.add_argument("--labs", default="", help="01,02 (all when left out)")
    course.add_argument("--db", default="", help="the gradebook's URL, such as postgresql://…")
    course.add_argument("--course-id", default="inferlab")
    course.add_argument("--exchange", default="", help="the exchange's folder")
    course.add_argument("--gpu", action="store_true", help="graded cells for GPU tasks too")

    canvas = verbs.add_parser("canvas", help="a CSV for Canvas's gradebook, from signed records")
    canvas.add_argument("records", type=Path, nargs="+", help="folders of <student>.json")
    canvas.add_argument("--roster", type=Path, help="Canvas's own export, to fill in")
    canvas.add_argument("--match", default="SIS Login ID", help="its column with your ids")
    canvas.add_argument("--gpu", action="store_true", help="count the GPU tier too")

    scope = verbs.add_parser("gradescope", help="a results.json from one signed record")
    scope.add_argument("record", type=Path)
    scope.add_argument("--hidden", default="after_published", choices=_HIDDEN)
    scope.add_argument("--gpu", action="store_true", help="the GPU tier too")

    xml = verbs.add_parser("junit", help="JUnit XML from signed records")
    xml.add_argument("records", type=Path, nargs="+", help="folders of <student>.json")
    xml.add_argument("--full", action="store_true", help="for the instructor: inputs and answers")

    pack = verbs.add_parser("gradescope-zip", help="an autograder zip for one lab")
    pack.add_argument("lab")
    pack.add_argument("--isolation", default="sandbox", choices=["sandbox", "process"])
    pack.add_argument("--hidden", default="after_published", choices=_HIDDEN)

    for verb in (canvas, scope, xml, pack):
        verb.add_argument("--out", type=Path, required=True, metavar="FILE")

    inside = verbs.add_parser("gradescope-run", help="what that zip runs for each submission")
    inside.add_argument("lab")
    inside.add_argument("--submission", type=Path, required=True)
    inside.add_argument("--results", type=Path, required=True)
    inside.add_argument("--metadata", type=Path, required=True)
    inside.add_argument("--isolation", default="sandbox", choices=["sandbox", "process"])
    inside.add_argument("--hidden", default="after_published", choices=_HIDDEN)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. 0: done; 1: done, with something left out; 2: an error, on standard error."""
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except _ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "SandboxUnavailable":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    tiers = ("cpu", "gpu") if getattr(options, "gpu", False) else ("cpu",)
    absent: list[str] = []
    match options.verb:
        case "course":
            # Here: a lab's own environment, where Gradescope grades, has no nbformat.
            from graders.nbgrader.course import Course, describe, write_course

            course = Course(ROOT, options.course_id, options.db, options.exchange, tiers)
            labs = [name for name in options.labs.split(",") if name]
            manifests, report = write_course(course, options.dest, labs)
            print(describe(manifests, report, options.dest, tiers))
            return 0
        case "canvas":
            columns = []
            for folder in options.records:
                columns += canvas_columns(_records([folder]), tiers)
            roster = read_roster(options.roster) if options.roster else None
            text, absent = canvas_csv(columns, roster, options.match)
            options.out.write_text(text, encoding="utf-8", newline="")
        case "gradescope":
            student = options.record.stem
            record = _records([options.record.parent])[student]
            text = gradescope_json(record, tiers=tiers, hidden=options.hidden)
            options.out.write_text(text, encoding="utf-8")
        case "junit":
            suites = [one for folder in options.records for one in _records([folder]).items()]
            options.out.write_text(junit(suites, full=options.full), encoding="utf-8")
        case "gradescope-zip":
            autograder_zip(
                ROOT, options.lab, options.out, isolation=options.isolation, hidden=options.hidden
            )
        case _:
            run(
                ROOT, options.lab, options.submission, options.results,
                options.isolation, options.hidden, read_metadata(options.metadata),
            )  # fmt: skip
            return 0
    print(f"written: {options.out}")
    for student in absent:
        print(f"not in the roster: {student}", file=sys.stderr)
    return 1 if absent else 0


def _records(folders: Sequence[Path]):  # type: ignore[no-untyped-def]
    for folder in folders:
        if not folder.is_dir():
            raise Refused(f"{folder} is no folder of records")
    found = read_records(folders, load_keys())
    if not found:
        raise Refused(f"no signed record in {', '.join(map(str, folders))}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
