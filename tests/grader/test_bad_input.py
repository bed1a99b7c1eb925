"""Submissions of a two-task lab: what counts, what is said, what stays hidden.

The long list of ways to misbehave is in the gauntlet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from graders.manifest import LabNotFound
from graders.oracle.grade import ROOT, GradeError, Grader, Options
from graders.oracle.stage import StageError, make_stage

from .toy import Course, course, first_failure, task


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    """One course, its fork servers kept warm."""
    with course(tmp_path_factory.mktemp("course")) as made:
        yield made


@pytest.mark.parametrize("isolation", ["process", "sandbox"])
def test_good_solution_earns_everything(toy: Course, isolation: str) -> None:
    record = toy.grade({}, isolation)
    assert [t.earned for t in record.tasks] == [60.0, 40.0, 0.0]
    assert task(record, "fast").status == "not_attempted"


def test_generator_that_never_ends_is_cut_short(toy: Course) -> None:
    record = toy.grade({"count.py": "import itertools\ndef up(n): return itertools.count()\n"})
    assert first_failure(record, "count").message == "not equal"
    assert task(record, "double").earned == 60


def test_async_stream_is_consumed(toy: Course) -> None:
    source = (
        "import asyncio\nasync def up(n):\n"
        "    for i in range(n):\n        await asyncio.sleep(0)\n        yield i\n"
    )
    assert task(toy.grade({"count.py": source}), "count").earned == 40


@pytest.mark.parametrize("isolation", ["process", "sandbox"])
def test_deleted_working_directory(toy: Course, isolation: str) -> None:
    source = (
        "import os, shutil\ndef up(n):\n"
        "    shutil.rmtree(os.getcwd(), ignore_errors=True)\n    yield from range(n)\n"
    )
    record = toy.grade({"count.py": source}, isolation)
    assert [t.earned for t in record.tasks] == [60.0, 40.0, 0.0]


def test_output_that_is_not_utf8_is_shown_escaped(toy: Course) -> None:
    source = "import os\ndef up(n):\n    os.write(1, b'caf\\xe9 ')\n    yield 7\n"
    assert "caf\\xe9" in first_failure(toy.grade({"count.py": source}), "count").stdout


def test_traceback_is_the_students_own(toy: Course) -> None:
    source = "def up(n):\n    return helper(n)\n\ndef helper(n):\n    raise ValueError('odd')\n"
    text = first_failure(toy.grade({"count.py": source}), "count").traceback
    assert "helper(n)" in text and "ValueError: odd" in text
    assert "servant.py" not in text and "/stage/" not in text


def test_no_hidden_tests_means_points_still_to_be_graded(tmp_path: Path) -> None:
    with course(tmp_path, hidden=False) as made:
        record = made.grade({})
    assert not record.hidden_present
    assert task(record, "double").earned == 30
    assert task(record, "double").status == "to_grade"


def test_no_such_lab(tmp_path: Path) -> None:
    with pytest.raises(LabNotFound, match="lab77"):
        Grader("lab77", Options(), tmp_path)


def test_a_submission_that_is_none_is_named(toy: Course, tmp_path: Path) -> None:
    grader = toy.grader("process")
    file = tmp_path / "norm.py"
    file.write_text("x = 1\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    for place, says in (
        (tmp_path / "none", "there is no such folder"),
        (file, "it is a file"),
        (empty, r"holds no Python file.*double\.py, count\.py"),
    ):
        with pytest.raises((GradeError, StageError), match=says) as caught:
            grader.run(str(place))
        assert str(place) in str(caught.value)


def test_too_many_files_are_named_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    venv = tmp_path / "submission" / "venv"
    venv.mkdir(parents=True)
    for number in range(501):
        (venv / f"m{number}.py").write_text("")
    with pytest.raises(StageError, match=r"venv/m\d+\.py\): move what is not part"):
        make_stage(tmp_path, "lab90_toy", venv.parent)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's sandbox has another uid")
def test_a_private_umask_does_not_lock_the_sandbox_out(toy: Course) -> None:
    before = os.umask(0o077)
    try:
        record = toy.grade({}, "sandbox")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert [t.earned for t in record.tasks] == [60.0, 40.0, 0.0]


@pytest.mark.parametrize("seed", ["3", "4"])
def test_a_name_that_is_no_utf8_is_no_reason_to_fail(toy: Course, seed: str) -> None:
    (toy.root / "submission").mkdir(exist_ok=True)
    record = toy.grade({"caf\udce9" + seed + ".py": "x = 1\n"})
    assert [t.earned for t in record.tasks] == [60.0, 40.0, 0.0]


SNOOP = """
import gc, os, sys

def secrets():
    found, looked = [], 0
    frame = sys._getframe()
    texts = [repr(dict(os.environ))]
    while frame is not None:
        texts += [repr(frame.f_locals), repr(list(frame.f_globals))]
        frame = frame.f_back
    for thing in gc.get_objects():
        looked += 1
        if type(thing) is dict:
            texts += [v for v in list(thing.values()) if type(v) is str]
        elif type(thing) in (list, tuple):
            texts += [v for v in thing if type(v) is str]
    for text in texts:
        if MARK[::-1] in text:
            found.append(text[:100])
    for place in PLACES:
        for folder, _, names in os.walk(place):
            for name in names:
                looked += 1
                if name in ("test_hidden.py", "expected.json", "mutants.toml"):
                    found.append(os.path.join(folder, name))
    for pid in os.listdir("/proc") if PLACES else []:
        try:
            if MARK[::-1].encode() in open(f"/proc/{pid}/environ", "rb").read():
                found.append(pid)
        except OSError:
            pass
    return found, looked

def double(x):
    if len(x) == 1:
        found, looked = secrets()
        print(f"looked at {looked}, found {found}")
    if not isinstance(x, str):
        return x * 2
    raise TypeError
"""


@pytest.mark.parametrize(
    ("isolation", "files", "finds"),
    [("process", False, False), ("sandbox", True, False), ("process", True, True)],
)
def test_nothing_to_find_where_the_submission_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str, files: bool, finds: bool
) -> None:
    """Memory holds no secret at any level; in the sandbox no file and no process does either.

    The last line shows that the search can find something: it is a student's own machine there.
    """
    monkeypatch.setenv("INSTRUCTOR_KEY", "4711-do-not-tell")
    places = [str(tmp_path), str(ROOT / "graders")] if files else []
    source = SNOOP.replace("MARK", repr("4711-do-not-tell"[::-1])).replace("PLACES", repr(places))
    with course(tmp_path) as made:
        tests = made.root / "graders" / "lab90" / "test_hidden.py"
        tests.write_text(tests.read_text() + "\nKEY = '4711-do-not-tell'\n")
        record = made.grade({"double.py": source}, isolation)
    text = task(record, "double").tests[0].stdout
    assert "looked at" in text
    assert ("found []" not in text) == finds, text
