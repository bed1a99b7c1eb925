"""A program on a terminal of its own, spoken to as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Self

PATIENCE_S = 60.0


class Terminal:
    """``command`` on a pseudo-terminal, 80 columns wide, leader of a session so Ctrl-C works."""

    def __init__(self, command: list[str], cwd: Path, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        left_out = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env={
                **{k: v for k, v in os.environ.items() if k not in left_out},
                "TERM": "xterm",
                **environment,
            },
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=take_terminal,
        )
        os.close(theirs)
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._ours)

    @property
    def status(self) -> int:
        """The exit status, once it has ended."""
        return self._process.wait(10)

    def write(self, text: str) -> None:
        """Type."""
        os.write(self._ours, text.encode())

    def _more(self, deadline: float) -> bool:
        ready = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            raise AssertionError(f"nothing more came; so far:\n{self._text}")
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self._text += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)

    def until(self, *marks: str) -> str:
        """What came up to and including the marks, in their order."""
        deadline, start = time.monotonic() + PATIENCE_S, 0
        for mark in marks:
            while (found := self._text.find(mark, start)) < 0:
                if not self._more(deadline):
                    raise AssertionError(f"ended before {mark!r}:\n{self._text}")
            start = found + len(mark)
        taken, self._text = self._text[:start], self._text[start:]
        return taken

    def until_end(self) -> str:
        """All that is still to come."""
        deadline = time.monotonic() + PATIENCE_S
        while self._more(deadline):
            pass
        taken, self._text = self._text, ""
        return taken
