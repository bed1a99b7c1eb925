"""The released course works by itself, in a clone, with what is in it and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from graders.cli import parser
from graders.oracle.grade import ROOT
from graders.record import Record, from_json, totals
from graders.release import check
from tests.release.conftest import Made, git


@pytest.fixture(scope="module")
def clone(real: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a student has after `git clone`."""
    folder = tmp_path_factory.mktemp("clone") / "inferlab"
    git(folder.parent, "clone", "--quiet", "--no-local", str(real.repository), str(folder))
    return folder


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the clone, with no path that leads to the course."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True
    )


def grade(root: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], Record]:
    done = run(root, "-m", "graders", "grade", "lab01", "--json", "record.json", *words)
    return done, from_json((root / "record.json").read_bytes())


def test_nothing_of_the_course_is_in_it(real: Made) -> None:
    for place in (real.repository, real.archive):
        report = check(place, real.course)
        assert report.findings == []
    # Nearly every line of every solution is looked for: few are common property.
    inside = [
        line.strip()
        for path in (real.course / "solutions").rglob("*.py")
        for region in re.findall(
            r"### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", path.read_text(), re.S
        )
        for line in region.splitlines()
        if len(" ".join(line.split())) >= 8
    ]
    from graders.release.confidential import read_confidential
    from graders.release.tree import read_source

    sought = read_confidential(read_source(real.course).files).lines
    lost = {line for line in inside if " ".join(line.split()) not in sought}
    assert len(lost) < 0.05 * len(set(inside)) and len(inside) > 500


def test_stubs_earn_nothing_and_the_report_helps(clone: Path) -> None:
    done, record = grade(clone)
    assert done.returncode == 1, done.stderr
    sums = totals(record, "cpu")
    assert sums.earned == 0 and sums.points == 100 and 0 < sums.to_grade < 100
    assert record.hidden_present is False
    assert all(test.visibility == "public" for task in record.tasks for test in task.tests)
    text = " ".join(done.stdout.split())
    assert "Still to be graded by hidden tests" in text and "not written yet" in text
    assert "Stuck? The next hint: python3 noxfile.py -s lab01 -- --hint --task rms_norm" in text
    done, _ = grade(clone, "--hint", "--task", "rms_norm")
    assert "Hint 1 of " in done.stdout


def test_the_solution_earns_all_that_public_tests_carry(real: Made, clone: Path) -> None:
    mine = clone.parent / "solved"
    git(clone.parent, "clone", "--quiet", str(clone), str(mine))
    for source in (real.course / "solutions" / "lab01_token_generation").glob("*.py"):
        shutil.copyfile(source, mine / "labs" / "lab01_token_generation" / source.name)
    done, record = grade(mine, "--device", "cpu")
    assert done.returncode == 0, done.stdout
    cpu = [task for task in record.tasks if task.tier == "cpu"]
    assert {task.status for task in cpu} == {"to_grade"}
    assert all(task.earned == pytest.approx(task.possible_public) for task in cpu)
    sums = totals(record, "cpu")
    assert sums.lost == 0 and sums.earned + sums.to_grade == pytest.approx(100)


def test_the_commands_are_the_students(clone: Path) -> None:
    done = run(clone, "noxfile.py", "--list")
    names = re.findall(r"^[*-] (\S+) ->", done.stdout, re.M)
    labs = sorted(path.name[:5] for path in (clone / "labs").glob("lab[0-9]*"))
    assert names == [*labs, "notebook"]
    for verb in (["release", "x"], ["bench"]):
        done = run(clone, "-m", "graders", *verb)
        assert done.returncode == 2 and "a student's release" in done.stderr
        assert "Traceback" not in done.stderr
    done = run(clone, "-m", "pytest", "--collect-only", "-q", "labs")
    assert done.returncode == 0 and "test_rms_norm" in done.stdout


def test_documents_lead_nowhere_else(clone: Path) -> None:
    for page in clone.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name} links to {link}"
    readme = (clone / "README.md").read_text(encoding="utf-8")
    known = parser().format_help() + _grade_help()
    for option in re.findall(r"`(--[a-z]+)", readme):
        assert option in known
    for path in (clone / "labs").glob("lab[0-9]*/lab.toml"):
        assert f"labs/{path.parent.name}/README.md" in readme
        assert tomllib.loads(path.read_text())["summary"] in readme
    assert "your code here" in (clone / "AGENTS.md").read_text(encoding="utf-8")


def _grade_help() -> str:
    done = run(ROOT, "-m", "graders", "grade", "--help")
    return done.stdout


def test_notebooks_come_without_outputs(clone: Path) -> None:
    for path in clone.rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") for cell in cells)
