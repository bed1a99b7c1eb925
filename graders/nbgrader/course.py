"""Write an nbgrader course: its configuration, and one assignment a lab.

    DEST/nbgrader_config.py
    DEST/source/lab01/lab01.ipynb          what students open: plots, and one graded cell a task
    DEST/source/lab01/labs/…               the stub package, and the course library it imports
    DEST/source/lab01/graders/…            the grader, without hidden tests, for the visible checks
    DEST/source/lab01/requirements.txt     the packages it needs, pinned

An assignment is complete: fetched, it runs with the lab's packages installed and nothing else.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat

from graders.manifest import Manifest, find_lab, lab_directories
from graders.nbgrader.notebook import assignment
from graders.nbgrader.parts import ROOT, WEIGHTS, CourseError, use_weights
from graders.oracle.stage import write_files
from graders.release import ReleaseError, Report, prove_folders
from graders.release.tree import Tree, of_grader, read_folder, shared_references
from graders.sync import make_stub

_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.ipynb", ".*")
# SQLAlchemy takes psycopg 3 for a plain postgresql://; the course's environment has psycopg 2.
_POSTGRES = re.compile(r"postgres(ql)?://")


@dataclass(frozen=True)
class Course:
    """What a course is made of. ``db`` empty: nbgrader's own, ``gradebook.db`` beside the file."""

    root: Path
    course_id: str = "inferlab"
    db: str = ""
    exchange: str = ""
    tiers: tuple[str, ...] = ("cpu",)


def write_course(course: Course, dest: Path, labs: Sequence[str]) -> tuple[list[Manifest], Report]:
    """Write ``labs`` (all when empty) to ``dest``, a new or empty folder or an earlier course.

    An earlier course keeps its configuration, gradebook and submissions; its sources are written
    anew, all of them or, if one holds what students must not get, none.
    Returns the labs' manifests and what was looked into. Raises CourseError,
    LabNotFound and ManifestError.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", course.course_id):
        raise CourseError(
            f"{course.course_id!r} cannot name a course: use letters, digits, . - and _"
        )
    names = list(labs) or [folder.name for folder in lab_directories(course.root)]
    manifests = [find_lab(course.root, name) for name in names]
    config = dest / "nbgrader_config.py"
    if dest.exists() and not dest.is_dir():
        raise CourseError(f"{dest} is a file: name a folder")
    if dest.is_dir() and any(dest.iterdir()) and not config.exists():
        raise CourseError(f"{dest} is not empty and no nbgrader course: name a new folder")
    source = dest / "source"
    source.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=source) as temporary:
        places = [Path(temporary) / manifest.name for manifest in manifests]
        for manifest, place in zip(manifests, places, strict=True):
            _write_assignment(course, manifest, place)
        try:
            report = prove_folders(places, course.root)
        except ReleaseError as error:
            raise CourseError(str(error)) from None
        for place in places:
            shutil.rmtree(source / place.name, ignore_errors=True)
            place.rename(source / place.name)
    if not config.exists():
        config.write_text(configuration(course), encoding="utf-8")
    return manifests, report


def _write_assignment(course: Course, manifest: Manifest, folder: Path) -> None:
    root, lab = course.root, manifest.directory
    ours = lab / f"{manifest.name}.ipynb"
    if not ours.is_file():
        raise CourseError(f"{manifest.name} has no notebook {ours.name}: write one first")
    notebook = assignment(manifest, nbformat.read(ours, as_version=4), course.tiers)
    folder.mkdir()
    nbformat.write(notebook, folder / ours.name)
    package = folder / "labs" / manifest.package
    shutil.copytree(lab, package, ignore=_LEFT_OUT)
    _write_stubs(root / "solutions" / manifest.package, package)
    shutil.copyfile(root / "labs" / "__init__.py", folder / "labs" / "__init__.py")
    needed = use_weights([*lab.rglob("*.py"), ours])
    ignored = _LEFT_OUT if needed else shutil.ignore_patterns("__pycache__", "*.pyc", WEIGHTS)
    shutil.copytree(root / "labs" / "common", folder / "labs" / "common", ignore=ignored)
    _copy_grader(root, folder, manifest)
    pins = root / "constraints" / f"{manifest.name}.txt"
    if pins.is_file():
        text = re.sub(r"^#.*\n", "", pins.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (folder / "requirements.txt").write_text(text, encoding="utf-8")


def _write_stubs(solutions: Path, package: Path) -> None:
    """Stubs from the solutions: those in the tree may hold somebody's work. A lab without
    solutions in this tree keeps what lies there.
    """
    for solution in solutions.rglob("*.py"):
        if "__pycache__" not in solution.parts:
            stub = package / solution.relative_to(solutions)
            stub.write_text(make_stub(solution.read_text(encoding="utf-8"), solution.name), "utf-8")


def _copy_grader(root: Path, dest: Path, manifest: Manifest) -> None:
    """The grader that students get, and what their tests and plots import of the lab's folder."""
    files = {name: file for name, file in _read(ROOT, "graders").items() if of_grader(name)}
    theirs = _read(root, f"labs/{manifest.package}") | _read(root, f"graders/{manifest.name}")
    files |= {name: theirs[name] for name in shared_references(theirs, [manifest])}
    write_files(dest, {name: file.data for name, file in files.items()})


