"""A small course as a tree of its own: the grader's code, one toy lab, its solution."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from graders.oracle.grade import ROOT
from graders.sync import make_stub
from tests.grader.toy import Course

SOLUTION = {
    "double.py": '''"""Doubling."""

import torch


def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    if not isinstance(x, torch.Tensor):
        raise TypeError("x must be a tensor")
    return x * 2
    ### END SOLUTION
''',
    "count.py": '''"""Counting."""


def up(n):
    """0, 1, ..., n - 1."""
    ### BEGIN SOLUTION
    yield from range(n)
    ### END SOLUTION
''',
}
MUTANTS = """
[[mutant]]
name = "thrice"
module = "double.py"
find = "x * 2"
replace = "x * 3"
fails = ["double"]
why = "one too many"
"""


def make_tree(root: Path) -> Path:
    """Write the tree; the stubs lie untouched in its lab."""
    shutil.copytree(
        ROOT / "graders",
        root / "graders",
        ignore=shutil.ignore_patterns("lab[0-9][0-9]", "__pycache__"),
    )
    shutil.copyfile(ROOT / "conftest.py", root / "conftest.py")
    Course(root)
    lab, solutions = root / "labs" / "lab90_toy", root / "solutions" / "lab90_toy"
    (lab / "__init__.py").write_text("")
    (root / "graders" / "lab90" / "mutants.toml").write_text(MUTANTS)
    (root / "graders" / "lab90" / "__init__.py").write_text("")
    solutions.mkdir(parents=True)
    for name, text in SOLUTION.items():
        (solutions / name).write_text(text)
        (lab / name).write_text(make_stub(text))
    return root


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The instructor's tree."""
    return make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def release(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's tree: no solutions, no hidden tests, the stubs untouched."""
    root = tmp_path_factory.mktemp("release") / "tree"
    shutil.copytree(tree, root, ignore=shutil.ignore_patterns("solutions", "lab90", "__pycache__"))
    return root
