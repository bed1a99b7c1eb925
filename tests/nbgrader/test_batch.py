"""A class through nbgrader's own commands: exchange, a batch full of odd submissions, feedback.

One batch for all of it. Each submission says what it does and what it must get; none of them may
change what another gets, and no line of any may run in nbgrader's process.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from nbgrader.api import Gradebook

from graders.record import from_json
from graders.signing import Key, load_key, load_keys, sign, verify
from tests.grader.toy import GOOD
from tests.nbgrader.conftest import Nbgrader, make_course

PACKAGE = "labs/lab90_toy"
DOUBLE, COUNT = f"{PACKAGE}/double.py", f"{PACKAGE}/count.py"
STUB = "def double(x):\n    raise NotImplementedError\n"
HALF = "def double(x):\n    return x * 2\n"  # does not refuse text: 30 of 60
DUE = "2100-01-10 12:00:00 UTC"
LATE = "2100-01-10 13:00:00 UTC\n"
Change = Callable[[Path], Any]


@dataclass
class Case:
    """One student: points by task, modules other than the good ones, and what else is done: to the
    student's own folder, and to what lies in the exchange afterwards.
    """

    double: float = 60
    count: float = 40
    modules: dict[str, str] = field(default_factory=dict)
    before: Change = lambda folder: None
    after: Change = lambda folder: None


# -- what students do ------------------------------------------------------------------------------


def notebook(change: Callable[[dict], Any]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "lab90.ipynb"
        told = json.loads(path.read_text())
        change(told)
        path.write_text(json.dumps(told))

    return apply


def graded(told: dict, name: str) -> dict:
    return next(
        cell
        for cell in told["cells"]
        if cell["metadata"].get("nbgrader", {}).get("grade_id") == name
    )


def delete_cells(told: dict) -> None:
    told["cells"] = [cell for cell in told["cells"] if "nbgrader" not in cell["metadata"]]


def double_cells(told: dict) -> None:
    told["cells"] += [json.loads(json.dumps(graded(told, "double"))) for _ in range(3)]


def edit_cells(told: dict) -> None:
    for name in ("double", "count"):
        cell = graded(told, name)
        cell["source"] = "1000000.0"
        cell["metadata"]["nbgrader"].update(points=1000000, locked=False, solution=True)
        number = {"text/plain": "1000000.0"}
        cell["outputs"] = [
            {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": number}
        ]


def old_and_new_schema(told: dict) -> None:
    graded(told, "double")["metadata"]["nbgrader"]["schema_version"] = 1
    graded(told, "count")["metadata"]["nbgrader"]["schema_version"] = 99


def crazy(told: dict) -> None:
    told["cells"][0]["metadata"] = {"nbgrader": "yes"}
    told["cells"] += [7, None, {"cell_type": "wrong", "source": 3}, {}]
    told["nbformat"] = "four"
    told["cells"][1]["source"] = "\ud800"  # half a character: it cannot be written as UTF-8


def every_cell(code: str) -> Callable[[dict], Any]:
    def change(told: dict) -> None:
        for cell in told["cells"]:
            cell["source"] = code if cell["cell_type"] == "code" else cell["source"]

    return change


def script(told: dict) -> None:
    html = "# Plot\n\n<script>steal()</script><img src=x onerror='steal()'>"
    html += "\n\n[here](javascript:steal())"
    told["cells"].insert(0, {"cell_type": "markdown", "metadata": {}, "source": html})
    shown = [{"output_type": "display_data", "metadata": {}, "data": {"text/html": html}}]
    told["cells"].insert(0, {"cell_type": "code", "metadata": {}, "source": "1", "outputs": shown})


def remove(name: str) -> Change:
    def apply(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return apply


def write(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data)


def folder_instead(name: str) -> Change:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return apply


def links(key: Path) -> Change:
    def apply(folder: Path) -> None:
        (folder / PACKAGE / "leak.py").symlink_to(key)
        (folder / PACKAGE / "gone.txt").symlink_to("/nowhere")
        (folder / "data").symlink_to(key.parent)

    return apply


def tries(*lines: str) -> dict[str, str]:
    """A good module that tries something first, at its import."""
    attempts = [f"try:\n    {line}\nexcept BaseException:\n    pass\n" for line in lines]
    return {DOUBLE: "".join(attempts) + GOOD["double.py"]}


def the_class(marker: Path, course: Path, key: Path) -> dict[str, Case]:
    """Students by name."""
    run = f"open({str(marker)!r}, 'w').write('ran')"
    book = f"open({str(course / 'gradebook.db')!r}, 'r+b').write(bytes(100))"
    show_key = f"print(open({str(key)!r}).read())"
    nan = "import torch\n\ndef double(x):\n    return torch.full((3,), float('nan'))\n"
    leak = GOOD["double.py"].replace('TypeError("x must be a tensor")', 'ValueError(f"LEAK {x}")')
    assert "LEAK" in leak
    return {
        "alice": Case(),
        "half": Case(30, modules={DOUBLE: HALF}),
        "untouched": Case(0, 0, modules={DOUBLE: STUB, COUNT: STUB.replace("double", "up")}),
        # the notebook
        "deleted": Case(before=notebook(delete_cells)),
        "doubled": Case(before=notebook(double_cells)),
        "edited": Case(30, modules={DOUBLE: HALF}, before=notebook(edit_cells)),
        "schema": Case(before=notebook(old_and_new_schema)),
        "crazy": Case(before=notebook(crazy)),
        "script": Case(before=notebook(script)),
        "runs": Case(before=notebook(every_cell(f"{run}\n{book}\n{show_key}"))),
        "no-json": Case(before=write("lab90.ipynb", b"[" * 100_000)),
        "no-notebook": Case(before=remove("lab90.ipynb")),
        "notebook-folder": Case(before=folder_instead("lab90.ipynb")),
        # the package
        "no-module": Case(count=0, before=remove(COUNT)),
        "no-package": Case(0, 0, before=remove(PACKAGE)),
        "odd-folder": Case(before=folder_instead(f"{PACKAGE}/lab.toml")),
        "writes": Case(modules=tries(run, book, show_key)),
        "exits": Case(count=0, modules={COUNT: "import os\nos._exit(0)\n"}),
        "nan": Case(0, modules={DOUBLE: nan}),
        "leaks": Case(30, modules={DOUBLE: leak}),
        # the exchange
        "links": Case(after=links(key)),
        "bad-time": Case(after=write("timestamp.txt", b"\xff tomorrow")),
        "late": Case(after=write("timestamp.txt", LATE.encode())),
    }


# -- the run ---------------------------------------------------------------------------------------


@dataclass
class Class:
    """The course after a batch."""

    course: Path
    students: dict[str, Case]
    marker: Path
    key_file: Path
    exchange: Path
    log: str

    def scores(self) -> dict[str, dict[str, float | None]]:
        """auto_score by student and task, read back by nbgrader's own class."""
        with Gradebook(f"sqlite:///{self.course}/gradebook.db") as book:
            return {
                one.student.id: {
                    grade.name: grade.auto_score for nb in one.notebooks for grade in nb.grades
                }
                for one in book.assignment_submissions("lab90")
            }


