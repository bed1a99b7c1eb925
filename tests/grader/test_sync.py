"""Stubs from solutions: exact text, clear errors, and nobody's work overwritten."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from graders.sync import SyncError, make_stub, sync

SOLUTION = '''"""Norms."""


def rms_norm(x: float) -> float:
    """Scale."""
    y = x
    ### BEGIN SOLUTION
    # a secret comment
    if y:
        y = y / 2
    return y
    ### END SOLUTION


class Sampler:
    def pick(self) -> int:
        ### BEGIN SOLUTION
        return 1
        ### END SOLUTION
'''
STUB = '''"""Norms."""


def rms_norm(x: float) -> float:
    """Scale."""
    y = x
    raise NotImplementedError("rms_norm: your code here")


class Sampler:
    def pick(self) -> int:
        raise NotImplementedError("Sampler.pick: your code here")
'''


def test_a_stub_keeps_all_but_the_regions() -> None:
    assert make_stub(SOLUTION) == STUB
    assert make_stub(STUB) == STUB


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f():\n    ### BEGIN SOLUTION\n    return 1\n", "a.py:2: .*never closed"),
        ("def f():\n    return 1\n    ### END SOLUTION\n", "a.py:3: .*without"),
        (
            "def f():\n    ### BEGIN SOLUTION\n    ### BEGIN SOLUTION\n    return 1\n",
            "a.py:3: .*do not nest",
        ),
        ("def f():\n    return 1  ### BEGIN SOLUTION\n", "a.py:2: .*line of its own"),
        ("### BEGIN SOLUTION\nx = 1\n### END SOLUTION\n", "a.py:1: .*outside any function"),
        (
            "def f():\n    ### BEGIN SOLUTION\n    ### END SOLUTION\n    return 1\n",
            "a.py:2: .*empty",
        ),
        (
            "def f(\n    ### BEGIN SOLUTION\n    x):\n    ### END SOLUTION\n    return 1\n",
            "whole statements",
        ),
        ("def f(:\n", "a.py:1: not valid Python"),
    ],
)
def test_wrong_markers_are_named_by_file_and_line(text: str, says: str) -> None:
    with pytest.raises(SyncError, match=says):
        make_stub(text, "a.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("solutions", "labs"):
        (tmp_path / name / "lab01_x").mkdir(parents=True)
    (tmp_path / "solutions/lab01_x/norm.py").write_text(SOLUTION, encoding="utf-8")
    return tmp_path


def git(root: Path, *words: str) -> None:
    name = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *name, *words], check=True, capture_output=True)


def test_sync_writes_and_then_agrees(tree: Path) -> None:
    stub = Path("labs/lab01_x/norm.py")
    assert sync(tree, check=True) == [stub]
    assert not (tree / stub).exists()
    assert sync(tree) == [stub]
    assert (tree / stub).read_text(encoding="utf-8") == STUB
    assert sync(tree) == sync(tree, check=True) == []


def test_work_is_not_overwritten_unless_forced(tree: Path) -> None:
    sync(tree)
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "start")
    stub = tree / "labs/lab01_x/norm.py"
    source = tree / "solutions/lab01_x/norm.py"
    # A committed stub may go: git has it.
    source.write_text(SOLUTION.replace("Scale.", "Scale it."), encoding="utf-8")
    assert sync(tree)
    source.write_text(SOLUTION.replace("Scale.", "Scale x."), encoding="utf-8")
    work = STUB.replace("raise", "return 3  #")
    stub.write_text(work, encoding="utf-8")
    other = source.with_name("other.py")
    other.write_text("x = 1\n", encoding="utf-8")
    assert len(sync(tree, check=True)) == 2
    with pytest.raises(SyncError, match=r"labs/lab01_x/norm\.py.*--force"):
        sync(tree)
    assert stub.read_text(encoding="utf-8") == work
    assert not stub.with_name("other.py").exists()  # all or nothing
    sync(tree, force=True)
    assert "Scale x." in stub.read_text(encoding="utf-8")


def test_windows_line_ends_are_no_difference(tree: Path) -> None:
    sync(tree)
    (tree / "labs/lab01_x/norm.py").write_bytes(STUB.replace("\n", "\r\n").encode())
    assert sync(tree, check=True) == []
