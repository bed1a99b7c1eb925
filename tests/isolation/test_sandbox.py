"""Attacks on the sandbox, each from inside, as root and as an ordinary user."""

from __future__ import annotations

import contextlib
import ctypes
import encodings.idna  # noqa: F401  (sockets look it up late; a sandbox may not see the library)
import json
import mmap
import os
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from graders.isolation import sandbox, seccomp, syscalls

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

ORDINARY_UID = 54321
SPEC = sandbox.SandboxSpec(
    read_only=sandbox.default_read_only() if sys.platform == "linux" else (),
    shm_bytes=8 << 20,
    tmp_bytes=8 << 20,
    max_processes=32,
    max_memory_bytes=1 << 30,
    max_file_bytes=1 << 20,
    max_open_files=64,
)
Probe = Callable[[], Any]


@dataclass
class Outcome:
    """What a probe returned (None if it did not get that far) and how its init ended."""

    value: Any
    status: int
    start_ms: float


def as_ordinary_user() -> None:
    """Drop root for good, as far as the kernel and spawn can tell."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
        os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)


def supervise(ordinary: bool, body: Callable[[int], None]) -> tuple[int, int]:
    """Fork a supervisor that runs ``body(pipe)``; returns its pid and the pipe's read end."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            if ordinary:
                as_ordinary_user()
            body(write)
        except BaseException as error:  # noqa: BLE001
            os.write(write, json.dumps({"error": repr(error)}).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(write)
    return pid, read


def read_all(fd: int, seconds: float) -> bytes:
    """Everything from a pipe until its writers are gone, or a failure after ``seconds``."""
    data, end = b"", time.monotonic() + seconds
    while select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
        chunk = os.read(fd, 65536)
        if not chunk:
            return data
        data += chunk
    pytest.fail(f"the pipe was still held after {seconds} s; it gave {data!r}")


@dataclass
class Prison:
    """Runs probes inside, for one kind of supervisor."""

    ordinary: bool

    def run(self, probe: Probe, spec: sandbox.SandboxSpec = SPEC, seconds: float = 20) -> Outcome:
        def body(pipe: int) -> None:
            def main() -> None:
                os.write(pipe, json.dumps({"value": probe()}).encode() + b"\n")

            inside = spec
            if self.ordinary:  # the interpreter may live in a home that this uid may not enter
                shown = tuple(p for p in spec.read_only if p not in SPEC.read_only)
                inside = replace(spec, read_only=(*sandbox.default_read_only(), *shown))
            start = time.perf_counter()
            init = sandbox.spawn(inside, main, keep_fds=(pipe,))
            ms = (time.perf_counter() - start) * 1e3
            status = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
            os.write(pipe, json.dumps({"status": status, "ms": ms}).encode() + b"\n")

        pid, pipe = supervise(self.ordinary, body)
        try:
            lines = [json.loads(line) for line in read_all(pipe, seconds).splitlines()]
        finally:
            os.close(pipe)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        merged = {key: value for line in lines for key, value in line.items()}
        assert "error" not in merged, merged["error"]
        return Outcome(merged.get("value"), merged["status"], merged["ms"])


def _available(ordinary: bool) -> str:
    def body(pipe: int) -> None:
        try:
            sandbox.check_available()
        except sandbox.SandboxUnavailable as error:
            os.write(pipe, str(error).encode())

    pid, pipe = supervise(ordinary, body)
    text = read_all(pipe, 20).decode()
    os.close(pipe)
    os.waitpid(pid, 0)
    return text


@pytest.fixture(scope="module", params=["root", "ordinary"])
def prison(request: pytest.FixtureRequest) -> Prison:
    ordinary = request.param == "ordinary"
    if not ordinary and os.geteuid() != 0:
        pytest.skip("not root")
    reason = _available(ordinary)
    if reason:
        pytest.skip(f"NO SANDBOX HERE as {request.param}: {reason}")
    return Prison(ordinary)


@pytest.fixture
def open_dir(tmp_path: Path) -> Iterator[Path]:
    """A directory that any uid may reach and write."""
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.geteuid() and not stat.S_IMODE(parent.stat().st_mode) & 1:
            parent.chmod(0o755)
    tmp_path.chmod(0o777)
    yield tmp_path


def code_of(call: Callable[[], Any]) -> int:
    """The errno with which a call is refused; 0 when it is not."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def test_status_and_identity(prison: Prison) -> None:
    def probe() -> Any:
        status = Path("/proc/self/status").read_text()
        words = [line.split() for line in status.splitlines()]
        fields = {w[0]: w[-1] for w in words if w}
        sets = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"]
        return {
            "ids": [*os.getresuid(), *os.getresgid()],
            "groups": os.getgroups() if os.getuid() != ORDINARY_UID else [],
            "caps": [int(fields[s], 16) for s in sets],
            "nnp": fields["NoNewPrivs:"],
            "seccomp": fields["Seccomp:"],
            "umask": os.umask(0o022),
        }

    got = prison.run(probe)
    assert got.status == 0
    uids = set(got.value["ids"])
    if prison.ordinary:
        assert uids == ({ORDINARY_UID} if os.geteuid() == 0 else {os.getuid(), os.getgid()})
    else:
        (uid,) = uids
        assert sandbox.FIRST_UID <= uid < sandbox.FIRST_UID + sandbox.NUM_UIDS
        assert got.value["groups"] == []
    assert got.value["caps"] == [0] * 5
    assert (got.value["nnp"], got.value["seccomp"], got.value["umask"]) == ("1", "2", 0o022)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda: None, 0),
        (lambda: sys.exit(7), 7),
        (lambda: os._exit(9), 9),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 137),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), 139),
    ],
)
def test_init_leaves_with_the_workers_status(
    prison: Prison, end: Callable[[], Any], status: int
) -> None:
    assert prison.run(end).status == status


def test_planted_secret_is_not_there(prison: Prison, open_dir: Path) -> None:
    secret = open_dir / "test_hidden.py"
    secret.write_text("expected = 42")
    secret.chmod(0o644)
    repo = Path(__file__).resolve().parents[2]

    def probe() -> Any:
        up = "../" * 20
        return [
            code_of(lambda p=path: os.open(p, os.O_RDONLY))
            for path in (str(secret), up + str(secret), str(repo / "graders"), "/etc/shadow")
        ]

    codes = prison.run(probe).value
    if any(str(repo).startswith(p + "/") for p in SPEC.read_only):
        codes.pop(2)
    assert set(codes) == {2}  # ENOENT: not refused, absent


def test_only_the_named_trees_are_visible(prison: Prison) -> None:
    seen = set(prison.run(lambda: os.listdir("/")).value)
    named = {path.split("/")[1] for path in SPEC.read_only}
    assert seen <= named | {"proc", "dev", "tmp", "etc"}


def test_host_processes_are_invisible(prison: Prison) -> None:
    def probe() -> Any:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        peek = [
            code_of(lambda n=name: os.listdir(f"/proc/1/{n}")) for name in ("fd", "root", "cwd")
        ]
        peek.append(code_of(Path("/proc/1/environ").read_bytes))
        return pids, peek, code_of(lambda: os.kill(os.getppid(), 0))

    pids, peek, _ = prison.run(probe).value
    assert set(pids) <= {1, 2}
    assert all(peek)


def test_no_descriptor_but_the_kept(prison: Prison, open_dir: Path) -> None:
    secret = open_dir / "key"
    secret.write_text("k")
    fd = os.open(secret, os.O_RDONLY)
    try:

        def probe() -> Any:
            return [n for n in range(3, 256) if code_of(lambda n=n: os.fstat(n)) == 0]

        assert len(prison.run(probe).value) == 1  # the pipe this answer came through
    finally:
        os.close(fd)


@pytest.mark.parametrize("loopback", [False, True])
def test_the_hosts_loopback_is_out_of_reach(prison: Prison, loopback: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def probe() -> Any:
            def connect(address: str = "127.0.0.1") -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                    sock.settimeout(2)
                    sock.connect((address, port))

            def own() -> None:
                with socket.create_server(("127.0.0.1", 0)) as mine:
                    socket.create_connection(mine.getsockname()[:2], timeout=2).close()

            raw = code_of(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            return code_of(connect), code_of(lambda: connect("8.8.8.8")), code_of(own), raw

        host, world, own, raw = prison.run(probe, replace(SPEC, loopback=loopback)).value
        assert host and world and raw
        assert (own == 0) == loopback
        assert not select.select([server], [], [], 0)[0]


def test_abstract_unix_sockets_of_the_host_are_out_of_reach(prison: Prison) -> None:
    name = f"\0inferlab-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()

        def probe() -> Any:
            a, b = socket.socketpair()
            a.send(b"x")
            with socket.socket(socket.AF_UNIX) as sock:
                return b.recv(1).decode(), code_of(lambda: sock.connect(name))

        assert prison.run(probe).value == ["x", 111]


def test_daemon_dies_with_its_worker(prison: Prison) -> None:
    def probe() -> Any:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
                time.sleep(600)
            os._exit(0)
        return "left"

    start = time.monotonic()
    # The pipe reaches its end only when the daemon, which holds it, is gone.
    assert prison.run(probe, seconds=10).value == "left"
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("victim", ["init", "supervisor"])
def test_one_kill_ends_everything(prison: Prison, victim: str) -> None:
    """SIGKILL of init, and the supervisor's own death, each leave nothing behind."""

    def body(pipe: int) -> None:
        def main() -> None:
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    break
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
            os.write(pipe, b"x")
            time.sleep(600)

        spec = replace(SPEC, read_only=sandbox.default_read_only())
        init = sandbox.spawn(spec, main, keep_fds=(pipe,))
        while victim == "supervisor":
            time.sleep(1)
        time.sleep(0.5)
        os.kill(init, signal.SIGKILL)
        os.waitpid(init, 0)

    pid, pipe = supervise(prison.ordinary, body)
    assert os.read(pipe, 1) == b"x"
    if victim == "supervisor":
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
    assert set(read_all(pipe, 10)) <= set(b"x")
    os.close(pipe)
    os.waitpid(pid, 0)


@pytest.fixture
def handler() -> Iterator[None]:
    """A handler for SIGTERM that raises, as a command line may have one."""

    def raises(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, raises)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("handler")
def test_init_cannot_be_killed_from_inside(prison: Prison) -> None:
    def probe() -> Any:
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV):
            with contextlib.suppress(OSError):
                os.kill(1, number)
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)
        return "alive"

    got = prison.run(probe)
    assert (got.value, got.status) == ("alive", 0)


