"""The fork server: a clean process that has imported torch and forks one worker a task.

It is started with an empty environment, knows no secret and never imports a submission. For each
request it forks a supervisor, which forks the worker behind the wall asked for, watches its memory
and processes, and kills everything when the oracle hangs up.

    oracle ── control socket ──► zygote ──fork──► supervisor ──fork──► worker (student code)
       └──────────── channel, output pipe ───────────────────────────────┘
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from graders.wire.channel import Channel, ChannelClosed, ProtocolError
from graders.worker.limits import apply_rlimits, descendants, kill_all, reap, resident_bytes

# Imported before any fork: inside the sandbox the grader's own files are not there.
from graders.worker.servant import Servant
from graders.worker.spawn import Ended, Spawn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 0.05


def main(control_fd: int, preload: list[str]) -> None:
    """Serve spawn requests on ``control_fd`` until the oracle closes it."""
    control = socket.socket(fileno=control_fd)
    channel = Channel(control)
    _die_with_parent()
    gc.disable()
    for name in preload:
        with contextlib.suppress(Exception):  # the lab's own import will tell the student better
            importlib.import_module(name)
    gc.freeze()  # a collection in a worker then leaves the libraries' pages shared
    gc.enable()
    try:
        channel.send(b"ready")
    except ChannelClosed:  # the oracle gave up before it needed a worker
        os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    supervisors: set[int] = set()
    while True:
        supervisors -= set(reap())
        try:
            payload, fds = channel.receive(time.monotonic() + 1.0)
        except TimeoutError:
            continue
        except ChannelClosed:
            os._exit(0)
        request = msgspec.json.decode(payload, type=Spawn)
        pid = os.fork()
        if pid == 0:
            control.close()
            _supervise(request, *fds)
        supervisors.add(pid)
        for fd in fds:
            os.close(fd)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _supervise(request: Spawn, channel_fd: int, output_fd: int, control_fd: int) -> None:
    """In the supervisor: start the worker, watch it, report, exit. Never returns."""
    status = Ended(1, "the grader could not start the worker")
    control = socket.socket(fileno=control_fd)
    try:
        os.setsid()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        # Should memory run out on this machine, the kernel takes a worker and not an oracle.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        main_pid = _start(request, channel_fd, output_fd)
        os.close(channel_fd)
        os.close(output_fd)
        status = _watch(request, main_pid, control)
    except BaseException as error:
        status = Ended(1, f"the grader could not start the worker: {type(error).__name__}: {error}")
    finally:
        with contextlib.suppress(OSError):
            control.sendall(msgspec.json.encode(status))
        os._exit(0)


def _start(request: Spawn, channel_fd: int, output_fd: int) -> int:
    def work() -> None:
        _serve(request, channel_fd)

    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    if request.level == "sandbox":
        from graders.isolation import sandbox

        limits = request.limits
        spec = sandbox.SandboxSpec(
            read_only=(
                *sandbox.default_read_only(),
                request.stage,
                request.given,
                *request.read_only,
            ),
            scratch=(request.scratch,),
            devices=sandbox.nvidia_devices() if request.device.startswith("cuda") else (),
            shm_bytes=limits.shm_bytes,
            tmp_bytes=limits.tmp_bytes,
            max_processes=limits.processes,
            # CUDA reserves far more address space than it uses; the watchdog counts real memory.
            max_memory_bytes=2**48 if request.device.startswith("cuda") else limits.memory_bytes,
            max_file_bytes=limits.file_bytes,
            max_open_files=limits.open_files,
            # Large tensors cross as sealed memory files; _watch counts them.
            memory_files=True,
        )
        return sandbox.spawn(spec, work, keep_fds=(channel_fd,))
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            _die_with_parent()
            apply_rlimits(request.limits, cuda=request.device.startswith("cuda"))
            os.closerange(3, channel_fd)
            os.closerange(channel_fd + 1, 4096)
            work()
        finally:
            os._exit(0)
    return pid


def _watch(request: Spawn, main_pid: int, control: socket.socket) -> Ended:
    peak, reason = 0, ""
    while True:
        dead = reap()
        if main_pid in dead:
            kill_all(os.getpid())
            return Ended(os.waitstatus_to_exitcode(dead[main_pid]), reason, peak)
        hung_up, _, _ = select.select([control], [], [], _TICK_S)
        if hung_up:
            reason = reason or "stopped by the grader"
        family = descendants(os.getpid())
        used = resident_bytes(family)
        peak = max(peak, used)
        if used > request.limits.memory_bytes:
            reason = f"used more than {request.limits.memory_bytes / 2**30:.0f} GiB of memory"
        elif len(family) > request.limits.processes:
            reason = f"started more than {request.limits.processes} processes"
        if reason:
            kill_all(os.getpid(), main_pid)
            return Ended(-signal.SIGKILL, reason, peak)


def _serve(request: Spawn, channel_fd: int) -> None:
    """In the worker: answer requests until the oracle hangs up."""
    os.chdir(request.scratch)
    temporary = request.scratch if request.level != "sandbox" else "/tmp"
    os.environ.update(
        HOME=request.scratch,
        TMPDIR=temporary,
        # torch.compile: its files go where this worker may write, its compiler runs in the worker.
        TORCHINDUCTOR_CACHE_DIR=f"{temporary}/inductor",
        TRITON_CACHE_DIR=f"{temporary}/triton",
        TORCHINDUCTOR_COMPILE_THREADS="1",
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS=str(request.threads),
    )
    sys.path[:] = [
        request.stage,
        *[p for p in sys.path if "site-packages" in p or p.startswith(sys.base_prefix)],
    ]
    for name in [n for n in sys.modules if n == "labs" or n.startswith("labs.")]:
        del sys.modules[name]
    # What the grader needs here is imported; the rest of it is not the submission's to import.
    for name in [n for n in sys.modules if n == "graders" or n.startswith("graders.")]:
        if hasattr(sys.modules[name], "__path__"):
            sys.modules[name].__path__ = []
    sys.dont_write_bytecode = True
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(request.threads)
    channel = Channel(socket.socket(fileno=channel_fd))
    directory = Path(request.stage) / "labs" / request.package
    servant = Servant(request.package, directory, device=request.device, shown_as=request.shown_as)
    answer: Callable[..., Any] = servant.handle
    while True:
        try:
            payload, fds = channel.receive()
        except ChannelClosed:
            os._exit(0)
        result = answer(payload, fds)
        for fd in fds:
            os.close(fd)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if result is not None:
            reply, packer = result
            try:
                channel.send(reply, packer.fds)
            except ProtocolError as error:
                channel.send(servant.refusal(error))
            finally:
                packer.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
