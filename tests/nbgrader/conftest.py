"""A course with one small lab, its notebook, and nbgrader's commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from graders.nbgrader.course import Course, write_course
from graders.oracle.grade import ROOT
from tests.grader import toy

STUBS = {
    "double.py": "def double(x):\n    raise NotImplementedError\n",
    "count.py": "def up(n):\n    raise NotImplementedError\n    yield\n",
}
SETUP = "import os\nimport sys\n\nsys.path.insert(0, os.getcwd())"
Nbgrader = Callable[..., "Said"]


class Said:
    """What a command said and its exit status."""

    def __init__(self, text: str, status: int) -> None:
        self.text, self.status = text, status


def toy_tree(root: Path) -> Path:
    """The small lab with stubs and a notebook; two tasks with a section each, one on a GPU."""
    toy.Course(root)
    lab = root / "labs" / "lab90_toy"
    for name, text in {**STUBS, "__init__.py": ""}.items():
        (lab / name).write_text(text)
    make = nbformat.v4
    cells = [
        make.new_markdown_cell("# Toy\n\nSee the [handout](README.md).", id="title"),
        make.new_code_cell(SETUP, id="setup"),
        make.new_markdown_cell("## 1. Double", id="double-text"),
        make.new_code_cell("1 + 1", id="double-plot"),
        make.new_markdown_cell("## 2. Count", id="count-text"),
    ]
    notebook = make.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python"
    }  # fmt: skip
    nbformat.write(notebook, lab / "lab90.ipynb")
    return root


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The instructor's tree."""
    return toy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the instructor's signing key is, once somebody needs it."""
    return tmp_path_factory.mktemp("key") / "keys.json"


@pytest.fixture(scope="session")
def instructor(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> dict[str, str]:
    """The environment of the instructor's commands: nothing of this machine's user."""
    home = tmp_path_factory.mktemp("home")
    return {
        **os.environ, "HOME": str(home), "INFERLAB_KEY": str(key_file), "PYTHONPATH": str(ROOT),
        "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"),
    }  # fmt: skip


@pytest.fixture(scope="session")
def nbgrader(instructor: dict[str, str]) -> Iterator[Nbgrader]:
    """Runs ``nbgrader <command>`` in a folder; ``ok`` says whether it must succeed."""
    driver = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("driver.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=instructor, text=True,
    )  # fmt: skip
    assert driver.stdin is not None and driver.stdout is not None

    def run(folder: Path, command: str, *, ok: bool | None = True) -> Said:
        driver.stdin.write(f"{folder}\t{command}\n")
        driver.stdin.flush()
        lines: list[str] = []
        for line in driver.stdout:
            if line.startswith("=> "):
                said = Said("".join(lines), int(line[3:]))
                assert ok is None or (said.status == 0) == ok, said.text
                return said
            lines.append(line)
        raise AssertionError("nbgrader's process ended:\n" + "".join(lines))

    yield run
    driver.stdin.close()
    driver.wait(30)


def make_course(tree: Path, dest: Path, **options: str) -> Path:
    """An nbgrader course of the small lab."""
    write_course(Course(tree, course_id="toy", **options), dest, ["lab90"])
    return dest