@pytest.fixture(scope="module")
def batch(
    tree: Path, key_file: Path, nbgrader: Nbgrader, tmp_path_factory: pytest.TempPathFactory
) -> Class:
    here = tmp_path_factory.mktemp("class")
    exchange, marker = here / "exchange", here / "marker"
    exchange.mkdir(mode=0o777)
    course = make_course(tree, here / "course", exchange=str(exchange))
    config = course / "nbgrader_config.py"
    text = config.read_text()
    assert 'penalty_method = "none"' in text
    config.write_text(text.replace('penalty_method = "none"', 'penalty_method = "zero"'))
    load_key(key_file)
    nbgrader(course, "generate_assignment lab90")
    nbgrader(course, f'db assignment add lab90 --duedate="{DUE}"')
    nbgrader(course, "release_assignment lab90")
    students = the_class(marker, course, key_file)
    where = f"--course=toy --Exchange.root={exchange} --Exchange.cache={here / 'cache'}"
    for student, case in students.items():
        home = here / "homes" / student
        home.mkdir(parents=True)
        nbgrader(home, f"fetch_assignment lab90 {where}")
        folder = home / "lab90"
        for name, module in {DOUBLE: GOOD["double.py"], COUNT: GOOD["count.py"]}.items():
            (folder / name).write_text(case.modules.get(name, module))
        case.before(folder)
        nbgrader(home, f"submit lab90 {where} --student={student}")
        [inbound] = (exchange / "toy" / "inbound").glob(f"{student}+*")
        case.after(inbound)
    nbgrader(course, "collect lab90")
    log = nbgrader(course, "autograde lab90").text
    return Class(course, students, marker, key_file, exchange, log)