def test_fork_bomb_is_contained(prison: Prison) -> None:
    def probe() -> Any:
        made = 0
        for _ in range(1000):
            try:
                if os.fork() == 0:
                    time.sleep(600)
                    os._exit(0)
            except BlockingIOError:
                return made
            made += 1
        return made

    assert 0 < prison.run(probe).value <= SPEC.max_processes


def test_sandboxes_do_not_share_the_process_limit(prison: Prison) -> None:
    def sleepers() -> Any:
        for _ in range(SPEC.max_processes - 8):
            if os.fork() == 0:
                time.sleep(600)
        return "full"

    def body(pipe: int) -> None:
        def main() -> None:
            os.write(pipe, str(sleepers())[:1].encode())
            time.sleep(600)

        sandbox.spawn(replace(SPEC, read_only=sandbox.default_read_only()), main, keep_fds=(pipe,))
        time.sleep(600)

    pid, pipe = supervise(prison.ordinary, body)
    try:
        assert os.read(pipe, 1) == b"f"
        assert prison.run(sleepers).value == "full"
    finally:
        os.kill(pid, signal.SIGKILL)
        read_all(pipe, 10)
        os.close(pipe)
        os.waitpid(pid, 0)


def test_memory_is_capped(prison: Prison) -> None:
    def probe() -> Any:
        got = []
        for size, kind in (
            (SPEC.max_memory_bytes * 2, mmap.MAP_PRIVATE),
            (SPEC.max_memory_bytes * 2, mmap.MAP_SHARED),
            (SPEC.max_memory_bytes // 4, mmap.MAP_PRIVATE),
        ):
            got.append(code_of(lambda s=size, k=kind: mmap.mmap(-1, s, k | mmap.MAP_ANONYMOUS)))
        try:
            bytearray(SPEC.max_memory_bytes * 2)
        except MemoryError:
            got.append(-1)
        got.append(code_of(lambda: os.memfd_create("hidden")))
        return got

    assert prison.run(probe).value == [12, 12, 0, -1, 1]  # ENOMEM, EPERM


def test_memory_files_are_opened_by_name_only(prison: Prison) -> None:
    def probe() -> Any:
        fd = os.memfd_create("tensor")
        sizes = (SPEC.max_file_bytes, SPEC.max_file_bytes + 1)
        return [code_of(lambda n=size: os.ftruncate(fd, n)) for size in sizes]

    assert prison.run(probe, replace(SPEC, memory_files=True)).value == [0, 27]  # EFBIG


def test_files_are_capped(prison: Prison) -> None:
    def fill(path: str, size: int) -> int:
        def write() -> None:
            with open(path, "wb", buffering=0) as file:
                done = 0
                while done < size:
                    done += file.write(b"\0" * min(1 << 20, size - done))

        return code_of(write)

    def probe() -> Any:
        single = fill("/tmp/big", SPEC.max_file_bytes + 1)
        several = [
            max(fill(f"{where}/{i}", SPEC.max_file_bytes) for i in range(10))
            for where in ("/tmp", "/dev/shm")
        ]
        fds = []
        with contextlib.suppress(OSError):
            while len(fds) < 1000:
                fds.append(os.open("/dev/null", os.O_RDONLY))
        return single, several, len(fds), resource.getrlimit(resource.RLIMIT_CORE)

    single, several, count, core = prison.run(probe).value
    assert single == 27  # EFBIG
    assert several == [28, 28]  # ENOSPC
    assert count < SPEC.max_open_files
    assert core == [0, 0]


def test_read_only_stays_read_only(prison: Prison, open_dir: Path) -> None:
    given, scratch = open_dir / "given", open_dir / "scratch"
    for path in (given, scratch):
        path.mkdir()
        path.chmod(0o777)
    (given / "data").write_text("d")
    (given / "data").chmod(0o666)
    spec = replace(SPEC, read_only=(*SPEC.read_only, str(given)), writable=(str(scratch),))

    def probe() -> Any:
        flags = os.O_CREAT | os.O_WRONLY
        refused = [
            code_of(lambda p=path: os.open(p, flags, 0o644))
            for path in (str(given / "data"), str(given / "new"), "/new", "/usr/new", "/dev/new")
        ]
        (scratch / "out").write_text("o")
        return refused, (given / "data").read_text(), code_of(lambda: os.unlink(given / "data"))

    refused, text, unlink = prison.run(probe, spec).value
    assert refused == [30] * 5 and unlink == 30  # EROFS
    assert text == "d"
    assert (scratch / "out").read_text() == "o"


def test_denied_calls(prison: Prison) -> None:
    def probe() -> Any:
        column = syscalls.column()
        got = {}
        for name in seccomp.DENIED:
            if syscalls.NUMBERS[name][column] is not None:
                got[name] = code_of(lambda n=name: syscalls.syscall(n, 0, 0, 0, 0, 0))
        for flag in range(25, 31):
            value = 1 << flag | signal.SIGCHLD
            got[f"clone {flag}"] = code_of(lambda v=value: syscalls.syscall("clone", v, 0, 0, 0, 0))
        got["clone newns"] = code_of(lambda: syscalls.syscall("clone", 0x20000, 0, 0, 0, 0))
        got["high bits"] = code_of(lambda: syscalls.syscall("ioctl", 0, 0x5412 | 1 << 40, b"x"))
        clone3 = code_of(lambda: syscalls.syscall("clone3", None, 0))
        return got, clone3

    got, clone3 = prison.run(probe).value
    assert {name: code for name, code in got.items() if code != 1} == {}
    assert clone3 == 38  # ENOSYS


def test_landlock_holds_where_the_mounts_would_not(prison: Prison, open_dir: Path) -> None:
    """A directory descriptor that reaches outside, kept by mistake, opens nothing."""
    if not syscalls.landlock_rights():
        pytest.skip("NO LANDLOCK in this kernel")
    (open_dir / "secret").write_text("s")
    (open_dir / "secret").chmod(0o666)
    fd = os.open(open_dir, os.O_RDONLY | os.O_DIRECTORY)

    def body(pipe: int) -> None:
        def main() -> None:
            modes = (os.O_RDONLY, os.O_WRONLY)
            got = [code_of(lambda m=m: os.open("secret", m, dir_fd=fd)) for m in modes]
            os.write(pipe, json.dumps(got).encode())

        spec = replace(SPEC, read_only=sandbox.default_read_only())
        init = sandbox.spawn(spec, main, keep_fds=(pipe, fd))
        os.waitpid(init, 0)

    try:
        pid, pipe = supervise(prison.ordinary, body)
        assert json.loads(read_all(pipe, 20)) == [13, 13]  # EACCES
        os.close(pipe)
        os.waitpid(pid, 0)
    finally:
        os.close(fd)


def test_foreign_system_call_tables_kill(prison: Prison) -> None:
    if syscalls.column() != 0:
        pytest.skip("x32 exists on x86_64 only")

    def probe() -> Any:
        ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39))
        return "survived"

    got = prison.run(probe)
    assert (got.value, got.status) == (None, 128 + signal.SIGSYS)