def _read(root: Path, name: str) -> Tree:
    return read_folder(root / name, f"{name}/")


# -- the configuration -----------------------------------------------------------------------------

_CONFIG = '''\
"""nbgrader's settings for this course. Yours to change; `nox -s course` does not write it again.

Once a lab, in this folder:
    nbgrader generate_assignment lab01     source/ -> release/, and the tasks into the gradebook
    nbgrader release_assignment lab01      -> the exchange. Without one, hand release/ out yourself
    nbgrader collect lab01                 -> submitted/. Archives from elsewhere: see zip_collect
    nbgrader autograde lab01               -> autograded/ and the gradebook
    nbgrader generate_feedback lab01       -> feedback/
    nbgrader release_feedback lab01        -> the exchange
    nbgrader export                        grades.csv

Autograde never runs a notebook. It grades the package beside it in a sandbox. For a large class let
`nox -s grade -- HERE --lab lab01 --out HERE/results/lab01` do that first, on all cores:
autograde then takes its signed records.

A score that nbgrader refuses is in its log with the reason, and the submission stays ungraded. Look
at the gradebook, not at the exit status.
"""

import os
import sys

# The course's tree, with the hidden tests. INFERLAB names another copy of it.
INFERLAB = os.environ.get("INFERLAB", @root@)
sys.path.insert(0, INFERLAB)

from graders.nbgrader import autograde  # noqa: E402

c = get_config()  # noqa: F821 - nbgrader defines it
autograde.configure(c, root=INFERLAB)

c.CourseDirectory.course_id = @course_id@

# The gradebook. SQLite in this folder when left out. For several graders at once, PostgreSQL:
#   c.CourseDirectory.db_url = "postgresql+psycopg2://user@host/gradebook"
# Keep a password out of this file, in ~/.pgpass.
@db@

# The exchange: one folder that every student of a shared machine can write to.
@exchange@

# -- grading ---------------------------------------------------------------------------------------

# Where signed records are looked for, and (the last one) kept. {lab} is the assignment.
c.Inject.records = ["results/{lab}/records", "records/{lab}"]
# False: take the class grader's records alone, and refuse what has none.
c.Inject.grade_missing = True
# "process" only where there is no sandbox: a submission can then read the hidden tests.
c.Inject.isolation = "sandbox"
# "cpu", "cuda", or "auto": GPU tasks where there is a GPU.
c.Inject.device = "auto"

# -- late submissions ------------------------------------------------------------------------------

# "none" or "zero". For a rule of your own see LateSubmissionPlugin in nbgrader's manual.
# Due dates: nbgrader db assignment add lab01 --duedate="2026-10-30 18:00:00 UTC"
c.LateSubmissionPlugin.penalty_method = "none"

# -- export ----------------------------------------------------------------------------------------

# `nbgrader export` writes nbgrader's own table. For Canvas:
#   nbgrader export --exporter=graders.nbgrader.plugins.CanvasExport --to=canvas.csv
'''


def configuration(course: Course) -> str:
    """The text of ``nbgrader_config.py``."""
    url = _POSTGRES.sub("postgresql+psycopg2://", course.db, count=1)
    db = f"c.CourseDirectory.db_url = {_literal(url)}"
    exchange = f"c.Exchange.root = {_literal(course.exchange)}"
    filled = {
        "@root@": _literal(str(course.root)),
        "@course_id@": _literal(course.course_id),
        "@db@": db if course.db else '# c.CourseDirectory.db_url = "sqlite:///gradebook.db"',
        "@exchange@": exchange if course.exchange
        else '# c.Exchange.root = "/usr/local/share/nbgrader/exchange"',
    }  # fmt: skip
    text = _CONFIG
    for mark, value in filled.items():
        text = text.replace(mark, value)
    return text


def _literal(text: str) -> str:
    """A Python string in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def describe(
    manifests: Sequence[Manifest], report: Report, dest: Path, tiers: Collection[str]
) -> str:
    """What was written, for the terminal."""
    lines = [f"nbgrader course in {dest}"]
    for manifest in manifests:
        tasks = [task for task in manifest.tasks if task.tier in tiers]
        points = sum(task.points for task in tasks)
        lines.append(f"  {manifest.name}  {len(tasks)} graded cells, {points:g} points")
    lines.append(
        f"Looked into {report.objects} files for {report.sought} texts: no solution and no hidden "
        "test in them."
    )
    nbgrader = Path(sys.executable).with_name("nbgrader")
    lines += ["Next:", f"  cd {dest}", f"  {nbgrader} generate_assignment {manifests[0].name}"]
    return "\n".join(lines)
