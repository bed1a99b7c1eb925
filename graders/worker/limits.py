"""Limits on a worker, and the watchdog that enforces those the kernel has no counter for."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Collection, Iterable

import msgspec

_KILL_S, _PAUSE_S = 1.0, 0.0005
_SHARED_BYTES = 64 * 2**20  # below this a process's shared memory is counted in the quick way


class Limits(msgspec.Struct, frozen=True):
    """What one worker may use. Bytes and counts."""

    memory_bytes: int = 6 * 2**30
    processes: int = 256
    open_files: int = 512
    file_bytes: int = 2 * 2**30
    shm_bytes: int = 2**30
    tmp_bytes: int = 2**30


def apply_rlimits(limits: Limits, *, cuda: bool) -> None:
    """Set what the kernel enforces by itself. CUDA reserves far more address space than it uses."""
    wanted = {
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
    }
    if not cuda:
        wanted[resource.RLIMIT_DATA] = limits.memory_bytes
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (value, value))


def descendants(root: int, leaving_out: Collection[int] = ()) -> list[int]:
    """Every process below ``root``, by /proc; empty where there is no /proc.

    What ``leaving_out`` names is left out with all that is below it.
    """
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with (
                    contextlib.suppress(OSError, IndexError, ValueError),
                    open(f"/proc/{name}/stat", "rb") as file,
                ):
                    # The command's name may hold anything, so split after its last parenthesis.
                    parent = int(file.read().rsplit(b")", 1)[1].split()[1])
                    children.setdefault(parent, []).append(int(name))
    found, todo = [], [root]
    while todo:
        below = [pid for pid in children.get(todo.pop(), []) if pid not in leaving_out]
        found += below
        todo += below
    return found


def kill_all(root: int, main: int | None = None) -> None:
    """SIGKILL everything below ``root`` until nothing is left: a fork bomb outruns one pass.

    A living child ``main`` goes first: a sandbox's process 1 takes everything inside along, at half
    the cost of stopping and killing them one by one.
    """
    if main is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(main, signal.SIGKILL)
        _await_end(main)
    for _ in range(200):
        victims = descendants(root)
        if not victims:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in victims:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        reap()
        time.sleep(_PAUSE_S)


def _await_end(pid: int) -> None:
    """Wait for a killed child; not for long, should the kernel not let go of it."""
    deadline = time.monotonic() + _KILL_S
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)


def reap() -> dict[int, int]:
    """Collect every dead child: pid to wait status."""
    dead: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            dead[pid] = status
    return dead


def resident_bytes(pids: Iterable[int]) -> int:
    """Private and shared memory of the processes; private pages that forks share count for each."""
    return sum(_private(pid) + max(_shared(pid), _memory_files(pid)) for pid in pids)


def _private(pid: int) -> int:
    with (
        contextlib.suppress(OSError, IndexError, ValueError),
        open(f"/proc/{pid}/statm", "rb") as file,
    ):
        fields = file.read().split()
        # resident minus file pages: the preloaded libraries belong to everybody
        return (int(fields[1]) - int(fields[2])) * resource.getpagesize()
    return 0


def _shared(pid: int) -> int:
    """Mapped shared memory: anonymous, of /dev/shm and /tmp, and of memory files."""
    size = _field(f"/proc/{pid}/status", b"RssShmem:")
    if size < _SHARED_BYTES:
        return size
    # What several processes map counts once for all of them; the kernel takes longer to tell.
    return _field(f"/proc/{pid}/smaps_rollup", b"Pss_Shmem:", size)


def _field(path: str, name: bytes, missing: int = 0) -> int:
    """Bytes of a line like ``RssShmem:    12 kB``."""
    with contextlib.suppress(OSError, IndexError, ValueError), open(path, "rb") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return missing


def _memory_files(pid: int) -> int:
    seen: dict[int, int] = {}
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}").startswith("/memfd:"):
                    info = os.stat(f"{folder}/{name}")
                    seen[info.st_ino] = info.st_blocks * 512
    return sum(seen.values())
