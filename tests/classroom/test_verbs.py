"""The verbs verify and key, and the figures, files and pages made of a class."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from graders import cli
from graders.classroom.html import render_class
from graders.classroom.progress import Progress, duration
from graders.classroom.summary import (
    Row,
    TaskPoints,
    grades_csv,
    print_summary,
    summarize,
    summary_json,
)
from graders.manifest import find_lab
from graders.oracle.grade import ROOT
from graders.oracle.stage import make_stage
from graders.plugin import PATIENCE, Run
from graders.signing import load_key, rotate, sign

LAB = find_lab(ROOT, "lab02")


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key file of this test's own, not there yet."""
    monkeypatch.setenv("INFERLAB_KEY", str(tmp_path / "key.json"))
    return tmp_path / "key.json"


def test_verify_says_whose_when_which_key_and_whether_altered(
    key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = load_key()
    good, bad, earlier = (tmp_path / f"{name}.json" for name in ("good", "bad", "earlier"))
    earlier.write_bytes(sign(b'{"points": 10}', who="ann", key=old))
    new = rotate()
    good.write_bytes(sign(b'{"points": 10}', who="bob", key=new))
    assert cli.main(["verify", str(good), str(earlier)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "good.json: genuine; the record of bob, signed 20" in said[0]
    assert f"with the present key ({new.id})" in said[0]
    assert "the record of ann" in said[1] and f"with an earlier key ({old.id})" in said[1]
    envelope = json.loads(good.read_text())
    bad.write_text(json.dumps({**envelope, "record": '{"points": 99}'}))
    assert cli.main(["verify", str(bad), str(good), str(tmp_path / "absent.json")]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "bad.json: NOT GENUINE: altered since it was signed" in said[0]
    assert said[0].endswith("the record") and ": genuine" in said[1]
    assert "absent.json: cannot be read (No such file" in said[2]


def test_verify_makes_no_key(key_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "any.json"]) == 2
    assert "there is no signing key at" in capsys.readouterr().err
    assert not key_file.exists()


def test_key_lists_and_rotates(key_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["key"]) == 0
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert load_key().id in line and line.endswith("signs")
    assert cli.main(["key", "--rotate"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[-1] for line in said.splitlines()[1:]] == ["only", "signs"]
    assert json.loads(key_file.read_text())["keys"][0]["secret"] not in said


# -- figures ---------------------------------------------------------------------------------------


def row(student: str, share: float, **more: object) -> Row:
    tasks = [
        TaskPoints(t.id, t.points * share, t.points, "passed" if share == 1 else "partial")
        for t in LAB.tasks
        if t.tier == "cpu"
    ]
    fields = {"status": "graded", "origin": "now", "points": 100 * share, "of": 100.0, **more}
    return Row(student=student, tasks=tasks, **fields)  # type: ignore[arg-type]


def test_figures() -> None:
    shares = (0.0, 0.099, 0.1, 0.55, 0.999, 1.0, 1.0)
    rows = [row(f"s{n}", share, seconds=float(n)) for n, share in enumerate(shares)]
    rows.append(Row(student="bad", status="rejected", of=100.0, reason="no package"))
    rows.append(Row(student="odd", status="failed", reason="the grader failed 2 times"))
    summary = summarize(LAB, rows, seconds=60.0, graded_now=7)
    assert summary.bins == [2, 1, 0, 0, 0, 1, 0, 0, 0, 3]
    assert summary.quartiles == pytest.approx((0, 9.95, 55, 99.95, 100))
    assert [r.student for r in summary.slowest[:2]] == ["s6", "s5"]
    assert (summary.rate, summary.count("rejected"), summary.count("failed")) == (7, 1, 1)
    figures = summary.tasks[0]
    assert (figures.full, figures.part, figures.none) == (2, 4, 1)
    assert figures.mean == pytest.approx(sum(shares) / 7)
    lines = {r["student"]: r for r in csv.DictReader(io.StringIO(grades_csv(summary).decode()))}
    assert lines["s4"]["points"] == "99.9" and lines["s5"]["points"] == "100"
    assert lines["bad"]["points"] == "0", "rejected: no points"
    assert lines["odd"]["points"] == "", "failed: nobody knows how many points"
    read = json.loads(summary_json(summary))
    assert read["graded"] == 7 and read["mean"] == pytest.approx(100 * sum(shares) / 7)


def test_nothing_in_a_table_is_a_formula_or_a_line() -> None:
    bad = Row(student="=HYPERLINK(1)", status="rejected", reason="@a\nb\x1b[31m,c")
    (line,) = csv.reader(io.StringIO(grades_csv(summarize(LAB, [bad])).decode().split("\n", 1)[1]))
    assert line[0] == "'=HYPERLINK(1)" and line[-1].startswith("'@a b")
    assert "\x1b" not in line[-1]
    page = render_class(summarize(LAB, [row("<b>ann</b>", 1.0), bad]))
    assert "<b>ann</b>" not in page and "\x1b" not in page


@pytest.mark.parametrize("rows", [[], ["rejected"], ["failed"], ["pending"], ["graded"]])
def test_a_class_of_any_kind_can_be_shown(rows: list[str]) -> None:
    made = [row("ann", 0.0, status=status) for status in rows]
    summary = summarize(LAB, made)
    text = io.StringIO()
    print_summary(summary, Console(file=text, width=100))
    assert f"{len(rows)} student" in text.getvalue()
    assert "Students" in render_class(summary)
    json.loads(summary_json(summary))


def test_progress_in_a_pipe_and_on_a_terminal() -> None:
    for terminal in (False, True):
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=200, markup=False)
        with Progress(2, console) as progress:
            progress.done("ann", "100/100")
            progress.done("bob\x1b[2J", "failed: odd [/b]", failed=True)
        assert "bob" in text.getvalue() and "1 failed" in text.getvalue()
        assert "\x1b[2J" not in text.getvalue()
        assert "2/2" in text.getvalue()
    assert [duration(s) for s in (0, 89, 100, 5400, 7500)] == [
        "0 s", "89 s", "2 min", "1 h 30 min", "2 h 05 min",
    ]  # fmt: skip


# -- patience --------------------------------------------------------------------------------------


def test_a_task_that_keeps_hanging_gets_less_time() -> None:
    stage = make_stage(ROOT, LAB.package, ROOT / "labs" / LAB.package)
    stage.close()
    run = Run(stage, lambda _: pytest.fail("no worker"), [], timeouts={"a": 20.0, "b": 5.0})
    run._hangs = {"a": PATIENCE - 1, "b": PATIENCE}
    assert (run.budget_s("a"), run.budget_s("b")) == (20.0, 2.0)
    run._hangs["a"] += 1
    assert (run.budget_s("a"), run.budget_s("c")) == (4.0, 60.0)
