"""A student's tree in a temporary folder: stubs as they are, or the solutions in their place."""

from __future__ import annotations

import shutil
from pathlib import Path

from graders.oracle.grade import ROOT


def student_tree(folder: Path, *, solved: bool) -> Path:
    """Copy what a student has to ``folder``: the labs, and the grader without its hidden tests.

    ``solved`` puts the solutions where the stubs are.
    """
    ignore = shutil.ignore_patterns("__pycache__", "lab[0-9][0-9]")
    shutil.copytree(ROOT / "graders", folder / "graders", ignore=ignore)
    shutil.copytree(ROOT / "labs", folder / "labs", ignore=shutil.ignore_patterns("__pycache__"))
    if solved:
        for package in (ROOT / "solutions").glob("lab[0-9]*"):
            for source in package.rglob("*.py"):
                shutil.copyfile(source, folder / "labs" / source.relative_to(ROOT / "solutions"))
    return folder