def test_each_gets_the_right_score_and_nobody_loses_anything(batch: Class) -> None:
    wanted = {name: {"double": c.double, "count": c.count} for name, c in batch.students.items()}
    assert batch.scores() == wanted, batch.log[-4000:]


def test_no_student_code_ran_outside_the_sandbox(batch: Class) -> None:
    assert not batch.marker.exists()
    secret = json.loads(batch.key_file.read_text())["keys"][0]["secret"]
    for path in (batch.course / "autograded").rglob("*"):
        assert path.is_dir() or secret not in path.read_text(errors="replace"), path


def test_links_in_the_exchange_are_left_behind(batch: Class) -> None:
    folder = batch.course / "submitted" / "links" / "lab90"
    assert (folder / DOUBLE).is_file()
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    for name in ("leak.py", "gone.txt"):
        assert not (folder / PACKAGE / name).exists()
    assert not (folder / "data").exists()


def test_records_are_signed_for_their_student(batch: Class) -> None:
    folder = batch.course / "records" / "lab90"
    assert {path.stem for path in folder.glob("*.json")} == set(batch.students)
    for name, case in batch.students.items():
        found = verify((folder / f"{name}.json").read_bytes(), load_keys(batch.key_file))
        assert found.who == name
        earned = {task.id: task.earned for task in from_json(found.record).tasks}
        assert (earned["double"], earned["count"]) == (case.double, case.count)


def test_students_keep_their_modules_and_the_rest_is_the_instructors(
    batch: Class, tree: Path
) -> None:
    graded = batch.course / "autograded" / "half" / "lab90"
    assert (graded / DOUBLE).read_text() == HALF
    odd = batch.course / "autograded" / "odd-folder" / "lab90" / PACKAGE
    for name in ("lab.toml", "test_public.py", "expected.json"):
        assert (odd / name).read_bytes() == (tree / PACKAGE / name).read_bytes()


def test_grading_again_grades_nothing_anew(batch: Class, nbgrader: Nbgrader) -> None:
    before = batch.scores()
    said = nbgrader(batch.course, 'autograde lab90 --force --student="alice"')
    assert "Grading lab90" not in said.text
    assert batch.scores() == before


# -- what nbgrader makes of it ---------------------------------------------------------------------


def test_feedback_tells_each_task_and_no_hidden_input(batch: Class, nbgrader: Nbgrader) -> None:
    nbgrader(batch.course, "generate_feedback lab90")
    pages = {
        name: (batch.course / "feedback" / name / "lab90" / "lab90.html").read_text()
        for name in batch.students
    }
    assert "<h3>lab90: 70 of 100 points</h3>" in pages["half"]
    assert re.search(r">double</a></td>\s*<td[^>]*>30</td>\s*<td[^>]*>60</td>", pages["half"])
    assert "handed in late" in pages["late"] and "handed in late" not in pages["alice"]
    assert "Out[" not in pages["alice"] and "Test cell" not in pages["alice"]
    assert pages["no-notebook"].index("not handed in") < pages["no-notebook"].index("Double a")
    assert "Double a tensor: 60 of 60 points, 4 of 4 tests passed" in pages["alice"]
    assert "Double a tensor: 30 of 60 points, 3 of 4 tests passed" in pages["half"]
    assert "Text is refused with a TypeError. (hidden)" in pages["half"]
    assert "the submission has no count.py" not in pages["no-module"]  # an exception's words
    assert "nothing could be graded: it holds no folder lab90_toy" in pages["no-package"]
    assert "The notebook was not handed in" in pages["no-notebook"]
    for name, page in pages.items():
        assert "LEAK" not in page, name
        assert "¶" not in page, name
        assert not Scripts.of(page), name
    assert "steal()" in pages["script"], "shown as text"
    record = (batch.course / "records" / "lab90" / "leaks.json").read_text()
    assert "LEAK two" in record, "the instructor should see what the student must not"


