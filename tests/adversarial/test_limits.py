"""What the attacks showed to be uncounted is counted: shared memory, and what lies in a folder."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from graders.isolation import sandbox
from graders.worker.limits import resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
SIZE = 128 * 2**20


@contextlib.contextmanager
def children(count: int, body: Callable[[], object]) -> Iterator[list[int]]:
    """Forked children that did ``body`` and now wait."""
    read, write = os.pipe()
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            held = body()
            os.write(write, b"x")
            time.sleep(60 if held is not None else 60)
            os._exit(0)
        pids.append(pid)
    try:
        for _ in pids:
            os.read(read, 1)
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


def touch(memory: mmap.mmap) -> mmap.mmap:
    for at in range(0, SIZE, mmap.PAGESIZE):
        memory[at] = 1
    return memory


def test_shared_memory_of_a_process_is_counted() -> None:
    with children(1, lambda: None) as idle, children(1, lambda: touch(mmap.mmap(-1, SIZE))) as full:
        assert resident_bytes(full) - resident_bytes(idle) > 0.9 * SIZE


def test_shared_memory_counts_once_for_all_that_map_it() -> None:
    """Workers of one submission that share tensors must not be ended for one another's."""
    memory = touch(mmap.mmap(-1, SIZE))
    with children(1, lambda: None) as one, children(4, lambda: touch(memory)) as four:
        assert resident_bytes(four) - 4 * resident_bytes(one) < 1.5 * SIZE
    memory.close()


def test_a_memory_file_that_is_open_and_mapped_counts_once() -> None:
    def body() -> object:
        fd = os.memfd_create("t")
        os.ftruncate(fd, SIZE)
        return fd, touch(mmap.mmap(fd, SIZE))

    with children(1, lambda: None) as idle, children(1, body) as full:
        used = resident_bytes(full) - resident_bytes(idle)
    assert 0.9 * SIZE < used < 1.5 * SIZE


def test_scratch_is_empty_bounded_and_never_on_the_disk(tmp_path: Path) -> None:
    try:
        sandbox.check_available()
    except sandbox.SandboxUnavailable as error:
        pytest.skip(f"NO SANDBOX HERE: {error}")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "old").write_text("from outside")
    read, write = os.pipe()

    def main() -> None:
        os.chdir(scratch)
        before, done = os.listdir("."), 0
        with contextlib.suppress(OSError):
            for number in range(64):
                with open(f"f{number}", "wb", 0) as file:
                    done += file.write(bytes(2**20))
        files = 0
        with contextlib.suppress(OSError):
            for number in range(10**6):
                os.close(os.open(f"i{number}", os.O_CREAT | os.O_WRONLY))
                files += 1
        os.write(write, json.dumps([before, done, files]).encode())

    pid = os.fork()
    if pid == 0:
        spec = sandbox.SandboxSpec(
            read_only=sandbox.default_read_only(), scratch=(str(scratch),), tmp_bytes=8 * 2**20
        )
        spec = replace(spec, max_processes=64)
        with contextlib.suppress(BaseException):
            os.waitpid(sandbox.spawn(spec, main, keep_fds=(write,)), 0)
        os._exit(0)
    os.close(write)
    before, done, files = json.loads(os.read(read, 1000))
    os.waitpid(pid, 0)
    os.close(read)
    assert before == []
    assert 0 < done <= 8 * 2**20
    assert files < 2**16
    assert [path.name for path in scratch.iterdir()] == ["old"]