def test_threads_and_subprocesses_work(prison: Prison) -> None:
    def probe() -> Any:
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(1))
        thread.start()
        thread.join()
        out = subprocess.run(
            ["/bin/sh", "-c", "echo hi; id -un"], capture_output=True, text=True, check=False
        )
        return seen, out.stdout.split()

    assert prison.run(probe).value == [[1], ["hi", "student"]]


def test_torch_imported_before_the_fork_works_inside(prison: Prison) -> None:
    torch = pytest.importorskip("torch")

    def probe() -> Any:
        # Other tests of this session may have used OpenMP, whose pool does not survive a fork;
        # the real fork server is a clean process and needs no such care.
        torch.set_num_threads(1)
        x = torch.arange(250_000, dtype=torch.float32).reshape(500, 500) / 1e5
        y = torch.nn.functional.softmax(x @ x.T, dim=-1)
        return float(y.sum()), torch.get_num_threads()

    total, _ = prison.run(probe, replace(SPEC, max_memory_bytes=4 << 30)).value
    assert total == pytest.approx(500, rel=1e-4)


def test_a_worker_that_fails_says_so(prison: Prison, capfd: pytest.CaptureFixture[str]) -> None:
    def probe() -> Any:
        raise LookupError("nothing")

    assert prison.run(probe).status == 1


