"""``bench --class``: what it compares must be able to differ. Times are nobody's business here."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from graders import cli
from graders.classroom import bench, trivial
from graders.classroom.made_up import HOSTILE, KINDS, make_class
from graders.classroom.summary import Row, TaskPoints, grades_csv, summarize, summary_json
from graders.manifest import find_lab
from graders.oracle.grade import ROOT, Grader, Options
from graders.oracle.stage import digest, python_files

LAB = find_lab(ROOT, "lab02")
SHARES = {task.id: 1.0 for task in LAB.tasks if task.tier == "cpu"}


def row(student: str = "s0000", **shares: float) -> Row:
    """A graded row that earned everything, but for these tasks."""
    points = {task.id: task.points for task in LAB.tasks}
    tasks = [TaskPoints(t, points[t] * s, points[t], "") for t, s in (SHARES | shares).items()]
    earned = sum(task.earned for task in tasks)
    return Row(student=student, status="graded", points=earned, of=100.0, tasks=tasks)


def test_a_made_up_class_is_mixed_distinct_and_the_same_again(tmp_path: Path) -> None:
    plans = make_class(tmp_path / "a", LAB, 60, seed=3)
    assert make_class(tmp_path / "b", LAB, 60, seed=3) == plans
    assert {plan.kind for plan in plans.values()} == set(KINDS)
    hostile = {plan.what.split(" in ")[0] for plan in plans.values() if plan.kind == "hostile"}
    assert hostile == set(HOSTILE)
    graded = [s for s, plan in plans.items() if plan.status == "graded"]
    digests = [
        [digest(python_files(tmp_path / top / student / LAB.package)) for student in graded]
        for top in "ab"
    ]
    assert digests[0] == digests[1] and len(set(digests[0])) == len(graded)


def test_a_plan_says_what_a_fault_reaches(tmp_path: Path) -> None:
    plans = make_class(tmp_path, LAB, 200, seed=0).values()
    cost = next(p for p in plans if p.kind == "broken" and p.what == "cost.py")
    lost = {task for task, bounds in cost.tasks.items() if bounds == (0, 0)}
    assert lost == {"cost", "placement"}, "what imports it falls with it, and nothing else"
    assert cost.differs(row(cost=0, placement=0)) == ""
    assert "cost earned 1.00" in cost.differs(row(placement=0))
    assert "fit earned 0.50" in cost.differs(row(cost=0, placement=0, fit=0.5))
    assert "rejected and not graded" in cost.differs(Row(student="x", status="rejected"))
    correct = next(p for p in plans if p.kind == "correct")
    assert correct.differs(row()) == "" and correct.differs(row(fit=0.9))
    mutant = next(p for p in plans if p.kind == "mutant")
    assert mutant.differs(row()), "a mutant that earns everything"


def test_a_difference_between_two_runs_is_found(tmp_path: Path) -> None:
    one, other, faster = tmp_path / "one", tmp_path / "other", tmp_path / "faster"
    for out, rows, seconds in (
        (one, [row("ann"), row("bob", fit=0.5)], 9.0),
        (other, [row("ann"), row("bob", fit=0.25)], 9.0),
        (faster, [row("ann"), row("bob", fit=0.5)], 3.0),
    ):
        out.mkdir()
        for each in rows:
            each.seconds, each.graded = seconds, f"at {seconds}"
        summary = summarize(LAB, rows, seconds=seconds, graded_now=int(seconds))
        (out / "grades.csv").write_bytes(grades_csv(summary))
        (out / "summary.json").write_bytes(summary_json(summary))
    assert bench.differences(one, faster) == [], "how long it took is no difference"
    found = bench.differences(one, other)
    assert found[0].startswith("grades.csv: ") and "'fit': '3.5'" in found[0]
    assert {"summary.json: rows", "summary.json: mean", "summary.json: tasks"} <= set(found)
    shutil.copy(one / "summary.json", other)
    lines = (one / "grades.csv").read_text().splitlines(keepends=True)
    (other / "grades.csv").write_text("".join(lines[:-1]))
    (lost,) = bench.differences(one, other)
    assert "bob" in lost and lost.endswith("and None")


def test_what_was_graded_twice_is_found() -> None:
    events = [("start", "a"), ("start", "b"), ("start", "a"), ("done", "a"), ("done", "b")]
    lines = [{"event": event, "key": key} for event, key in events]
    assert bench.graded_again([*lines, {"event": "summary"}]) == []
    assert bench.graded_again([*lines, {"event": "start", "key": "b"}]) == ["b"]
    assert bench.graded_again([*lines, {"event": "done", "key": "a"}]) == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
def test_the_trivial_lab_gives_what_nbgraders_gives(tmp_path: Path) -> None:
    trivial.write_lab(tmp_path)
    trivial.hand_in_to_us(tmp_path / "class", 2)
    with Grader(trivial.LAB, Options("sandbox", device="cpu"), tmp_path) as grader:
        earned = [
            sum(task.earned for task in grader.run(str(folder / trivial.PACKAGE)).tasks)
            for folder in sorted((tmp_path / "class").iterdir())
        ]
    assert earned == [100, 80]


def test_an_unknown_part_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["bench", "--class", "--part", "speed", "--json", str(tmp_path / "x")]) == 2
    assert "--part speed: there are throughput, start, students, kills" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
