"""A small course in a repository of its own, and releases of it and of the real course."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from graders.oracle.grade import ROOT
from graders.release import Release, release
from tests.cli.conftest import make_tree

PYPROJECT = """[project]
name = "toy"
version = "1"
requires-python = ">=3.11"

[dependency-groups]
# What the grader needs.
grader = ["pytest==9.2.0"]
lab90 = [
  { include-group = "grader" },
  "torch==2.13.0",
]
# Only for whoever writes the course.
tests = [{ include-group = "lab90" }, "ruff==0.17.6"]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""
ALTERNATIVE = '''"""Doubling."""


def double(x):
    """Twice x."""
    total = torch.zeros_like(x)
    for _ in range(2):
        total.add_(x)
    return total
'''
REFERENCE = '''"""References in fp64."""


def doubled_exactly(x):
    """Twice x, the slow way that nobody would write."""
    return torch.stack([x.double(), x.double()]).sum(dim=0)
'''
NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Doubling\n", "Try it."]},
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "b",
            "metadata": {},
            "outputs": [],
            "source": ["from labs.lab90_toy import double\n"],
        },
    ],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def git(root: Path, *words: str, data: bytes | None = None) -> str:
    """Run git as somebody, with no settings of this machine's user."""
    who = {f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in _WHO.items()}
    environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-C", str(root), *words],
        input=data, env=environment, capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.decode().strip()


_WHO = {"NAME": "A Teacher", "EMAIL": "t@example.org", "DATE": "2026-01-02T03:04:05 +0000"}


def commit_all(root: Path, message: str = "more") -> None:
    """Commit everything that lies there."""
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", message)


def make_course(root: Path) -> Path:
    """A course with one toy lab: everything that a release takes and leaves, with a history."""
    make_tree(root)
    lab, hidden = root / "labs" / "lab90_toy", root / "graders" / "lab90"
    (hidden / "reference.py").write_text(REFERENCE)
    (hidden / "alternatives" / "loop").mkdir(parents=True)
    (hidden / "alternatives" / "loop" / "double.py").write_text(ALTERNATIVE)
    (lab / "README.md").write_text("# Doubling\n\nTwice, and count.\n")
    (lab / "lab90.ipynb").write_text(json.dumps(NOTEBOOK, indent=1))
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "README.md").write_text("# Toy\n\n### A CPU-only torch\n\nName it.\n\n## Next\n\nNo.\n")
    (root / "content" / "measurements").mkdir(parents=True)
    (root / "content" / "measurements" / "a.json").write_text("{}")
    (root / "tests").mkdir()
    (root / "tests" / "test_course.py").write_text("def test_course():\n    pass\n")
    (root / "constraints").mkdir()
    for group in ("grader", "lab90", "tests"):
        (root / "constraints" / f"{group}.txt").write_text("torch==2.13.0\n")
    for name in (".gitignore", "LICENSE", "noxfile.py"):
        shutil.copyfile(ROOT / name, root / name)
    sync = [sys.executable, "-m", "graders", "sync", "--force"]
    subprocess.run(sync, cwd=root, check=True, capture_output=True)
    git(root, "init", "--quiet", "--initial-branch=main")
    commit_all(root, "start")
    commit_all(root, "and an empty one, for a history")
    return root


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy course; tests that change it take ``own_course``."""
    return make_course(tmp_path_factory.mktemp("course") / "toy")


@pytest.fixture
def own_course(course: Path, tmp_path: Path) -> Path:
    """A copy of the toy course for one test."""
    return Path(shutil.copytree(course, tmp_path / "course"))


@dataclass(frozen=True)
class Made:
    """A release: the course, the repository, the archive, and what the maker says."""

    course: Path
    repository: Path
    archive: Path
    said: Release


def make_release(course: Path, folder: Path) -> Made:
    """Release a course both ways."""
    repository, archive = folder / "student", folder / "student.tar.gz"
    return Made(course, repository, archive, release(course, repository, archive=archive))


@pytest.fixture(scope="session")
def toy(course: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The toy course's release."""
    return make_release(course, tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The release of the course as it lies in this tree, committed or not."""
    folder = tmp_path_factory.mktemp("real")
    course = folder / "course"
    for name in _files_of_the_course():
        if (ROOT / name).is_file():  # git also lists what was deleted just now
            (course / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, course / name)
    git(course, "init", "--quiet", "--initial-branch=main")
    commit_all(course, "as it lies there")
    return make_release(course, folder)


def _files_of_the_course() -> list[str]:
    if (ROOT / ".git").exists():
        listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        return [name for name in listed.split("\0") if name]
    return [  # a complete release that came as an archive
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if path.is_file() and not {".nox", "__pycache__", ".git"} & {*path.parts}
    ]
