"""A slot: one oracle process that stays warm and grades one submission after the other.

It is told what to grade on standard input and answers on a pipe, a message a line of JSON, so the
imports of torch and of the hidden tests are paid once. Its fork server (graders/worker/zygote.py)
forks every worker from a process that never loaded a submission: what one student's code did is
gone when the next one's starts.

The slot ends when standard input does, whatever it is doing: a killed parent leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import resource
import shutil
import sys
import threading
import traceback
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from graders.worker.limits import Limits


class Setup(msgspec.Struct, kw_only=True):
    """The first message to a slot: which lab of which tree, and how to grade."""

    root: str
    lab: str
    isolation: str
    device: str
    seed: int
    limits: Limits
    plots: bool = False
    cores: list[int] = []  # processors for this slot and its workers; all when empty
    clear_temporary: bool = False  # the temporary folder is this slot's alone: remove it at the end


class Job(msgspec.Struct):
    """Grade the package in this folder; ``key`` comes back with the answer."""

    key: str
    folder: str
    sha256: str


class Answer(msgspec.Struct, kw_only=True):
    """What a slot says: it is ready, it lives, this is the record, or it could not grade.

    ``failed`` is never the submission's doing: whatever that does, a record says so.
    """

    kind: Literal["ready", "alive", "record", "failed"]
    key: str = ""
    record: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    resident_bytes: int = 0


def main() -> None:
    """Serve jobs until standard input ends."""
    # The answers get a descriptor that no child inherits; what else prints goes to the log.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    setup = msgspec.json.decode(requests.readline(), type=Setup)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if setup.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, setup.cores)  # before torch counts them
    with contextlib.suppress(AttributeError):
        gc.set_threshold(50_000, 20, 20)
    try:
        _serve(setup, requests, answers)
    except BaseException as error:
        traceback.print_exc()
        _say(answers, Answer(kind="failed", error=_describe(error)))
        os._exit(1)


def _serve(setup: Setup, requests: BinaryIO, answers: BinaryIO) -> None:
    from graders.oracle.grade import GradeError, Grader, Options
    from graders.record import to_json

    options = Options(
        isolation=setup.isolation,
        device=setup.device,
        seed=setup.seed,
        limits=setup.limits,
        plots=setup.plots,
    )
    with Grader(setup.lab, options, Path(setup.root)) as grader:
        grader.collect()  # imports the tests, and finds out now whether they can be read
        os.chdir(os.environ.get("TMPDIR", "/"))
        gc.collect()
        gc.freeze()  # the libraries' objects: no collection need look at them again
        jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(requests, jobs, setup), daemon=True).start()
        _say(answers, Answer(kind="ready", resident_bytes=_resident()))
        while True:
            job = msgspec.json.decode(jobs.get(), type=Job)
            answer = Answer(kind="alive", key=job.key)

            def alive(_: object, answer: Answer = answer) -> None:
                _say(answers, answer)

            try:
                record = grader.run(job.folder, on_result=alive)
                if record.submission_sha256 != job.sha256:
                    raise GradeError(f"the files in {job.folder} are not those that were handed in")
                done = Answer(kind="record", record=msgspec.Raw(to_json(record)))
            except Exception as error:
                traceback.print_exc()
                done = Answer(kind="failed", error=_describe(error))
            done.key, done.resident_bytes = job.key, _resident()
            _say(answers, done)


def _listen(requests: BinaryIO, jobs: queue.SimpleQueue[bytes], setup: Setup) -> None:
    for line in requests:
        jobs.put(line)
    if setup.clear_temporary:
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
    os._exit(0)


def _say(answers: BinaryIO, answer: Answer) -> None:
    try:
        answers.write(msgspec.json.encode(answer).replace(b"\n", b"") + b"\n")
        answers.flush()
    except BrokenPipeError:
        os._exit(0)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:2000]


def _resident() -> int:
    """Bytes of memory at the most so far; of this process, without its fork server."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
