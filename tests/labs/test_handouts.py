"""Every lab's handout: its Python sessions print what they say, its table of tasks is the
manifest's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from graders.manifest import Manifest, Task, find_lab
from graders.oracle.grade import ROOT
from tests.labs.trees import student_tree

HANDOUTS = sorted(ROOT.glob("labs/lab[0-9]*/README.md"))
each_handout = pytest.mark.parametrize("page", HANDOUTS, ids=lambda page: page.parent.name)
# Runs in the student's tree: takes the sessions from the page, one namespace for all of them.
# "spoil" puts another last digit into everything that the page says is printed.
RUNNER = """
import doctest, re, sys
text = open(sys.argv[1], encoding="utf-8").read()
blocks = re.findall(r"^```python\\n(.*?)^```$", text, re.S | re.M)
session = doctest.DocTestParser().get_doctest("\\n".join(blocks), {}, "handout", sys.argv[1], 0)
with_numbers = [e for e in session.examples if re.search(r"\\d", e.want)]
if sys.argv[2:] == ["spoil"]:
    for e in with_numbers:
        at = [m.start() for m in re.finditer(r"\\d", e.want)][-1]
        e.want = e.want[:at] + str((int(e.want[at]) + 1) % 10) + e.want[at + 1 :]
failed, tried = doctest.DocTestRunner().run(session)
print(f"tried {tried} numbers {len(with_numbers)} failed {failed}")
"""


class Sessions(NamedTuple):
    """Examples that ran, those of them that print a number, those that failed, and the output."""

    tried: int
    numbers: int
    failed: int
    said: str


def run_sessions(page: Path, folder: Path, *options: str, solved: bool) -> Sessions:
    """Run the page's sessions in a student's tree of their own."""
    tree = student_tree(folder, solved=solved)
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(tree / page.relative_to(ROOT)), *options],
        cwd=tree, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"tried (\d+) numbers (\d+) failed (\d+)\n\Z", done.stdout)
    assert found, done.stdout + done.stderr
    tried, numbers, failed = map(int, found.groups())
    return Sessions(tried, numbers, failed, done.stdout)


@each_handout
def test_sessions_print_what_they_say(page, tmp_path) -> None:
    ran = run_sessions(page, tmp_path, solved=True)
    assert ran.failed == 0, ran.said
    assert ran.tried == len(re.findall(r"^ *>>> ", page.read_text(encoding="utf-8"), re.M))
    assert ran.tried >= 40
    assert ran.numbers >= 20


@each_handout
def test_each_wrong_number_is_noticed(page, tmp_path) -> None:
    ran = run_sessions(page, tmp_path, "spoil", solved=True)
    assert ran.failed == ran.numbers, ran.said


@each_handout
def test_stubs_fail_most_of_what_prints(page, tmp_path) -> None:
    ran = run_sessions(page, tmp_path, solved=False)
    assert ran.failed > 0.8 * ran.numbers, ran.said


@each_handout
def test_table_of_tasks(page) -> None:
    text, lab = page.read_text(encoding="utf-8"), lab_of(page)
    rows = re.findall(
        r"^\| (\d+) \| (.+?) \| `(\w+)\.py` \| (.+?) \| ([\d, ]*?) ?\|$", text, re.MULTILINE
    )
    number = {task.id: str(n) for n, task in enumerate(lab.tasks, 1)}
    assert [(n, module, points, needs) for n, _, module, points, needs in rows] == [
        (number[task.id], task.module, points_of(task), ", ".join(number[i] for i in task.needs))
        for task in lab.tasks
    ]
    for (n, title, module, points, _), task in zip(rows, lab.tasks, strict=True):
        assert ("(GPU tier)" in title) == (task.tier == "gpu")
        if task.tier == "cpu":  # GPU tasks may share a section
            assert f"\n## {n}. {title} (`{module}.py`, {points} points)\n" in text


def lab_of(page: Path) -> Manifest:
    """The manifest beside a handout."""
    return find_lab(ROOT, page.parent.name)


def points_of(task: Task) -> str:
    """A task's points as tables write them; those of the GPU tier come on top."""
    return f"{task.points:g}" + (" extra" if task.tier == "gpu" else "")


def test_every_lab_has_a_handout() -> None:
    assert [page.parent for page in HANDOUTS] == sorted(
        path.parent for path in ROOT.glob("labs/lab[0-9]*/lab.toml")
    )
