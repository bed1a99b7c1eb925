"""What attacks share. It lies in the submission beside them and runs where they run.

Nothing here is defended against by being left out: it only makes each attack short.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import re
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

try:
    from .target import T  # type: ignore[import-not-found]  # written beside this file by the judge
except ImportError:
    T = {}

libc = ctypes.CDLL(None, use_errno=True)
Path, array, signal, struct, sys, threading, time, torch  # noqa: B018 - for `from .kit import *`


def say(text: str) -> None:
    """Print at once, whatever happens to this process next."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode("utf-8", "backslashreplace") + b"\n")


def ran() -> None:
    """Tell the judge that the attack was reached."""
    say("attack ran")


def loot(data: bytes | str, where: object = "") -> None:
    """Print every planted secret found in ``data``."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    for hit in sorted(set(re.findall(rb"canary-[0-9a-f]{24}", data))):
        say(f"LOOT {where}: {hit.decode()}")
        mark("found a secret")


def steal(path: object) -> None:
    """Look for secrets in a file, or in every file below a folder.

    Regular files only: a read from somebody's pipe would take away what is in it.
    """
    with contextlib.suppress(OSError, ValueError):
        if os.path.isdir(str(path)):
            for folder, _, names in os.walk(str(path)):
                for name in names[:200]:
                    steal(os.path.join(folder, name))
            return
        if not stat.S_ISREG(os.stat(str(path)).st_mode):
            return
        with open(str(path), "rb") as file:
            loot(file.read(1 << 22), path)


def processes() -> list[int]:
    """Every process that can be seen, but not this one."""
    with contextlib.suppress(OSError):
        return [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()]
    return []


def fenced() -> bool:
    """Whether the sandbox's namespaces are there: only then may an attack hurt all it can see.

    Where they are not, because the level has none or because a wall has fallen, it hurts what was
    planted, and nobody else on this machine.
    """
    return socket.gethostname() == "sandbox" and os.getpid() < 100


def parents() -> Iterator[int]:
    """The pids of parent, grandparent and so on."""
    pid = os.getppid()
    while pid > 1:
        yield pid
        with open(f"/proc/{pid}/stat", "rb") as file:
            pid = int(file.read().rsplit(b")", 1)[1].split()[1])


def daemon() -> bool:
    """True in a grandchild in a session of its own, False in the caller."""
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    return True


def channel() -> socket.socket:
    """The socket that leads to the oracle, found among the descriptors."""
    for fd in range(3, 1024):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                return socket.socket(fileno=os.dup(fd))
    raise LookupError("no socket")


def frame(payload: bytes, fds: int = 0, length: int | None = None) -> bytes:
    """A frame as the worker would send it, or one that lies about its length."""
    return struct.pack("!IB", len(payload) if length is None else length, fds) + payload


def send(data: bytes, fds: list[int] | None = None) -> None:
    """Write to the oracle, past the worker's own code."""
    sock = channel()
    sock.setblocking(True)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], rights)
    sock.sendall(data[sent:])


def encode(value: object) -> bytes:
    """msgpack, as the protocol uses it."""
    import msgspec

    return msgspec.msgpack.encode(value)


def answer(value: object) -> bytes:
    """A frame with a reply of this value tree."""
    return frame(encode(["Ok", value, []]))


def error(types: list[str], message: str = "", trace: str = "", phase: str = "call") -> bytes:
    """A frame that says an exception was raised."""
    return frame(encode(["Error", types, message, trace, phase]))


def syscall(number: int, *args: object) -> int:
    """A raw system call; minus the errno when refused."""
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *args)
    return -ctypes.get_errno() if result == -1 else int(result)


def mark(how: str) -> None:
    """Leave the mark outside that must not be left."""
    with contextlib.suppress(OSError):
        Path(T["marker"]).write_text(how)


def connect(family: int, kind: int, address: object, data: bytes = b"hello") -> None:
    """Send something to a listener."""
    with contextlib.suppress(OSError):
        sock = socket.socket(family, kind)
        sock.settimeout(1)
        sock.connect(address)  # type: ignore[arg-type]
        sock.sendall(data)
        say("CONNECTED")
