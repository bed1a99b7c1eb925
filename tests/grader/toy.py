"""A course with one small lab, built in a temporary folder, for tests of the grader itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from graders.oracle.grade import Grader, Options
from graders.record import Record, TaskResult, TestResult
from graders.scoring import ExpectedTest, expected_json, make_expected

MANIFEST = """
schema = 1
number = 90
package = "lab90_toy"
title = "Toy"
summary = "A lab for testing the grader."
minutes = 1
preload = ["torch"]
[[task]]
id = "double"
title = "Double a tensor"
module = "double"
points = 60
tier = "cpu"
timeout_s = 4
hints = ["multiply"]
[[task]]
id = "count"
title = "Count up"
module = "count"
points = 40
tier = "cpu"
timeout_s = 4
hints = ["yield"]
[[task]]
id = "fast"
title = "Double a tensor on the GPU"
module = "double"
points = 10
tier = "gpu"
timeout_s = 20
hints = ["multiply there"]
"""

PUBLIC = '''
import pytest
import torch


@pytest.mark.task("double")
@pytest.mark.parametrize("n", [1, 5, 40000])
def test_double(student, check, n):
    """Every number of the result is twice the input's."""
    x = torch.arange(n, dtype=torch.float32)
    check.close(student.double.double(x), 2 * x, given={"x": x})


@pytest.mark.task("count")
def test_count(student, check):
    """The stream yields 0, 1, 2."""
    check.equal([v for v, _ in zip(student.count.up(3), range(5), strict=False)], [0, 1, 2])


@pytest.mark.task("fast")
def test_fast(student, check):
    """The result is on the GPU."""
    check.close(student.double.double(torch.ones(3)), torch.full((3,), 2.0))
'''

HIDDEN = '''
import pytest
import torch


@pytest.mark.task("double", weight=1)
def test_double_refuses_text(student, check):
    """Text is refused with a TypeError."""
    with check.raises(TypeError):
        student.double.double("two")
'''

GOOD = {
    "double.py": """
import torch

def double(x):
    if not isinstance(x, torch.Tensor):
        raise TypeError("x must be a tensor")
    return x * 2
""",
    "count.py": "def up(n):\n    yield from range(n)\n",
}


class Course:
    """The folder, and a way to grade a submission in it."""

    def __init__(self, root: Path, *, hidden: bool = True) -> None:
        self.root = root
        lab = root / "labs" / "lab90_toy"
        (root / "labs" / "common").mkdir(parents=True)
        (root / "labs" / "__init__.py").write_text("")
        (root / "labs" / "common" / "__init__.py").write_text("")
        lab.mkdir()
        (lab / "lab.toml").write_text(MANIFEST)
        (lab / "test_public.py").write_text(PUBLIC)
        grader = root / "graders" / "lab90"
        grader.mkdir(parents=True)
        (grader / "test_hidden.py").write_text(HIDDEN)
        tests = {
            f"public::test_double[{n}]": ExpectedTest("double", 1 / 3, "public")
            for n in (1, 5, 40000)
        }
        tests["public::test_count"] = ExpectedTest("count", 1, "public")
        tests["public::test_fast"] = ExpectedTest("fast", 1, "public")
        tests["hidden::test_double_refuses_text"] = ExpectedTest("double", 1, "hidden")
        listed, unlisted = make_expected(tests)
        (lab / "expected.json").write_bytes(expected_json(listed))
        (grader / "expected.json").write_bytes(expected_json(unlisted))
        if not hidden:
            (grader / "test_hidden.py").unlink()
        self._graders: dict[str, Grader] = {}

    def grade(
        self, files: dict[str, str | bytes], isolation: str = "process", **options: object
    ) -> Record:
        """Grade the good solution with ``files`` in place of its modules."""
        folder = self.root / "submission"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, text in {**GOOD, **files}.items():
            if text is not None:
                (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
        grader = self.grader(isolation)
        for name, value in options.items():
            setattr(grader.options, name, value)
        return grader.run(str(folder))

    def grader(self, isolation: str) -> Grader:
        """The grader of this course for a level; its fork server stays warm."""
        if isolation not in self._graders:
            self._graders[isolation] = Grader(
                "lab90", Options(isolation=isolation, device="cpu"), self.root
            )
        return self._graders[isolation]

    def close(self) -> None:
        """End the fork servers."""
        for grader in self._graders.values():
            grader.close()


@contextlib.contextmanager
def course(root: Path, **options: bool) -> Iterator[Course]:
    """A course for one test module."""
    made = Course(root, **options)
    try:
        yield made
    finally:
        made.close()


def task(record: Record, name: str) -> TaskResult:
    """A task of a record."""
    return next(t for t in record.tasks if t.id == name)


def first_failure(record: Record, name: str) -> TestResult:
    """The first failing test of a task."""
    return next(t for t in task(record, name).tests if t.outcome != "passed")
