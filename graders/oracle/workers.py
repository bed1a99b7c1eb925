"""Workers as the oracle sees them: something that answers requests, goes silent, or dies."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from graders.oracle.stage import Stage
from graders.wire.channel import Channel, ChannelClosed, ChannelTimeout, ProtocolError
from graders.worker.limits import Limits
from graders.worker.spawn import Ended, Spawn

_KEEP_OUTPUT = 32 * 1024
_MAX_OUTPUT = 64 * 2**20
_START_TIMEOUT_S = 120.0


class WorkerLost(RuntimeError):
    """The worker gave no answer: it hung, died or broke the protocol."""

    __module__ = "builtins"  # tracebacks leave "builtins." out: a student need not know the grader


@dataclass
class Output:
    """What the submission printed: the first and last bytes, and how many there were."""

    head: bytes = b""
    tail: bytes = b""
    total: int = 0

    def add(self, data: bytes) -> None:
        """Take in more output, keeping a bounded part of it."""
        self.total += len(data)
        room = _KEEP_OUTPUT - len(self.head)
        self.head, rest = self.head + data[: max(room, 0)], data[max(room, 0) :]
        self.tail = (self.tail + rest)[-_KEEP_OUTPUT:]

    def take(self) -> str:
        """The text so far, bytes that are no UTF-8 shown as escapes; starts afresh."""
        left_out = self.total - len(self.head) - len(self.tail)
        middle = f"\n[… {left_out} bytes left out …]\n".encode() if left_out > 0 else b""
        text = (self.head + middle + self.tail).decode("utf-8", "backslashreplace")
        self.head, self.tail, self.total = b"", b"", 0
        return text


class Worker(Protocol):
    """What a proxy talks to. ``answered`` are the modules that a request to it has reached."""

    budget_s: float
    output: Output
    answered: set[str]
    closed: bool
    timed_out: bool

    def request(self, payload: bytes, fds: list[int]) -> tuple[bytes, list[int]]:
        """Send a request and wait for its reply. Raises WorkerLost."""
        ...

    def tell(self, payload: bytes) -> None:
        """Send a request that has no reply."""
        ...

    def close(self) -> None:
        """Kill the worker and everything it started."""
        ...


@dataclass
class ForkServer:
    """A process with the lab's libraries imported, from which workers are forked."""

    root: Path
    preload: tuple[str, ...]
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _control: Channel | None = field(default=None, init=False)
    _ready: bool = field(default=False, init=False)

    @property
    def pid(self) -> int | None:
        """The fork server's process, while there is one."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start importing; does not wait, so that the oracle imports at the same time."""
        if self._process is not None and self._process.poll() is None:
            return
        early = _started_early.pop((self.root, self.preload), None)
        if early is not None and early._process is not None and early._process.poll() is None:
            self._process, self._control, self._ready = early._process, early._control, False
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        code = f"import sys; sys.path.append({str(self.root)!r}); "
        code += "from graders.worker.zygote import main; "
        code += f"main({theirs.fileno()}, {list(self.preload)!r})"
        environment = {
            name: value
            for name, value in os.environ.items()
            if name
            in (
                "PATH",
                "LANG",
                "LC_ALL",
                "LD_LIBRARY_PATH",
                "CUDA_VISIBLE_DEVICES",
                "TRITON_INTERPRET",
                "PYTHONHASHSEED",
            )
        }
        environment["PATH"] = environment.get("PATH", os.defpath)
        # Idle OpenMP threads sleep: on few cores, or beside other graders, spinning ones keep the
        # oracle and each other from running (a call with a 1 MiB tensor was ten times slower).
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        # -P and -s rather than -I alone: an isolated start, whatever lies in the working directory.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", "-c", code],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,  # Ctrl-C is the oracle's to handle
        )
        theirs.close()
        self._control, self._ready = Channel(ours), False

    def spawn(self, request: Spawn) -> ForkedWorker:
        """Fork one worker. Raises WorkerLost when the fork server itself is gone."""
        self.start()
        assert self._control is not None and self._process is not None
        try:
            if not self._ready:
                self._control.receive(time.monotonic() + _START_TIMEOUT_S)
                self._ready = True
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            control_ours, control_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            output_read, output_write = os.pipe()
            try:
                fds = [theirs.fileno(), output_write, control_theirs.fileno()]
                self._control.send(
                    msgspec.json.encode(request), fds, time.monotonic() + _START_TIMEOUT_S
                )
            finally:
                theirs.close()
                control_theirs.close()
                os.close(output_write)
        except (ChannelClosed, ChannelTimeout) as error:
            code = self._process.poll()
            raise WorkerLost(
                f"the grader's fork server did not start or died (exit status {code})"
            ) from error
        return ForkedWorker(ours, control_ours, output_read)

    def close(self) -> None:
        """End the fork server."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2 if self._ready else 0)  # importing, it would not listen
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait()
        self._process = self._control = None


_started_early: dict[tuple[Path, tuple[str, ...]], ForkServer] = {}


def start_early(root: Path, preload: tuple[str, ...]) -> None:
    """Start a fork server before the oracle imports torch itself, so that both do it at once.

    The first ``ForkServer`` of the same root and preload takes it over. This module must stay free
    of torch for that.
    """
    server = ForkServer(root, preload)
    server.start()
    _started_early[root, preload] = server
    # One that nobody took over, as after a mistyped option, ends without a word.
    atexit.register(_end_early)


def _end_early() -> None:
    for server in _started_early.values():
        if server._process is not None:
            server._process.kill()


class ForkedWorker:
    """A worker process. Its reply is bytes; its death is an answer, too."""

    def __init__(self, sock: socket.socket, control: socket.socket, output_fd: int) -> None:
        self._channel = Channel(sock)
        self._control = control
        self._output_fd = output_fd
        self.output = Output()
        self.answered: set[str] = set()
        self.budget_s = 60.0
        self.ended: Ended | None = None
        self.closed = False
        self.timed_out = False
        os.set_blocking(output_fd, False)
        self._channel.watch[output_fd] = self._drain

    def _drain(self) -> bool:
        try:
            for _ in range(64):
                data = os.read(self._output_fd, 65536)
                if not data:
                    return False
                self.output.add(data)
        except BlockingIOError:
            pass
        except OSError:
            return False
        if self.output.total > _MAX_OUTPUT:
            raise _OutputFlood
        return True

    def request(self, payload: bytes, fds: list[int]) -> tuple[bytes, list[int]]:
        """One question, one answer, within what is left of the test's time."""
        __tracebackhide__ = True
        if self.closed:
            raise WorkerLost("the worker is gone")
        started = time.monotonic()
        deadline = started + self.budget_s
        try:
            self._channel.send(payload, fds, deadline)
            reply = self._channel.receive(deadline)
        except ChannelTimeout:
            self.timed_out = True
            raise self._lost("gave no answer within the time limit and was stopped") from None
        except _OutputFlood:
            raise self._lost(f"printed more than {_MAX_OUTPUT >> 20} MiB and was stopped") from None
        except ProtocolError as error:
            raise self._lost(f"sent something that is no answer ({error})") from None
        except ChannelClosed:
            raise self._lost("") from None
        self.budget_s -= time.monotonic() - started
        with contextlib.suppress(_OutputFlood):
            self._drain()
        return reply

    def tell(self, payload: bytes) -> None:
        """Best effort: a worker that is gone needs to be told nothing."""
        with contextlib.suppress(OSError, ChannelTimeout, _OutputFlood):
            self._channel.send(payload, [], time.monotonic() + 1.0)

    def _lost(self, what: str) -> WorkerLost:
        if what:
            self.close()
            return WorkerLost(f"the submission's process {what}")
        self._read_end(2.0)
        ended = self.ended
        self.close()
        if ended is None:
            return WorkerLost("the submission's process ended without an answer")
        if ended.reason:
            return WorkerLost(f"the submission's process {ended.reason} and was stopped")
        if ended.code < 0 or ended.code > 128:
            number = -ended.code if ended.code < 0 else ended.code - 128
            with contextlib.suppress(ValueError):
                return WorkerLost(
                    f"the submission's process was ended by {signal.Signals(number).name}"
                )
        return WorkerLost(
            f"the submission's process ended by itself (exit status {ended.code}) without an answer"
        )

    def _read_end(self, timeout: float) -> None:
        if self.ended is None:
            self._control.settimeout(timeout)
            with contextlib.suppress(OSError, msgspec.DecodeError):
                data = self._control.recv(65536)
                if data:
                    self.ended = msgspec.json.decode(data, type=Ended)

    def close(self) -> None:
        """Hang up: the supervisor kills the worker and everything below it."""
        if self.closed:
            return
        self.closed = True
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        self._read_end(
            5.0
        )  # wait until everything is really dead, so that nothing outlives its task
        with contextlib.suppress(_OutputFlood):
            self._drain()
        self._channel.close()
        self._control.close()
        with contextlib.suppress(OSError):
            os.close(self._output_fd)