class Scripts(HTMLParser):
    """Places where a page would run a student's code."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    @classmethod
    def of(cls, page: str) -> list[str]:
        parser = cls()
        parser.feed(page)
        return parser.found

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script"
        self.found += [f"{tag} {name}" for name, value in attributes if "steal" in (value or "")]

    def handle_data(self, data: str) -> None:
        if self._inside and "steal" in data:
            self.found.append(data)


def test_the_page_reader_sees_scripts() -> None:
    assert Scripts.of("<p>steal()</p>") == []
    assert Scripts.of("<script>steal()</script><img src=x onerror='steal()'>")[1] == "img onerror"


def test_feedback_is_released_for_everybody(batch: Class, nbgrader: Nbgrader) -> None:
    if not (batch.course / "feedback").exists():
        nbgrader(batch.course, "generate_feedback lab90")
    nbgrader(batch.course, "release_feedback lab90")
    pages = list((batch.exchange / "toy" / "feedback").glob("*.html"))
    assert len(pages) == len(batch.students)


def test_late_penalty_and_export(batch: Class, nbgrader: Nbgrader) -> None:
    nbgrader(batch.course, "export --to=grades.csv")
    with open(batch.course / "grades.csv", newline="") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    late, alice = rows["late"], rows["alice"]
    assert float(late["raw_score"]) == 100 and float(late["score"]) == 0
    assert float(late["late_submission_penalty"]) == 100
    assert float(alice["score"]) == 100 and float(alice["max_score"]) == 100
    assert rows["bad-time"]["timestamp"].startswith("20"), "the time of collecting"


def test_export_for_canvas_has_penalties(batch: Class, nbgrader: Nbgrader) -> None:
    plugin = "graders.nbgrader.plugins.CanvasExport"
    nbgrader(batch.course, f"export --exporter={plugin} --to=canvas.csv")
    with open(batch.course / "canvas.csv", newline="") as file:
        rows = {row["SIS Login ID"]: row["lab90"] for row in csv.DictReader(file)}
    assert (rows["alice"], rows["half"], rows["late"]) == ("100", "70", "0")


@pytest.fixture(scope="module")
def formgrader(
    batch: Class, instructor: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    """Gets a page or data of nbgrader's formgrader, from a server in the course's folder."""
    runtime = tmp_path_factory.mktemp("runtime")
    others = ("jupyterlab", "jupyter_lsp", "jupyter_server_terminals", "notebook", "notebook_shim")
    extensions = {"nbgrader.server_extensions.formgrader": True, **dict.fromkeys(others, False)}
    command = [
        sys.executable, "-m", "jupyter", "server", "--allow-root", "--no-browser",
        "--ServerApp.port=0", "--IdentityProvider.token=",
        f"--ServerApp.jpserver_extensions={extensions}",
    ]  # fmt: skip
    with open(runtime / "log", "wb") as log:
        server = subprocess.Popen(
            command, cwd=batch.course, stdout=log, stderr=log,
            env={**instructor, "JUPYTER_RUNTIME_DIR": str(runtime)},
        )  # fmt: skip
    try:
        last = time.monotonic() + 120
        while not (found := list(runtime.glob("jpserver-*.json"))):
            assert server.poll() is None and time.monotonic() < last, (runtime / "log").read_text()
            time.sleep(0.1)
        url = json.loads(found[0].read_text())["url"]

        def get(path: str) -> str:
            with urllib.request.urlopen(f"{url}formgrader/{path}", timeout=60) as answer:
                return answer.read().decode()

        yield get
    finally:
        server.terminate()
        server.wait(30)


def test_formgraders_data(batch: Class, formgrader: Callable[[str], str]) -> None:
    shown = {one["student"]: one for one in json.loads(formgrader("api/submissions/lab90"))}
    assert shown.keys() == batch.students.keys()
    for name, case in batch.students.items():
        assert shown[name]["autograded"] and not shown[name]["needs_manual_grade"]
        assert shown[name]["score"] == case.double + case.count
    notebooks = json.loads(formgrader("api/submitted_notebooks/lab90/lab90"))
    assert len(notebooks) == len(batch.students)


def test_formgraders_page_runs_no_students_markdown(
    batch: Class, formgrader: Callable[[str], str]
) -> None:
    notebooks = json.loads(formgrader("api/submitted_notebooks/lab90/lab90"))
    [script] = [one["id"] for one in notebooks if one["student"] == "script"]
    page = formgrader(f"submissions/{script}/")
    assert "steal()" in page and "<h1>Plot</h1>" in page, "a heading, without a link's mark"
    assert "Double a tensor: 60 of 60 points, 4 of 4 tests passed" in page
    assert not Scripts.of(page)


def test_a_manual_grade_stays(batch: Class, nbgrader: Nbgrader) -> None:
    url = f"sqlite:///{batch.course}/gradebook.db"
    with Gradebook(url) as book:
        grade = book.find_grade("double", "lab90", "lab90", "schema")
        grade.manual_score = 12.5
        book.db.commit()
    nbgrader(batch.course, 'autograde lab90 --force --student="schema"')
    with Gradebook(url) as book:
        grade = book.find_grade("double", "lab90", "lab90", "schema")
        assert (grade.auto_score, grade.manual_score, grade.score) == (60, 12.5, 12.5)
        grade.manual_score, grade.needs_manual_grade = None, False
        book.db.commit()


# -- records that must not be believed -------------------------------------------------------------


def forged(good: dict, key: Key) -> dict[str, bytes]:
    """Envelopes by student, each wrong in its own way."""

    def with_earned(text: str) -> bytes:
        return json.dumps(good).replace('"earned": 60.0', f'"earned": {text}').encode()

    def sealed(record: bytes, who: str) -> bytes:
        return sign(record, who=who, key=key)

    assert b'"earned": NaN' in with_earned("NaN")
    visible = json.loads(with_earned("30.0"))
    visible["hidden_present"] = False
    altered = json.loads(sealed(with_earned("60.0"), "f-altered"))
    altered["record"] = altered["record"].replace('"earned": 60.0', '"earned": 59.0')
    return {
        "f-nan": sealed(with_earned("NaN"), "f-nan"),
        "f-negative": sealed(with_earned("-1.0"), "f-negative"),
        "f-over": sealed(with_earned("60.5"), "f-over"),
        "f-infinite": sealed(with_earned("1e999"), "f-infinite"),
        "f-visible": sealed(json.dumps(visible).encode(), "f-visible"),
        "f-lab": sealed(json.dumps({**good, "lab": "lab01"}).encode(), "f-lab"),
        "f-stolen": sealed(with_earned("60.0"), "alice"),
        "f-altered": json.dumps(altered).encode(),
        "f-key": sign(with_earned("60.0"), who="f-key", key=Key(bytes(32))),
        "f-junk": b"{",
        "class": sealed(with_earned("45.0"), "class"),
    }


def test_records_that_are_no_scores_are_refused_and_cost_nobody_else(
    batch: Class, nbgrader: Nbgrader
) -> None:
    """A good record of the class grader is taken as it is; of a bad one nothing reaches the
    gradebook, and the log says which and why.
    """
    before, course = batch.scores(), batch.course
    envelope = (course / "records" / "lab90" / "alice.json").read_bytes()
    good = json.loads(verify(envelope, load_keys(batch.key_file)).record)
    good["tasks"][0]["status"] = "partial"
    results = course / "results" / "lab90" / "records"
    results.mkdir(parents=True)
    envelopes = forged(good, load_key(batch.key_file))
    for student, data in envelopes.items():
        (results / f"{student}.json").write_bytes(data)
        shutil.copytree(
            course / "submitted" / "alice" / "lab90", course / "submitted" / student / "lab90"
        )
    said = nbgrader(course, "autograde lab90", ok=False)
    after = batch.scores()
    assert after.pop("class") == {"double": 45, "count": 40}
    for student in envelopes.keys() - {"class"}:
        assert after.pop(student, {"double": None}) in (
            {"double": None}, {"double": None, "count": None}
        ), student  # fmt: skip
        assert f"'lab90' for student '{student}'" in said.text
        assert not (course / "autograded" / student / "lab90").exists()
    assert after == before
    for reason in ("above", "below 0", "altered since it was signed", "signed for 'alice'",
                   "not among yours", "hidden tests did not run", "record of lab01"):  # fmt: skip
        assert reason in said.text, reason
