"""``nbgrader autograde`` that runs no line of a student's: neither notebook nor package.

nbgrader's own autograde executes the notebook in a kernel that can read the hidden tests and write
the gradebook. Here the notebook is built anew (``notebook``), the package beside it is graded in
the sandbox by a process that never imports it, and each graded cell gets a message and one number.
From there on everything is nbgrader's: gradebook, late penalties, feedback, formgrader, export.

``configure`` sets a course up; its ``nbgrader_config.py`` calls it. Classes of nbgrader 0.9.6.
"""

from __future__ import annotations

import datetime
import glob
import os
import re
import secrets
import shutil
import stat
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bleach
import nbformat
import nbgrader.apps.api
import nbgrader.apps.autogradeapp
from nbconvert.exporters import HTMLExporter, NotebookExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode
from nbgrader import converters, utils
from nbgrader.api import Gradebook
from nbgrader.converters.base import BaseConverter
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor
from sqlalchemy.exc import SAWarning
from traitlets import Bool, Enum, List, Unicode

from graders.manifest import Manifest, find_lab
from graders.nbgrader.notebook import graded_ids, rebuilt
from graders.nbgrader.parts import ROOT
from graders.nbgrader.scores import (
    Records,
    Refused,
    grade,
    messages,
    shared_grader,
    task_scores,
    up_to_date,
    work_of,
)
from graders.oracle.stage import write_files
from graders.record import Record
from graders.signing import load_keys

_TEMPLATES = Path(__file__).with_name("templates")
_SMALL = 4096  # bytes of timestamp.txt and submission_secret.txt
_PREPROCESSORS = [
    "graders.nbgrader.autograde.Inject",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "graders.nbgrader.autograde.Audit",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]


_roots = [ROOT]


def course_root() -> Path:
    """The tree with the labs and their hidden tests."""
    return _roots[-1]


def configure(c: Any, root: Path | str = ROOT) -> None:
    """Make nbgrader grade this way. Called by the course's ``nbgrader_config.py``."""
    _roots.append(Path(root))
    # Six lines a submission about nbgrader's own code, in which a refusal would be overlooked.
    warnings.filterwarnings("ignore", category=SAWarning, module=r"nbgrader\.")
    # nbgrader starts `alembic` by name to make a gradebook, activated environment or not.
    beside = os.path.dirname(sys.executable)
    path = os.environ.get("PATH", os.defpath)
    if beside not in path.split(os.pathsep):
        os.environ["PATH"] = beside + os.pathsep + path
    c.Autograde.exporter_class = "graders.nbgrader.autograde.Exporter"
    c.Autograde.sanitize_preprocessors = ["nbgrader.preprocessors.CheckCellMetadata"]
    c.Autograde.autograde_preprocessors = _PREPROCESSORS
    # A student's HTML must not run in the browser of who grades, nor in feedback: nbgrader's pages
    # for both leave out the first of these for Markdown cells, and use the second.
    c.HTMLExporter.sanitize_html = True
    c.HTMLExporter.filters = {"markdown2html": "graders.nbgrader.autograde.safe_markdown"}
    c.GenerateFeedback.exporter_class = "graders.nbgrader.autograde.FeedbackExporter"
    c.FeedbackExporter.template_name = "inferlab_feedback"
    theirs = Path(nbgrader.__file__).parent / "server_extensions" / "formgrader"
    templates = str(theirs / "templates")
    c.FeedbackExporter.extra_template_basedirs = [str(_TEMPLATES), templates]
    styles = str(theirs / "static" / "node_modules" / "bootstrap" / "dist" / "css")
    c.FeedbackExporter.extra_template_paths = [templates, styles]
    c.FeedbackExporter.exclude_input_prompt = True
    c.FeedbackExporter.exclude_output_prompt = True
    c.ExchangeFactory.collect = "graders.nbgrader.exchange.Collect"
    c.ZipCollectApp.extractor_plugin = "graders.nbgrader.exchange.Extractor"
    c.ZipCollectApp.collector_plugin = "graders.nbgrader.exchange.Collector"
    # nbgrader makes its converter by name. It still is its own class, with these methods instead.
    nbgrader.apps.autogradeapp.Autograde = Autograde
    nbgrader.apps.api.Autograde = Autograde


# -- what nbgrader does with the files -------------------------------------------------------------


class _Files(BaseConverter):
    """Stands between nbgrader's Autograde and its base: which files go to ``autograded/``."""

    def init_assignment(self, assignment_id: str, student_id: str) -> None:
        """Write the submission's package and nbgrader's two small files, nothing else.

        nbgrader would copy whatever lies there, following links out of the submission, and would
        give up on the student over a folder where it expects a file.
        """
        source = Path(self._format_source(assignment_id, student_id))
        dest = Path(self._format_dest(assignment_id, student_id))
        manifest = find_lab(course_root(), assignment_id)
        package = dest / "labs" / manifest.package
        package.mkdir(parents=True, exist_ok=True)
        write_files(package, work_of(student_id, source, manifest).files)
        # release_feedback stops for the whole class where one of these is missing.
        stamp = _small(source / "timestamp.txt") or _collected_at(source)
        (dest / "timestamp.txt").write_bytes(stamp)
        secret = _small(source / "submission_secret.txt") or secrets.token_hex(64).encode()
        (dest / "submission_secret.txt").write_bytes(secret)