def test_missing_path_is_an_error_not_a_fallback(prison: Prison) -> None:
    with pytest.raises(AssertionError, match="SandboxUnavailable.*absent"):
        prison.run(lambda: None, replace(SPEC, read_only=("/absent",)))


def test_covered_proc_leaves_an_empty_one() -> None:
    """In a container /proc is partly covered and a user namespace may not mount a whole one."""
    if os.geteuid() != 0 or _available(True):
        pytest.skip("needs root and user namespaces")

    def body(pipe: int) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("tmpfs", "/proc/sys", "tmpfs", 0)
        as_ordinary_user()

        def main() -> None:
            os.write(pipe, json.dumps(os.listdir("/proc")).encode())

        spec = replace(SPEC, read_only=sandbox.default_read_only())
        os.waitpid(sandbox.spawn(spec, main, keep_fds=(pipe,)), 0)

    pid, pipe = supervise(False, body)
    assert json.loads(read_all(pipe, 20)) == []
    os.close(pipe)
    os.waitpid(pid, 0)


def test_second_spawn_and_threads_are_refused(prison: Prison) -> None:
    def body(pipe: int) -> None:
        spec = replace(SPEC, read_only=sandbox.default_read_only())
        texts = []
        event = threading.Event()
        thread = threading.Thread(target=event.wait)
        thread.start()
        for _ in range(3):
            try:
                os.waitpid(sandbox.spawn(spec, lambda: None, keep_fds=()), 0)
                texts.append("ok")
            except RuntimeError as error:
                texts.append(str(error))
            event.set()
            thread.join()
            time.sleep(0.05)  # the kernel forgets a thread a moment after it is joined
        os.write(pipe, json.dumps(texts).encode())

    pid, pipe = supervise(prison.ordinary, body)
    threads, good, second = json.loads(read_all(pipe, 20))
    os.close(pipe)
    os.waitpid(pid, 0)
    assert "has 2 threads" in threads
    assert good == "ok"
    assert "called before" in second


