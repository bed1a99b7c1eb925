"""The whole grader behind the sandbox, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graders.isolation import syscalls
from graders.oracle.grade import ROOT
from tests.grader.toy import GOOD, Course

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

ORDINARY_UID = 65534
WHO = """
import os
print("uid", os.getuid(), "files", os.path.exists({tests!r}), "net", os.listdir("/sys/class/net")
      if os.path.isdir("/sys/class/net") else [])
"""


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """A course with the grader's code where anybody may read it."""
    root = Path(tempfile.mkdtemp(prefix="inferlab-test-"))
    try:
        root.chmod(0o755)
        Course(root)
        shutil.copytree(
            ROOT / "graders",
            root / "graders",
            ignore=shutil.ignore_patterns("lab[0-9][0-9]", "__pycache__"),
            dirs_exist_ok=True,
        )
        submission = root / "submission"
        submission.mkdir()
        tests = root / "graders" / "lab90" / "test_hidden.py"
        who = WHO.format(tests=str(tests))
        (submission / "double.py").write_text(GOOD["double.py"] + who)
        (submission / "count.py").write_text(GOOD["count.py"])
        yield root
    finally:
        shutil.rmtree(root)


def open_the_way(path: str) -> None:
    """In a mount namespace of its own: lead to ``path`` although a parent is private."""
    private = [
        p
        for p in [*reversed(Path(path).parents), Path(path)]
        if not stat.S_IMODE(p.stat().st_mode) & stat.S_IXOTH
    ]
    if not private:
        return
    copy = syscalls.clone_tree(path)
    syscalls.mount("tmpfs", str(private[0]), "tmpfs", 0, "mode=0755,size=1m")
    os.makedirs(path)
    syscalls.attach_tree(copy, path)


def become_ordinary() -> None:
    """Drop root in a child, once the interpreter can be reached."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    for path in (sys.base_prefix, sys.prefix):
        open_the_way(os.path.realpath(path))
    os.setgroups([])
    os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
    os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)


def grade(tree: Path, before: Callable[[], None] | None) -> tuple[int, dict[str, Any]]:
    """Exit status and record of a graded submission; skips where there is no sandbox."""
    command = [sys.executable, "-m", "graders", "grade", "lab90", "--target", "submission"]
    try:
        done = subprocess.run(
            [*command, "--isolation", "sandbox", "--device", "cpu", "--json"],
            cwd=tree,
            env={**os.environ, "HOME": str(tree), "INSTRUCTOR_KEY": "4711"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            preexec_fn=before,
        )
    except (subprocess.SubprocessError, PermissionError) as error:
        pytest.skip(f"this container lets nobody become another user: {error}")
    if "no sandbox" in done.stderr:
        pytest.skip(f"NO SANDBOX HERE: {done.stderr}")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def outcome(record: dict[str, Any], name: str) -> tuple[float, dict[str, Any]]:
    """Points of a task, and its first test."""
    task = next(task for task in record["tasks"] if task["id"] == name)
    return task["earned"], task["tests"][0]


def test_root_grades_in_the_sandbox(tree: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root")
    status, record = grade(tree, None)
    earned, test = outcome(record, "double")
    assert (status, earned, record["isolation"]) == (0, 60, "sandbox")
    words = test["stdout"].split()
    assert words[0] == "uid" and 61184 <= int(words[1]) < 65280
    assert "files False" in test["stdout"]


def test_an_ordinary_user_grades_in_the_sandbox(tree: Path) -> None:
    """The same, and a module that this user cannot read costs its own task only."""
    locked = tree / "submission" / "count.py"
    locked.chmod(0)
    try:
        status, record = grade(tree, become_ordinary if os.geteuid() == 0 else None)
    finally:
        locked.chmod(0o644)
    earned, test = outcome(record, "double")
    assert (status, earned, record["isolation"]) == (1, 60, "sandbox")
    uid = ORDINARY_UID if os.geteuid() == 0 else os.geteuid()
    assert f"uid {uid} files False" in test["stdout"]
    earned, test = outcome(record, "count")
    assert earned == 0
    assert "count.py cannot be read (Permission denied)" in test["message"]
