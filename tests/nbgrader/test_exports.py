"""Scores that are refused, and results in the formats of other platforms, read back."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from datetime import timedelta

import jsonschema
import msgspec
import pytest

from graders.manifest import load_manifest
from graders.nbgrader.__main__ import main
from graders.nbgrader.exports import (
    CANVAS,
    Column,
    canvas_columns,
    canvas_csv,
    gradescope_json,
    junit,
    read_roster,
)
from graders.nbgrader.gradescope import Metadata, autograder_zip, read_metadata, run
from graders.nbgrader.scores import Records, Refused, messages, task_scores
from graders.oracle.grade import ROOT
from graders.record import Record, TaskResult, TestResult
from graders.scoring import ScoringError
from graders.signing import Altered, Key, SigningError, load_keys
from tests.grader.toy import GOOD, MANIFEST
from tests.nbgrader.conftest import toy_tree

KEY = Key(bytes(range(32)))
SECRET = "HIDDEN-INPUT"


def four_tests(task: str, passed: tuple[bool, ...]) -> list[TestResult]:
    """Three public tests of a third each, one hidden one of 1."""
    return [
        TestResult(
            f"{'hidden' if hidden else 'public'}::test_{task}[{n}]", task,
            "hidden" if hidden else "public", weight=1 if hidden else 1 / 3,
            outcome="passed" if ok else "failed", invariant=f"Invariant {n} of {task}.",
            message="" if ok else f"message {SECRET} \x1b[31m", got="" if ok else SECRET,
            given="" if ok else ("x = 1" if not hidden else SECRET), stdout=SECRET,
        )
        for n, (ok, hidden) in enumerate(zip(passed, (False,) * 3 + (True,), strict=True))
    ]  # fmt: skip


def record(
    double: tuple[bool, ...] = (True,) * 4, earned: float = 60.0, **changes: object
) -> Record:
    status = "passed" if all(double) else "partial" if any(double) else "failed"
    tasks = [
        TaskResult("double", "Double", "cpu", 60, earned, 30, status, four_tests("double", double)),
        TaskResult("count", "Count", "cpu", 40, 40, 40, "passed",
                   [TestResult("public::test_count", "count", "public", outcome="passed")]),
        TaskResult("fast", "Fast", "gpu", 10, 0, 10, "not_attempted",
                   [TestResult("public::test_fast", "fast", "public", outcome="not_attempted")]),
    ]  # fmt: skip
    made = Record(lab="lab90", title="Toy", target="s", hidden_present=True, tasks=tasks,
                  submission_sha256="ab", started="2026-01-01T00:00:00+00:00")  # fmt: skip
    return msgspec.structs.replace(made, **changes)


HALF = record((True, True, True, False), 30.0)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("labs") / "lab90_toy"
    folder.mkdir()
    (folder / "lab.toml").write_text(MANIFEST)
    return load_manifest(folder)


# -- scores ----------------------------------------------------------------------------------------


def with_double(**changes: object) -> Record:
    good = record()
    tasks = [msgspec.structs.replace(good.tasks[0], **changes), *good.tasks[1:]]
    return msgspec.structs.replace(good, tasks=tasks)


def test_good_scores_pass(manifest) -> None:
    assert task_scores(HALF, manifest, ["double", "count"]) == {"double": 30.0, "count": 40.0}
    third = with_double(earned=60 / 3 + 1e-12, status="partial")
    assert task_scores(third, manifest, ["double"]) == {"double": 20.0}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (with_double(earned=math.nan), "no finite number"),
        (with_double(earned=math.inf), "no finite number"),
        (with_double(earned=True), "no finite number"),
        (with_double(earned="60"), "no finite number"),
        (with_double(earned=-0.01), "below 0"),
        (with_double(earned=60.01), "above its maximum"),
        (with_double(points=600.0, earned=600.0), "lab.toml says 60"),
        (with_double(status="not_attempted"), "not attempted"),
        (record(tasks=record().tasks[1:]), "0 results"),
        (record(tasks=[record().tasks[0], *record().tasks]), "2 results"),
        (record(lab="lab91"), "a record of lab91"),
        (record(hidden_present=False), "hidden tests did not run"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_is_no_score_is_refused(bad, reason, manifest) -> None:
    with pytest.raises(Refused, match=reason):
        task_scores(bad, manifest, ["double", "count"])


def test_a_gpu_task_without_a_gpu_is_refused_not_zero(manifest) -> None:
    with pytest.raises(Refused, match="no GPU"):
        task_scores(record(), manifest, ["double", "fast"])


def test_messages_hold_no_hidden_input() -> None:
    told = messages(HALF)
    assert "30 of 60 points, 3 of 4 tests passed" in told["double"]
    assert "Invariant 3 of double. (hidden)" in told["double"]
    assert SECRET not in "".join(told.values())
    public = messages(HALF, "public")["double"]
    assert "3 of 3 public tests passed" in public and "points" not in public
    assert "Invariant 3" not in public


def test_records_are_of_one_student_and_these_files(tmp_path) -> None:
    records = Records((tmp_path / "class", tmp_path / "own"), (KEY,))
    assert records.find("s", "lab90", "ab") is None
    records.keep("s", HALF)
    assert records.find("s", "lab90", "ab") == HALF
    assert records.find("s", "lab90", "other files") is None
    assert not (tmp_path / "class").exists()
    with pytest.raises(Refused, match="not of lab91"):
        records.find("s", "lab91", "ab")
    path = tmp_path / "own" / "s.json"
    (tmp_path / "own" / "t.json").write_bytes(path.read_bytes())
    with pytest.raises(Refused, match="signed for 's'"):
        records.find("t", "lab90", "ab")
    path.write_bytes(path.read_bytes().replace(b"30.0", b"60.0"))
    with pytest.raises(Altered):
        records.find("s", "lab90", "ab")
    with pytest.raises(SigningError, match="not among yours"):
        Records(records.folders, (Key(bytes(32)),)).find("s", "lab90", "ab")


# -- Canvas ----------------------------------------------------------------------------------------


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_canvas_alone() -> None:
    columns = canvas_columns({"bo": HALF, "al": record(), "=cmd": record()})
    text, absent = canvas_csv(columns)
    header, points, *people = read(text)
    assert header == [*CANVAS, "lab90"] and points == ["    Points Possible", *[""] * 4, "100"]
    assert people == [["'=cmd", "", "", "'=cmd", "", "100"], ["al", "", "", "al", "", "100"],
                      ["bo", "", "", "bo", "", "70"]]  # fmt: skip
    assert absent == []


def test_canvas_with_its_own_export_as_roster(tmp_path) -> None:
    roster = tmp_path / "roster.csv"
    roster.write_text(
        "Student,ID,SIS User ID,SIS Login ID,Section,lab90 (4711),Quiz (1)\n"
        "    Points Possible,,,,,100,5\n"
        '"Lovelace, Ada",17,S1,al,A,,3\n"Turing, Alan",18,S2,none,A,12,4\n',
        encoding="utf-8-sig",
    )
    columns = canvas_columns({"bo": HALF, "al": record()})
    text, absent = canvas_csv(columns, read_roster(roster))
    assert read(text) == [
        [*CANVAS, "lab90 (4711)"],
        ["    Points Possible", "", "", "", "", "100"],
        ["Lovelace, Ada", "17", "S1", "al", "A", "100"],
        ["Turing, Alan", "18", "S2", "none", "A", ""],  # who handed in nothing keeps Canvas's grade
    ]
    assert absent == ["bo"]
    roster.write_text("name,grade\n")
    with pytest.raises(Refused, match="no export of Canvas"):
        read_roster(roster)


@pytest.mark.parametrize("bad", [math.nan, -1.0, 101.0])
def test_canvas_refuses_what_is_no_score(bad) -> None:
    with pytest.raises(Refused, match="of 100 points"):
        canvas_csv([Column("lab90", 100, {"al": bad})])


# -- Gradescope ------------------------------------------------------------------------------------

# As Gradescope's manual describes results.json.
VISIBILITY = {"enum": ["hidden", "after_due_date", "after_published", "visible"]}
FORMAT = {"enum": ["text", "html", "simple_format", "md", "ansi"]}
RESULTS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["score", "tests"],
    "properties": {
        "score": {"type": "number", "minimum": 0},
        "execution_time": {"type": "number"},
        "output": {"type": "string"},
        "output_format": FORMAT,
        "visibility": VISIBILITY,
        "stdout_visibility": VISIBILITY,
        "extra_data": {"type": "object"},
        "tests": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["score", "max_score", "name", "output", "visibility"],
                "properties": {
                    "score": {"type": "number", "minimum": 0},
                    "max_score": {"type": "number", "exclusiveMinimum": 0},
                    "status": {"enum": ["passed", "failed"]},
                    "name": {"type": "string"},
                    "output": {"type": "string"},
                    "output_format": FORMAT,
                    "visibility": VISIBILITY,
                },
            },
        },
    },
}


def test_gradescope() -> None:
    told = json.loads(gradescope_json(HALF))
    jsonschema.validate(told, RESULTS)
    assert told["score"] == 70
    seen = {test["name"]: test for test in told["tests"]}
    public = seen["double: Double (public tests)"]
    hidden = seen["double: Double (hidden tests)"]
    assert (public["score"], public["max_score"], public["visibility"]) == (30, 30, "visible")
    assert (hidden["score"], hidden["max_score"], hidden["visibility"]) == (
        0, 30, "after_published"
    )  # fmt: skip
    assert "Invariant 3" in hidden["output"] and "Invariant 3" not in public["output"]
    assert sum(test["max_score"] for test in told["tests"]) == 100
    assert SECRET not in json.dumps(told)
    assert json.loads(gradescope_json(record()))["score"] == 100
    with pytest.raises(Refused, match="no GPU"):
        gradescope_json(record(), tiers=("cpu", "gpu"))
    with pytest.raises(Refused, match="hidden tests did not run"):
        gradescope_json(record((True, True, True, False), 30.0, hidden_present=False))


def test_gradescope_zip_holds_one_lab_and_its_scripts(tmp_path) -> None:
    names = autograder_zip(ROOT, "lab02", tmp_path / "zip")
    needed = ("constraints/lab02.txt", "graders/lab02/test_hidden.py", "labs/common/units.py")
    assert {"setup.sh", "run_autograder", *(f"inferlab/{name}" for name in needed)} <= set(names)
    assert len(names) == len(set(names))
    for name in names:
        assert not re.search(r"solutions|lab01|alternatives|mutants|tiny_models/", name), name
    autograder_zip(ROOT, "lab02", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "zip").read_bytes()


# As Gradescope's manual shows it; a student with an extension has dates of their own.
METADATA = {
    "id": 123456,
    "created_at": "2018-08-01T01:30:00.365935-07:00",
    "assignment": {
        "due_date": "2018-07-31T23:00:00.000000-07:00", "group_size": 4, "group_submission": True,
        "id": 25828, "course_id": 1234, "late_due_date": None,
        "release_date": "2018-07-02T00:00:00.000000-07:00", "title": "Lab 90",
        "total_points": "20.0",
    },
    "submission_method": "upload",
    "users": [{"email": "ada@example.com", "id": 1, "name": "Ada \x1b[31mLovelace"}],
    "previous_submissions": [{"submission_time": "2018-07-02T00:00:00-07:00", "score": 0.0}],
}  # fmt: skip
# A Python in which only the packages of lab 02's environment can be imported.
LAB_ALONE = f"""
import importlib.metadata, pathlib, re, sys
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
pins = pathlib.Path({str(ROOT / "constraints" / "lab02.txt")!r}).read_text()
there = {{plain(line.split("==")[0]) for line in pins.splitlines() if "==" in line}}
modules = importlib.metadata.packages_distributions().items()
absent = {{name for name, of in modules if not there & {{plain(one) for one in of}}}}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_gradescope_zip_grades_as_gradescope_would_run_it(tree, tmp_path) -> None:
    """Unpacked at another place, with nothing of this tree and the lab's packages alone."""
    autograder_zip(tree, "lab90", tmp_path / "zip")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(LAB_ALONE)
    root = tmp_path / "autograder"
    with zipfile.ZipFile(tmp_path / "zip") as archive:
        archive.extractall(root / "source")
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111
    for script in ("setup.sh", "run_autograder"):
        subprocess.run(["bash", "-n", str(root / "source" / script)], check=True)
    (root / "submission").mkdir()
    for name, text in GOOD.items():
        (root / "submission" / name).write_text(text)
    environment = {**os.environ, "AUTOGRADER_ROOT": str(root), "AUTOGRADER_PYTHON": sys.executable}
    environment["PYTHONPATH"] = str(site)
    lacks = [sys.executable, "-c", "import nbformat"]
    assert subprocess.run(lacks, env=environment, capture_output=True).returncode == 1
    (root / "submission_metadata.json").write_text(json.dumps(METADATA))
    command = ["bash", str(root / "source" / "run_autograder")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads((root / "results" / "results.json").read_text())
    jsonschema.validate(told, RESULTS)
    assert told["score"] == 100 and all(test["status"] == "passed" for test in told["tests"])
    assert told["output"].splitlines()[1:] == [
        "handed in by Ada \ufffd[31mLovelace",
        "handed in 2:30:00 after the due date; no points are taken off here for that",
    ]
    assert "Gradescope's assignment has 20 points, this lab 100" in done.stderr


def test_gradescope_metadata(tmp_path, capsys) -> None:
    path = tmp_path / "submission_metadata.json"

    def read(**changes: object) -> Metadata:
        path.write_text(json.dumps({**METADATA, **changes}))
        return read_metadata(path)

    assert read().late() == timedelta(hours=2, minutes=30, microseconds=365935)
    extended = {"name": "Bo", "assignment": {"due_date": "2018-08-02T00:00:00-07:00"}}
    group = read(users=[*METADATA["users"], extended, {"name": " "}])
    assert group.students() == ["Ada \ufffd[31mLovelace", "Bo"] and group.late() is None
    assert read(created_at="2018-08-01T05:59:00+00:00").late() is None, "the same moment as due"
    assert read(assignment={"due_date": None}).late() is None
    assert capsys.readouterr().err == ""
    for odd in ("{", "[]", '{"users": 7}', '{"created_at": "yesterday"}', "\xff"):
        path.write_text(odd, encoding="latin-1")
        assert read_metadata(path) == Metadata()
        assert "not as expected" in capsys.readouterr().err
    path.unlink()
    assert read_metadata(path) == Metadata() and capsys.readouterr().err == ""


def test_gradescope_tells_a_bad_submission_from_a_broken_course(tmp_path) -> None:
    course = toy_tree(tmp_path / "tree")
    submission, results = tmp_path / "submission", tmp_path / "results" / "results.json"
    submission.mkdir()
    (submission / "notes.txt").write_text("nothing")
    run(course, "lab90", submission, results, "sandbox", "hidden")
    told = json.loads(results.read_text())
    jsonschema.validate(told, RESULTS)
    assert told["score"] == 0 and "nothing could be graded" in told["tests"][0]["output"]
    (course / "graders" / "lab90" / "expected.json").write_text("{")
    with pytest.raises(ScoringError):
        run(course, "lab90", submission, results, "sandbox", "hidden")
    assert not results.exists(), "an old result would be taken for this one's"


# -- JUnit -----------------------------------------------------------------------------------------


def test_junit() -> None:
    top = ET.fromstring(junit([("al", record()), ("bo", HALF)]).encode())
    suites = {suite.get("name"): suite for suite in top}
    bo = suites["lab90 bo"]
    assert (bo.get("tests"), bo.get("failures"), bo.get("errors"), bo.get("skipped")) == (
        "6", "1", "0", "1"
    )  # fmt: skip
    assert suites["lab90 al"].get("failures") == "0"
    [failure] = bo.iter("failure")
    assert failure.get("message") == "Invariant 3 of double."
    points = {one.get("name"): one.get("value") for one in bo.iter("property")}
    assert points == {"points.double": "30/60", "points.count": "40/40", "points.fast": "/10"}
    assert all(one.get("classname", "").startswith("lab90.") for one in bo.iter("testcase"))
    assert SECRET not in junit([("bo", HALF)])
    full = junit([("bo", HALF)], full=True)
    assert SECRET in full and "\x1b" not in full
    ET.fromstring(full.encode())


def test_the_command_line_exports_signed_records(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("INFERLAB_KEY", str(tmp_path / "key.json"))
    folder = tmp_path / "records"
    Records((folder,), load_keys()).keep("bo", HALF)
    assert main(["canvas", str(folder), "--out", str(tmp_path / "canvas.csv")]) == 0
    assert read((tmp_path / "canvas.csv").read_text())[2][-1] == "70"
    assert main(["junit", str(folder), "--out", str(tmp_path / "junit.xml")]) == 0
    ET.parse(tmp_path / "junit.xml")
    out = tmp_path / "results.json"
    assert main(["gradescope", str(folder / "bo.json"), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["score"] == 70
    path = folder / "bo.json"
    path.write_bytes(path.read_bytes().replace(b"30.0", b"60.0"))
    assert main(["canvas", str(folder), "--out", str(tmp_path / "not.csv")]) == 2
    assert "altered since it was signed" in capsys.readouterr().err
    assert not (tmp_path / "not.csv").exists()