def test_start_is_fast(prison: Prison) -> None:
    times = sorted(prison.run(lambda: None).start_ms for _ in range(9))
    print(f"sandbox start, {'ordinary' if prison.ordinary else 'root'}: median {times[4]:.1f} ms")
    assert times[4] < 250


def test_filter_decides_alike_on_both_machines() -> None:
    """The compiled filters, interpreted here: aarch64's is checked on any machine."""
    kill, errno_, allow = 0x80000000, 0x00050000, 0x7FFF0000

    def decide(code: bytes, nr: int, arch: int, arg0: int = 0, arg1: int = 0) -> int:
        data = struct.pack("=IIQ6Q", nr, arch, 0, arg0, arg1, 0, 0, 0, 0)
        ops = list(struct.iter_unpack("=HBBI", code))
        at, a = 0, 0
        while True:
            op, jt, jf, k = ops[at]
            at += 1
            if op == 0x20:
                (a,) = struct.unpack_from("=I", data, k)
            elif op == 0x06:
                return k
            else:
                hit = {0x15: a == k, 0x35: a >= k, 0x45: bool(a & k)}[op]
                at += jt if hit else jf

    for column, arch in enumerate((0xC000003E, 0xC00000B7)):
        code = seccomp.program(column)
        number = {name: pair[column] for name, pair in syscalls.NUMBERS.items()}
        for name in seccomp.DENIED:
            if number[name] is not None:
                assert decide(code, number[name], arch) == errno_ | 1, name
        assert decide(code, 0, 0x40000003) == kill
        assert decide(code, number["clone3"], arch) == errno_ | 38
        assert decide(code, number["clone"], arch, signal.SIGCHLD) == allow
        assert decide(code, number["clone"], arch, syscalls.CLONE_NEWUSER) == errno_ | 1
        for family in range(46):
            want = allow if family in (1, 16) else errno_ | 97
            assert decide(code, number["socket"], arch, family) == want
        assert decide(code, number["ioctl"], arch, 0, 0x5401) == allow
        assert decide(code, number["ioctl"], arch, 0, 0x5412) == errno_ | 1
        assert decide(code, number["close_range"], arch) == allow
    x86 = seccomp.program(0)
    assert decide(x86, 0x40000000, 0xC000003E) == kill


def test_default_read_only_never_opens_a_home() -> None:
    paths = sandbox.default_read_only()
    assert not {"/", "/root", "/home", "/etc", "/proc", "/var", str(Path.home())} & set(paths)
    assert all(os.path.exists(path) for path in paths)
