"""What is planted for an attack to reach, and what it reached of that."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from graders.worker.limits import descendants

from .course import Course

# Every graded submission may leave this much behind or use this much meanwhile, on the host's disk.
MAX_DISK_BYTES, MAX_FILES = 64 * 2**20, 2000
_ORIGINAL = '{"earned": 0}\n'


class Canaries:
    """The listeners, the bystander and the places of one attack; closed after it."""

    def __init__(self, course: Course, slot_pid: int) -> None:
        name = secrets.token_hex(4)
        self.folder = course.root / "outside" / name
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o777)
        self._course = course
        self.marker = self.folder / "marker"
        # Writable to everybody: only the wall is between an attack and these.
        self._files = [self.folder / name for name in ("record.json", "report.xml", "gradebook.db")]
        for path in self._files:
            path.write_text(_ORIGINAL)
            path.chmod(0o666)
        self._abstract = f"inferlab-canary-{name}"
        self._listeners: dict[str, socket.socket] = {}
        self._listen("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self._listen("tcp6", socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0))
        self._listen("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self._listen("unix", socket.AF_UNIX, socket.SOCK_STREAM, str(self.folder / "socket"))
        (self.folder / "socket").chmod(0o777)
        self._listen("abstract", socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self._abstract}")
        # Somebody else's process, with a secret in its environment.
        self._stranger = subprocess.Popen(
            [sys.executable, "-S", "-c", "import time; time.sleep(600)"],
            env={"SECRET": course.token},
            stdin=subprocess.DEVNULL,
        )
        self.bystander, self._slot_pid = self._stranger.pid, slot_pid

    def _listen(self, name: str, family: int, kind: int, address: object) -> None:
        sock = socket.socket(family, kind)
        try:
            sock.bind(address)  # type: ignore[arg-type]
        except OSError:  # no IPv6 here
            sock.close()
            return
        if kind == socket.SOCK_STREAM:
            sock.listen(8)
        sock.setblocking(False)
        self._listeners[name] = sock

    def target(self) -> dict[str, object]:
        """What the attack is told: where everything is that it must not reach."""
        ports = {
            name: sock.getsockname()[1]
            for name, sock in self._listeners.items()
            if sock.family != socket.AF_UNIX
        }
        return {
            "course": str(self._course.root),
            "marker": str(self.marker),
            "outside": str(self.folder),
            "unix": str(self.folder / "socket"),
            "abstract": f"\0{self._abstract}",
            "bystander": self.bystander,
            "oracle": self._slot_pid,
            "ports": ports,
        }

    def reached(self) -> list[tuple[str, str]]:
        """(kind, what) for everything that was touched."""
        found = []
        for name, sock in self._listeners.items():
            with contextlib.suppress(BlockingIOError):
                if sock.type == socket.SOCK_STREAM:
                    sock.accept()[0].close()
                else:
                    sock.recv(1)
                found.append(("listener", f"reached the {name} listener"))
        if self.marker.exists():
            text = self.marker.read_text(errors="replace")[:80]
            found.append(("marker", f"left a mark outside: {text}"))
        if self._stranger.poll() is not None:
            found.append(("killed", f"ended a stranger's process ({self._stranger.returncode})"))
        for path in self._files:
            if not path.exists() or path.read_text(errors="replace") != _ORIGINAL:
                found.append(("altered", f"altered {path.name}"))
        return found

    def close(self) -> None:
        """Take everything away."""
        for sock in self._listeners.values():
            sock.close()
        self._stranger.kill()
        self._stranger.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class DiskWatch:
    """The most that lay in a folder while this was open: bytes and files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._over = folder, threading.Event()
        self.bytes = self.files = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> DiskWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            size = files = 0
            with contextlib.suppress(RecursionError):  # folders in folders without end
                for folder, _, names in os.walk(self._folder):
                    for name in names:
                        files += 1
                        with contextlib.suppress(OSError):
                            size += os.lstat(os.path.join(folder, name)).st_blocks * 512
                    if files > 2 * MAX_FILES:
                        break
            self.bytes, self.files = max(self.bytes, size), max(self.files, files)

    def reached(self) -> list[tuple[str, str]]:
        """A finding if it was more than a submission may use."""
        if self.bytes > MAX_DISK_BYTES or self.files > MAX_FILES:
            return [("disk", f"filled the disk: {self.bytes >> 20} MiB in {self.files} files")]
        return []


def family(root: int, leaving_out: Sequence[int] = ()) -> list[int]:
    """Every living process below ``root``, but none below those left out."""
    return [pid for pid in descendants(root, leaving_out) if _lives(pid)]


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
    return False


def works_in(pid: int, folders: Iterable[str]) -> bool:
    """Whether a process's working directory is one of the folders, or was before it was removed."""
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(tuple(folders))
    except OSError:
        return False


def end(pids: list[int]) -> None:
    """Kill what should not be alive, and collect it."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.05)
    for pid in pids:
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)
