"""Grading on a Ray cluster: each submission a task, Ray decides where; everything else as usual.

A Ray worker keeps a slot of its own (graders/classroom/slot.py) and hands it one job after the
other, so submissions face the same oracle and the same sandbox as on one machine. To the cluster go
the submission's files and the lab's name, back come records; the signing key stays here.

Every node needs the course's tree at the same path and the grader's packages. That is not taken on
trust: a node whose tree gives another version of the grader refuses the job.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from graders.classroom.discover import ClassError
from graders.classroom.pool import ATTEMPTS, Done, Slot, SlotFailed
from graders.classroom.slot import Job, Setup
from graders.classroom.store import grader_version
from graders.manifest import find_lab
from graders.oracle.stage import python_files, write_files
from graders.record import from_json, to_json

_PREFIX = "inferlab-ray-"
_IN_FLIGHT = 2  # tasks handed to Ray for each that can run: the next one waits there already


class Task(msgspec.Struct):
    """What a task is sent."""

    key: str
    sha256: str
    files: dict[str, bytes]
    setup: Setup
    version: str  # of the grader, as the driver has it
    silence_s: float


class Reply(msgspec.Struct):
    """What it returns: a record, or why there is none."""

    key: str
    record: bytes = b""
    error: str = ""
    seconds: float = 0.0
    attempts: int = 1
    resident_bytes: int = 0


# -- in a Ray worker -------------------------------------------------------------------------------

_slot: tuple[tuple[str, str], Slot] | None = None
_work: Path | None = None


def grade_task(payload: bytes) -> bytes:
    """Grade one submission in this worker's slot."""
    task = msgspec.msgpack.decode(payload, type=Task)
    root = Path(task.setup.root)
    try:
        version = grader_version(root, find_lab(root, task.setup.lab))
    except Exception as error:
        return _reply(task, f"{os.uname().nodename} has no course at {root} ({error})")
    if version != task.version:
        return _reply(task, f"{os.uname().nodename} has another version of the course at {root}")
    errors = []
    for attempt in range(1, ATTEMPTS + 1):
        try:
            slot, work = _warm(task)
            package = work / "package"
            try:
                folder = package / find_lab(root, task.setup.lab).package
                write_files(folder, task.files)
                record, resident = slot.grade(Job(task.key, str(folder), task.sha256))
            finally:
                shutil.rmtree(package, ignore_errors=True)
            done = Reply(task.key, to_json(record), "", record.duration_s, attempt, resident)
            return msgspec.msgpack.encode(done)
        except SlotFailed as error:
            _end()
            errors.append(str(error))
    return _reply(task, f"{errors[-1]} (on {os.uname().nodename})")


def _reply(task: Task, error: str) -> bytes:
    return msgspec.msgpack.encode(Reply(task.key, error=error, attempts=ATTEMPTS))


def _warm(task: Task) -> tuple[Slot, Path]:
    """This worker's slot; another one when the GPU it was given is another."""
    global _slot, _work
    wanted = (os.environ.get("CUDA_VISIBLE_DEVICES", ""), msgspec.json.encode(task.setup).decode())
    if _slot is not None and _slot[0] != wanted:
        _end()
    if _work is None:
        clear_dead()
        _work = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    if _slot is None:
        _slot = wanted, Slot(task.setup, _work, _work / "slot.log", None, task.silence_s)
    return _slot[1], _work


def clear_dead() -> None:
    """Remove the temporary folders of workers that are no more: Ray ends them without a word."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            alive = pid.isdigit() and psutil.pid_exists(int(pid))
            if not alive and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)


def _end() -> None:
    global _slot, _work
    if _slot is not None:
        _slot[1].kill()
    if _work is not None:
        shutil.rmtree(_work, ignore_errors=True)
    _slot = _work = None


# -- in the driver ---------------------------------------------------------------------------------


class RayPool:
    """Jobs as Ray tasks, on the cluster at ``address`` or on a Ray of this machine's own."""

    def __init__(
        self,
        setup: Setup,
        version: str,
        *,
        address: str = "",
        jobs: int = 0,
        gpu_share: float = 0.0,
        silence_s: float = 600.0,
    ) -> None:
        try:
            import ray
        except ImportError:
            raise ClassError(
                "--executor ray needs Ray, which is not installed here: pip install ray, or grade "
                "through `python3 noxfile.py -s grade`, which installs it when asked for it"
            ) from None
        self._ray: Any = ray
        self._setup, self._version, self._silence_s = setup, version, silence_s
        code = str(Path(__file__).resolve().parents[2])
        try:
            ray.init(
                address=address or "local",
                num_cpus=None if address else (jobs or None),
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"env_vars": {"PYTHONPATH": code}},
            )
        except Exception as error:  # a plain Exception where its processes are not up in 30 s
            raise ClassError(f"no Ray at {address or 'this machine'}: {error}") from None
        resources = ray.cluster_resources()
        there = int(resources.get("CPU", 1))
        if gpu_share:
            there = min(there, int(resources.get("GPU", 0) / gpu_share))
        if there < 1:
            self.stop()
            raise ClassError("this Ray cluster has not what a job needs: a processor, and a GPU")
        self.jobs = min(jobs or there, there)
        # A node that dies takes its tasks along: Ray gives these to another node, once.
        options = {"num_cpus": 1, "num_gpus": gpu_share, "max_retries": 1}
        self._task = ray.remote(**options)(grade_task)

    def run(self, jobs: Sequence[Job], on_start: Callable[[Job, int], None]) -> Iterator[Done]:
        """Grade all jobs, in whatever order they end."""
        waiting: dict[Any, Job] = {}
        todo = list(reversed(jobs))
        while todo or waiting:
            while todo and len(waiting) < self.jobs * _IN_FLIGHT:
                job = todo.pop()
                task = Task(
                    job.key, job.sha256, python_files(Path(job.folder)), self._setup,
                    self._version, self._silence_s,
                )  # fmt: skip
                on_start(job, 1)
                waiting[self._task.remote(msgspec.msgpack.encode(task))] = job
            ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=1.0)
            for reference in ready:
                job = waiting.pop(reference)
                yield self._result(reference, job)

    def _result(self, reference: Any, job: Job) -> Done:
        try:
            reply = msgspec.msgpack.decode(self._ray.get(reference), type=Reply)
        except self._ray.exceptions.RayError as error:
            text = str(error).strip().splitlines() or [type(error).__name__]
            return Done(job.key, None, f"Ray lost it: {text[-1]}", attempts=ATTEMPTS)
        record = from_json(reply.record) if reply.record else None
        return Done(
            job.key, record, reply.error, reply.seconds, reply.attempts, reply.resident_bytes
        )

    def stop(self) -> None:
        """Leave the cluster; what still runs for this driver ends."""
        with contextlib.suppress(Exception):
            self._ray.shutdown()
