"""A lab's solution with something laid around one module, in a worker of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from graders.oracle.grade import ROOT, Grader
from graders.oracle.proxy import Connection, Student
from graders.oracle.stage import make_stage

T = TypeVar("T")


def with_wrapped(
    grader: Grader, module: str, text: str | None, overlay: Path, use: Callable[[Student], T]
) -> T:
    """What ``use`` returns for the solution whose ``module`` is ``text`` instead.

    The module's own code is ``solved`` beside it. Without ``text`` it is as it was. ``overlay`` is
    a folder to be made.
    """
    package = grader.manifest.package
    submission = ROOT / "solutions" / package
    overlay.mkdir()
    if text is not None:
        (overlay / "solved.py").write_text((submission / module).read_text())
        (overlay / module).write_text(text)
    stage = make_stage(ROOT, package, submission, overlay)
    worker = grader._worker(stage, submission, "cpu")
    try:
        return use(Student(Connection(lambda: worker)))
    finally:
        worker.close()
        stage.close()