class Autograde(converters.Autograde, _Files):  # type: ignore[misc, name-defined]
    """nbgrader's converter, for submissions that may lack or spoil anything but the package."""

    def init_notebooks(self) -> None:
        """Put an empty notebook where a submission has none: its package is still graded."""
        pattern = self._format_source(self.coursedir.assignment_id, self.coursedir.student_id)
        for folder in map(Path, sorted(glob.glob(pattern))):
            if not folder.is_dir() or folder.is_symlink():
                continue
            for source in self._source_notebooks(folder.name):
                place = folder / source.name
                if place.is_dir() and not place.is_symlink():
                    self.log.warning("%s is a folder: taken for a missing notebook", place)
                    shutil.rmtree(place)
                elif os.path.lexists(place) and not place.exists():
                    place.unlink()  # a link to nowhere
                if not os.path.lexists(place):
                    self.log.warning("no notebook was handed in: %s", place)
                    place.write_bytes(b"")  # ``rebuilt`` says so where the student reads it
            self._mend_timestamp(folder)
        super().init_notebooks()

    def init_assignment(self, assignment_id: str, student_id: str) -> None:
        """As nbgrader does, but of the source's files take the lab's own alone."""
        source = Path(self._source(assignment_id))
        manifest = find_lab(course_root(), assignment_id)
        kept = {f"labs/{manifest.package}/{name}" for name in INSTRUCTORS}
        files = [path.relative_to(source).as_posix() for path in _all_files(source)]
        self.exclude_overwriting = {assignment_id: [name for name in files if name not in kept]}
        super().init_assignment(assignment_id, student_id)

    def _source(self, assignment_id: str) -> str:
        return str(self.coursedir.format_path(self.coursedir.source_directory, ".", assignment_id))

    def _source_notebooks(self, assignment_id: str) -> list[Path]:
        return sorted(Path(self._source(assignment_id)).glob("*.ipynb"))

    def _mend_timestamp(self, folder: Path) -> None:
        """A timestamp that nobody can read is the time at which the files arrived here."""
        place = folder / "timestamp.txt"
        if not os.path.lexists(place):
            return
        stamp = _small(place)
        try:
            if stamp and utils.parse_utc(stamp.decode("utf-8").strip()):
                return
        except Exception:  # dateutil raises many kinds
            pass
        self.log.warning("%s says no time: the time of collecting counts", place)
        when = _collected_at(folder)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()
        place.write_bytes(when)


# The lab's files that are never the student's, below labs/<package>/.
INSTRUCTORS = ("lab.toml", "test_public.py", "expected.json", "plots.py", "README.md")


def _all_files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _small(path: Path) -> bytes:
    """The content of a small regular file; nothing for anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        return file.read(_SMALL) if stat.S_ISREG(os.fstat(fd).st_mode) else b""


def _collected_at(folder: Path) -> bytes:
    """When the folder last changed here: of a file's times the one that nobody can set."""
    when = datetime.datetime.fromtimestamp(folder.stat().st_ctime, datetime.UTC)
    return f"{when:%Y-%m-%d %H:%M:%S} UTC\n".encode()


class Exporter(NotebookExporter):  # type: ignore[misc]
    """Reads a student's notebook as ``notebook.rebuilt`` does, whatever it is."""

    def from_filename(
        self, filename: str, resources: dict[str, Any] | None = None, **more: Any
    ) -> Any:
        """The notebook rebuilt; in nbgrader's second pass, over our own file, as it is."""
        app: Any = self.parent
        if not app._sanitizing:
            return super().from_filename(filename, resources, **more)
        path = Path(filename)
        assignment = (resources or {})["nbgrader"]["assignment"]
        source = nbformat.read(Path(app._source(assignment)) / path.name, as_version=4)
        notebook, odd = rebuilt(path, source)
        for line in odd[:20]:
            self.log.warning("%s: %s", path, line)
        about = {"name": path.stem, "path": str(path.parent)}
        return self.from_notebook_node(  # type: ignore[no-any-return]
            notebook, {**(resources or {}), "metadata": about}, **more
        )


class FeedbackExporter(HTMLExporter):  # type: ignore[misc]
    """nbgrader's feedback pages; a class of their own so that formgrader keeps its template."""


