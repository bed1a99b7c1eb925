"""Grading on a Ray: a real one on this machine, where it is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
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
    chosen = Settings(tmp_path / "class", "lab90", tmp_path / "out", jobs=2, executor="ray")
    assert grade_class(chosen, root) == 0
    expected = {"ann": "100", "bob": "40", "cleo": "60", "dan": "40"}
    assert points(tmp_path / "out") == {name: ("graded", p) for name, p in expected.items()}
    for student in expected:
        assert toys.record(tmp_path / "out", student).isolation == "sandbox"
    # What a cluster graded is not graded again on one machine.
    again = Settings(tmp_path / "class", "lab90", tmp_path / "out", jobs=2)
    assert grade_class(again, root) == 0
    assert set(starts(tmp_path / "out").values()) == {1}


@pytest.mark.skipif(INSTALLED, reason="Ray is installed here")
def test_without_ray_it_says_so(root: Path, tmp_path: Path) -> None:
    chosen = Settings(tmp_path / "class", "lab90", tmp_path / "out", executor="ray")
    with pytest.raises(ClassError, match="needs Ray, which is not installed here"):
        grade_class(chosen, root)


def test_a_ray_that_does_not_start_is_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray raises plain Exceptions, such as this one on a machine that is too busy."""

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init))
    chosen = Settings(tmp_path / "class", "lab90", tmp_path / "out", executor="ray")
    with pytest.raises(ClassError, match="no Ray at this machine: The current node timed out"):
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


def test_folders_of_dead_workers_are_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f"inferlab-ray-{gone.pid}-a", f"inferlab-ray-{os.getpid()}-b", "inferlab-ray-x"):
        (tmp_path / name).mkdir()
    ray_pool.clear_dead()
    assert sorted(os.listdir(tmp_path)) == [f"inferlab-ray-{os.getpid()}-b", "inferlab-ray-x"]
