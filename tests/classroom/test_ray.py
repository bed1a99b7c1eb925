"""Grading on a Ray: a real one on this machine, where it is installed."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from graders.classroom import ray_pool
from graders.classroom.discover import ClassError
from graders.classroom.run import Settings, grade_class
from graders.classroom.slot import Setup
from graders.worker.limits import Limits
from tests.classroom import toys
from tests.classroom.toys import hand_in, make_root, points, starts

INSTALLED = importlib.util.find_spec("ray") is not None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The course's tree, and a class of four."""
    theirs = tmp_path / "class"
    hand_in(theirs, "ann")
    hand_in(theirs, "bob", double="def double(x) return x\n")
    hand_in(theirs, "cleo", count="import os\nos._exit(0)\n")
    hand_in(theirs, "dan", double="import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n")
    return make_root(tmp_path / "tree")


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
@pytest.mark.skipif(
    not INSTALLED, reason="RAY IS NOT INSTALLED HERE: grading on a Ray cluster was NOT CHECKED"
)
def test_a_class_on_a_ray_of_this_machine(root: Path, tmp_path: Path) -> None:
    def ours() -> set[Path]:
        """Folders of Ray workers that hold a toy package; another run's may lie there, too."""
        return set(Path(tempfile.gettempdir()).glob("inferlab-class-*/package/lab90_toy"))

    before = ours()
    chosen = Settings(tmp_path / "class", "lab90", tmp_path / "out", jobs=2, executor="ray")
    assert grade_class(chosen, root) == 0
    expected = {"ann": "100", "bob": "40", "cleo": "60", "dan": "40"}
    assert points(tmp_path / "out") == {name: ("graded", p) for name, p in expected.items()}
    for student in expected:
        assert toys.record(tmp_path / "out", student).isolation == "sandbox"
    toys.wait_until("the Ray workers' folders to be removed", lambda: ours() <= before)
    # What a cluster graded is not graded again on one machine.
    again = Settings(tmp_path / "class", "lab90", tmp_path / "out", jobs=2)
    assert grade_class(again, root) == 0
    assert set(starts(tmp_path / "out").values()) == {1}


@pytest.mark.skipif(INSTALLED, reason="Ray is installed here")
def test_without_ray_it_says_so(root: Path, tmp_path: Path) -> None:
    chosen = Settings(tmp_path / "class", "lab90", tmp_path / "out", executor="ray")
    with pytest.raises(ClassError, match="needs Ray, which is not installed here"):
        grade_class(chosen, root)


@pytest.mark.parametrize("wrong", ["version", "root"])
def test_a_node_with_another_course_refuses(root: Path, wrong: str) -> None:
    setup = Setup(
        root=str(root if wrong == "version" else root / "elsewhere"),
        lab="lab90", isolation="sandbox", device="cpu", seed=0, limits=Limits(),
    )  # fmt: skip
    job = ray_pool.Task("key", "hash", {}, setup, "another version", 1.0)
    reply = msgspec.msgpack.decode(
        ray_pool.grade_task(msgspec.msgpack.encode(job)), type=ray_pool.Reply
    )
    says = {"version": "has another version of the course at", "root": "has no course at"}
    assert says[wrong] in reply.error and reply.record == b""