class _OutputFlood(Exception):
    pass


class InlineWorker:
    """Isolation ``none``: the submission runs in the oracle's own process, for a debugger."""

    def __init__(
        self,
        package: str,
        directory: Path,
        device: str,
        harness: Path | None = None,
        *,
        debug: bool = False,
    ) -> None:
        import importlib.util

        from graders.oracle.debugger import PostMortem
        from graders.worker.servant import Servant

        interactive = sys.stdin is not None and sys.stdin.isatty()
        self._servant = Servant(
            package,
            directory,
            device=device,
            on_exception=PostMortem(directory) if debug and interactive else None,
            inline=True,
        )
        if harness is not None and harness.exists():
            spec = importlib.util.spec_from_file_location("inferlab_harness", harness)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules["inferlab_harness"] = module
            spec.loader.exec_module(module)
        self.output = Output()
        self.answered: set[str] = set()
        self.budget_s = float("inf")
        self.closed = self.timed_out = False

    def request(self, payload: bytes, fds: list[int]) -> tuple[bytes, list[int]]:
        """Answer in this very process."""
        result = self._servant.handle(payload, fds)
        assert result is not None
        reply, packer = result
        return reply, packer.fds

    def tell(self, payload: bytes) -> None:
        """As ``request``, without a reply."""
        self._servant.handle(payload, [])

    def close(self) -> None:
        """Nothing to kill."""
        self.closed = True


def spawn_request(
    stage: Stage, package: str, level: str, device: str, shown_as: str, limits: Limits
) -> Spawn:
    """The request that starts a worker on ``stage``."""
    # Those this process may use: beside other graders it may be bound to a share of them.
    mine = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    threads = max(1, min(len(mine), 4))
    return Spawn(
        package=package, stage=str(stage.root / "stage"), scratch=str(stage.scratch),
        given=str(stage.given), shown_as=shown_as, level=level, device=device, threads=threads,
        limits=limits,
    )  # fmt: skip
