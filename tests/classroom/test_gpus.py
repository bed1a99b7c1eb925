"""Leases of GPUs: made-up devices, listed by a made-up nvidia-smi; real slots and workers."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from graders.classroom.discover import ClassError
from graders.classroom.gpus import Lease, lease
from graders.classroom.pool import LocalPool
from graders.classroom.slot import Job, Setup
from graders.oracle.stage import digest, python_files
from graders.worker.limits import Limits
from tests.classroom import toys
from tests.classroom.toys import hand_in, make_root
from tests.grader.toy import GOOD, task

TWO = {"0": ("GPU-aa", "NVIDIA H100 80GB HBM3"), "1": ("GPU-bb", "NVIDIA H100 80GB HBM3")}
MIXED = {**TWO, "2": ("GPU-cc", "NVIDIA T400, 4GB")}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Machine]:
    """Call it with GPUs: nvidia-smi lists these, and nothing else is on the path."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    Machine.folder = folder
    return Machine


class Machine:
    """A machine with these GPUs; ``status`` other than 0: a driver that does not answer."""

    folder: Path

    def __init__(self, gpus: dict[str, tuple[str, str]], status: int = 0) -> None:
        lines = "".join(f"{n}, {uuid}, {model}\n" for n, (uuid, model) in gpus.items())
        script = self.folder / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}END\nexit {status}\n")
        script.chmod(0o755)


def test_all_gpus_or_those_named(machine: type[Machine]) -> None:
    machine(TWO)
    model = TWO["0"][1]
    assert lease("auto", "all", 1) == lease("cuda", "0,1", 1) == Lease(("GPU-aa", "GPU-bb"), model)
    assert lease("auto", " 1 , 1", 3) == Lease(("GPU-bb",), model, 3), "named twice, leased once"
    assert lease("cpu", "all", 1) == Lease(), "the CPU alone, whatever there is"


def test_one_job_a_gpu_or_so_many(machine: type[Machine]) -> None:
    machine(TWO)
    assert [lease("auto", "all", 1).slots(jobs) for jobs in (1, 2, 8)] == [1, 2, 2]
    assert [lease("auto", "all", 3).slots(jobs) for jobs in (2, 8)] == [2, 6]
    assert Lease().slots(8) == 8


@pytest.mark.parametrize(
    ("device", "wanted", "per_gpu", "says"),
    [
        ("auto", "2", 1, "there is no GPU '2'; there are 0, 1"),
        ("cuda", "0,seven", 1, "there is no GPU 'seven'; there are 0, 1"),
        ("auto", "", 1, "there is no GPU ''"),
        ("auto", "all", 0, "--per-gpu counts the jobs that share a GPU: 1 or more"),
    ],
)
def test_what_there_is_not(
    machine: type[Machine], device: str, wanted: str, per_gpu: int, says: str
) -> None:
    machine(TWO)
    with pytest.raises(ClassError, match=says):
        lease(device, wanted, per_gpu)


def test_gpus_that_differ_are_not_mixed(machine: type[Machine]) -> None:
    """A student's points must not depend on which GPU was free."""
    machine(MIXED)
    with pytest.raises(ClassError, match="these GPUs differ .*T400, 4GB.*name those of one kind"):
        lease("auto", "all", 1)
    assert lease("auto", "2", 1) == Lease(("GPU-cc",), "NVIDIA T400, 4GB")


@pytest.mark.parametrize("status", [None, 9])
def test_without_a_gpu(machine: type[Machine], status: int | None) -> None:
    """Also where a driver is installed that finds none."""
    if status is not None:
        machine({}, status)
    assert lease("auto", "all", 1) == Lease()
    with pytest.raises(ClassError, match="--device cuda was asked for, but nvidia-smi lists no"):
        lease("cuda", "all", 1)
    with pytest.raises(ClassError, match="--gpus 0 was asked for, but nvidia-smi lists no GPU"):
        lease("auto", "0", 1)


@pytest.mark.parametrize(
    ("visible", "wanted", "gpus"),
    [
        ("1", "all", ("GPU-bb",)),
        ("GPU-bb,GPU-aa", "all", ("GPU-bb", "GPU-aa")),
        ("GPU-aa", "GPU-aa", ("GPU-aa",)),
        ("", "all", ()),
    ],
)
def test_a_share_of_the_machine_is_kept_to(
    machine: type[Machine],
    monkeypatch: pytest.MonkeyPatch,
    visible: str,
    wanted: str,
    gpus: tuple[str, ...],
) -> None:
    """CUDA_VISIBLE_DEVICES, as a cluster sets it, bounds what is leased."""
    machine(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert lease("auto", wanted, 1).gpus == gpus
    with pytest.raises(ClassError, match="--gpus 0 was asked|there is no GPU '0'"):
        lease("auto", "0", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
def test_the_command_names_the_gpus_there_are(machine: type[Machine], tmp_path: Path) -> None:
    machine(TWO)
    root = make_root(tmp_path / "tree")
    hand_in(tmp_path / "class", "ann")
    done = toys.grade(
        root, tmp_path / "class", tmp_path / "out", "--device", "auto", "--gpus", "0,2"
    )
    assert done.returncode == 2
    assert "there is no GPU '2'; there are 0, 1" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


SHOWS = GOOD["double.py"] + (
    "import os\nprint('sees', os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True)\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
def test_a_worker_sees_its_own_gpu_alone(tmp_path: Path) -> None:
    """Three slots on two GPUs, two jobs a GPU: what each submission's process is shown."""
    root = make_root(tmp_path / "tree", timeout_s=60)
    setup = Setup(
        root=str(root), lab="lab90", isolation="sandbox", device="cpu", seed=0, limits=Limits()
    )
    jobs = []
    for number in range(3):
        package = hand_in(tmp_path / "class", f"s{number}", double=f"# {number}\n" + SHOWS)
        jobs.append(Job(f"s{number}", str(package), digest(python_files(package))))
    leased = Lease(("GPU-aa", "GPU-bb"), "H100", per_gpu=2)
    (tmp_path / "work").mkdir()
    pool = LocalPool(
        setup, tmp_path / "work", tmp_path / "logs", jobs=leased.slots(3), gpus=leased.gpus
    )
    all_at_work = threading.Barrier(3)  # else a quick slot might grade everything

    def started(job: Job, attempt: int) -> None:
        all_at_work.wait(120)

    seen: Counter[str] = Counter()
    try:
        for done in pool.run(jobs, started):
            assert done.record is not None, done.error
            said = {test.stdout.strip() for test in task(done.record, "double").tests}
            assert len(said - {""}) == 1, said
            seen.update(said - {""})
    finally:
        pool.stop()
    assert seen == {"sees GPU-aa": 2, "sees GPU-bb": 1}