# bleach takes away the class by which the page hides a heading's link until the mouse is there.
_ANCHOR = re.compile(r'<a class="anchor-link" href="[^"]*">[^<]*</a>')
_TAGS = frozenset(
    "a b blockquote br code dd del div dl dt em h1 h2 h3 h4 h5 h6 hr i li ol p pre span strong sub "
    "sup table tbody td th thead tr ul".split()
)
_CLASSED = ("code", "div", "pre", "span")  # colours of code


def safe_markdown(source: str) -> str:
    """HTML of a Markdown cell: text and its structure, no scripts, handlers or outside images."""
    return str(
        bleach.clean(
            _ANCHOR.sub("", markdown2html(source)),
            tags=_TAGS,
            attributes={"a": ["href", "title"], **{tag: ["class"] for tag in _CLASSED}},
            protocols=["http", "https", "mailto"],
        )
    )


# -- scores ----------------------------------------------------------------------------------------


class Inject(NbGraderPreprocessor):  # type: ignore[misc]
    """Grade the submission's package, or take the class grader's record of it; fill the cells."""

    records = List(
        ["results/{lab}/records", "records/{lab}"],
        help="Folders of signed records, below the course's folder, looked into in this order. "
        "What is graded here is kept in the last one, and an unchanged submission is not graded "
        "again: remove its record to grade anew.",
    ).tag(config=True)
    grade_missing = Bool(
        True, help="Grade here what has no record. Off: refuse it, for `nox -s grade` to do."
    ).tag(config=True)
    isolation = Enum(
        ("sandbox", "process"),
        default_value="sandbox",
        help="process: where there is no sandbox. A submission can then read the hidden tests.",
    ).tag(config=True)
    device = Enum(
        ("auto", "cpu", "cuda"), default_value="auto", help="As for the grader's --device."
    ).tag(config=True)
    key = Unicode("", help="The signing key's file; empty: INFERLAB_KEY or the user's own.").tag(
        config=True
    )

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Raises Refused, SigningError or the grader's errors: nbgrader then drops this student's
        submission, with the reason in its log, and goes on with the next.
        """
        about = resources["nbgrader"]
        manifest = find_lab(course_root(), about["assignment"])
        record = self._record(manifest, about["student"])
        tasks = graded_ids(nb)
        absent = [t.id for t in manifest.tasks if t.tier == "cpu" and t.id not in tasks]
        if absent:
            raise Refused(
                f"the assignment has no cell for {absent[0]!r}: build the course anew "
                "(`nox -s course`), then `nbgrader generate_assignment`"
            )
        scores, texts = task_scores(record, manifest, tasks), messages(record)
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            if utils.is_grade(cell):
                name = cell.metadata.nbgrader["grade_id"]
                cell.outputs = [
                    nbformat.v4.new_output("stream", name="stdout", text=texts[name]),
                    nbformat.v4.new_output(
                        "execute_result", data={"text/plain": repr(scores[name])}
                    ),
                ]
        resources["inferlab_scores"] = scores
        return nb, resources

    def _record(self, manifest: Manifest, student: str) -> Record:
        converter = self.parent.parent
        course: CourseDirectory = converter.coursedir
        folders = [Path(course.root) / name.format(lab=manifest.name) for name in self.records]
        records = Records(tuple(folders), load_keys(self.key or None))
        submitted = course.format_path(course.submitted_directory, student, manifest.name)
        work = work_of(student, Path(submitted), manifest)
        grader = shared_grader(course_root(), manifest.name, self.isolation, self.device)
        record = records.find(student, manifest.name, work.sha256)
        if record is not None and up_to_date(record, grader):
            return record
        if not self.grade_missing:
            raise Refused(f"there is no record of what {student} handed in: grade the class first")
        self.log.info("Grading %s of %s in the %s", manifest.name, student, self.isolation)
        records.keep(student, grade(work, grader))
        kept = records.find(student, manifest.name, work.sha256)
        if kept is None:
            raise Refused(f"the record of {student} cannot be read back")
        return kept


class Audit(NbGraderPreprocessor):  # type: ignore[misc]
    """The gradebook holds what was injected: nbgrader calls a run a success without looking."""

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Raises Refused."""
        about, scores = resources["nbgrader"], resources["inferlab_scores"]
        with Gradebook(about["db_url"]) as gradebook:
            submission = gradebook.find_submission_notebook(
                about["notebook"], about["assignment"], about["student"]
            )
            saved = {grade.name: (grade.auto_score, grade.max_score) for grade in submission.grades}
        for name, (value, most) in saved.items():
            if name not in scores or value is None or abs(value - scores[name]) > 1e-9:
                raise Refused(
                    f"the gradebook has {value!r} for {name!r}, and {scores.get(name)!r} was earned"
                )
            if scores[name] > most + 1e-9:
                raise Refused(f"{name!r}: {scores[name]:g} points of {most:g} in the gradebook")
        if missing := scores.keys() - saved.keys():
            raise Refused(
                f"the gradebook has no {min(missing)!r}: run `nbgrader generate_assignment` again"
            )
        return nb, resources
