"""A pool of slots on this machine: each grades in a sandbox, none can stop the others.

A slot that dies, hangs or fails is replaced, and its job is tried once more. A second failure is
the job's result, with what the slot wrote. A submission cannot bring that about by hanging, dying
or flooding: those are the worker's, and the slot makes a record of them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from graders.classroom.discover import ClassError
from graders.classroom.slot import Answer, Job, Setup
from graders.record import Record, from_json

ATTEMPTS = 2
_START_S = 300.0
_MAX_ANSWER_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Done:
    """One job's end: a record, or why there is none although it was tried twice."""

    key: str
    record: Record | None
    error: str = ""
    seconds: float = 0.0
    attempts: int = 1
    resident_bytes: int = 0


class Executor(Protocol):
    """What grades jobs: this pool, or a cluster."""

    jobs: int

    def run(self, jobs: Sequence[Job], on_start: Callable[[Job, int], None]) -> Iterator[Done]:
        """Grade all jobs, in whatever order they end."""
        ...

    def stop(self) -> None:
        """End everything now."""
        ...


class SlotFailed(RuntimeError):
    """A slot died, hung or said that it could not grade."""


class _CannotStart(SlotFailed):
    """A slot did not even become ready: the next one would not either."""


class Slot:
    """One oracle process, from the parent's side."""

    def __init__(
        self, setup: Setup, work: Path, log: Path, gpu: str | None, silence_s: float
    ) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "INFERLAB_KEY"}
        environment |= {"TMPDIR": str(work), "OMP_WAIT_POLICY": "PASSIVE"}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        root = Path(__file__).resolve().parents[2]
        code = f"import sys; sys.path.insert(0, {str(root)!r}); "
        code += "from graders.classroom.slot import main; main()"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-X", "utf8", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environment,
                cwd=root,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        self._silence_s, self._buffer, self.graded = silence_s, bytearray(), 0
        try:
            self._send(setup)
            answer = self._receive(_START_S)
            if answer.kind != "ready":
                raise SlotFailed(answer.error or "it did not get ready")
        except SlotFailed as error:
            self.kill()
            raise _CannotStart(str(error)) from None

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def grade(self, job: Job) -> tuple[Record, int]:
        """The record, and the slot's memory in bytes. Raises SlotFailed."""
        self._send(job)
        while True:
            answer = self._receive(self._silence_s)
            if answer.key != job.key:
                raise SlotFailed(f"it answered for {answer.key!r} when asked for {job.key!r}")
            if answer.kind == "failed":
                raise SlotFailed(answer.error)
            if answer.kind == "record":
                self.graded += 1
                return from_json(bytes(answer.record)), answer.resident_bytes

    def _send(self, message: Setup | Job) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise SlotFailed(self._end()) from None

    def _receive(self, silence_s: float) -> Answer:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + silence_s
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise SlotFailed(f"it said nothing for {silence_s:.0f} s")
            data = os.read(fd, 2**18)
            if not data:
                raise SlotFailed(self._end())
            self._buffer += data
            if len(self._buffer) > _MAX_ANSWER_BYTES:
                raise SlotFailed("its answer is too long")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return msgspec.json.decode(line, type=Answer)

    def _end(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(5)
            if code < 0:
                return f"the grader's process was ended by {signal.Signals(-code).name}"
            return f"the grader's process ended with status {code}"
        return "the grader's process closed its pipe"

    def kill(self) -> None:
        """End it; its fork server and the workers end with it."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def share(number: int, jobs: int) -> list[int]:
    """The processors of slot ``number`` of ``jobs``; empty for all of them.

    So a submission that takes all it can get slows nobody but itself, and torch starts no more
    threads than there is room for.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    return cores[number::jobs] if 1 < jobs <= len(cores) else []


class LocalPool:
    """Slots on this machine, one a thread of the parent."""

    def __init__(
        self,
        setup: Setup,
        work: Path,
        logs: Path,
        *,
        jobs: int,
        gpus: Sequence[str] = (),
        silence_s: float = 600.0,
        per_slot: int = 200,
    ) -> None:
        self.jobs = jobs
        self._setup, self._work, self._logs, self._gpus = setup, work, logs, gpus
        self._silence_s, self._per_slot = silence_s, per_slot
        self._todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Done | BaseException] = queue.SimpleQueue()
        self._stopping = False
        self._slots: dict[int, Slot] = {}
        self._threads: list[threading.Thread] = []

    def run(self, jobs: Sequence[Job], on_start: Callable[[Job, int], None]) -> Iterator[Done]:
        """Grade all jobs, in whatever order they end. Raises ClassError if no slot can start."""
        for job in jobs:
            self._todo.put(job)
        for number in range(min(self.jobs, len(jobs))):
            thread = threading.Thread(
                target=self._work_off, args=(number, on_start), name=f"slot {number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        for _ in jobs:
            done = self._done.get()
            if isinstance(done, BaseException):
                raise done
            yield done

    def stop(self) -> None:
        """Kill every slot and wait for the threads."""
        self._stopping = True
        for slot in list(self._slots.values()):
            slot.kill()
        for thread in self._threads:
            thread.join(10)

    def _next(self) -> Iterable[Job]:
        while not self._stopping:
            try:
                yield self._todo.get_nowait()
            except queue.Empty:
                return

    def _work_off(self, number: int, on_start: Callable[[Job, int], None]) -> None:
        try:
            for job in self._next():
                done = self._grade(number, job, on_start)
                if done is not None:
                    self._done.put(done)
        except BaseException as error:
            if not self._stopping:
                self._done.put(error)
        finally:
            self._drop(number)

    def _grade(self, number: int, job: Job, on_start: Callable[[Job, int], None]) -> Done | None:
        errors: list[str] = []
        for attempt in range(1, ATTEMPTS + 1):
            try:
                slot = self._slot(number)
                on_start(job, attempt)
                started = time.monotonic()
                record, resident = slot.grade(job)
                if slot.graded >= self._per_slot:
                    self._drop(number)
                seconds = time.monotonic() - started
                return Done(job.key, record, "", seconds, attempt, resident)
            except SlotFailed as error:
                if self._stopping:
                    return None
                self._drop(number)
                if isinstance(error, _CannotStart):
                    raise ClassError(
                        f"the grader does not start: {error}. Its log is {self._log(number)}"
                    ) from None
                errors.append(str(error))
        return Done(job.key, None, f"{errors[-1]} (log: {self._log(number).name})", 0.0, ATTEMPTS)

    def _slot(self, number: int) -> Slot:
        if number not in self._slots:
            gpu = self._gpus[number % len(self._gpus)] if self._gpus else None
            setup = msgspec.structs.replace(self._setup, cores=share(number, self.jobs))
            slot = Slot(setup, self._work, self._log(number), gpu, self._silence_s)
            self._slots[number] = slot
            if self._stopping:
                self._drop(number)
                raise SlotFailed("stopped")
        return self._slots[number]

    def _log(self, number: int) -> Path:
        return self._logs / f"slot-{number}.log"

    def _drop(self, number: int) -> None:
        slot = self._slots.pop(number, None)
        if slot is not None:
            slot.kill()
