"""A Linux sandbox for a forked Python process: no external program, no exec, so torch stays warm.

The supervisor (a freshly forked process with one thread) calls :func:`spawn`. That makes

- an *init*, process 1 of a new pid namespace, with mount, network, IPC, host-name and cgroup
  namespaces of its own. It builds a file system that holds only what the spec names, starts the
  worker, reaps orphans, and leaves with the worker's status. Killing it kills everything inside;
- the *worker*: unprivileged uid, no capabilities, resource limits, no_new_privs, Landlock where
  the kernel has it, a system-call filter, no descriptor except those kept. It runs ``main`` and
  ends.

As root the namespaces are made directly and the worker drops to a uid of its own; as an ordinary
user they are made inside a user namespace and the worker keeps the user's uid.

What this does not do: clear the environment or the memory the supervisor inherited. A process that
is forked sees all that its parent held, so the supervisor must come from a program that was started
clean. The limits on memory bound each process, not their sum, and a memory file (memfd_create)
like any other file, by ``max_file_bytes`` each: a supervisor that cares must watch the total.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import site
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import seccomp, syscalls

# systemd keeps 61184-65519 for dynamic users: no distribution gives these to a person.
FIRST_UID, NUM_UIDS = 61184, 4096

_DEV_NODES = ("null", "zero", "full", "random", "urandom")
_RO = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_RW = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_NODE = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
_NAMESPACES = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
)


class SandboxUnavailable(RuntimeError):
    """The sandbox cannot be built here; the message names the cause and the mend."""


@dataclass(frozen=True)
class SandboxSpec:
    """What the inside may see and use. Paths are absolute and keep their names inside.

    The worker's uid (see :func:`worker_uid`) must be able to read ``read_only`` and to write
    ``writable``: binds keep the owners and modes of the files, and nothing limits the sum of what
    is written there. ``scratch`` are folders that are empty inside, in memory, and end with the
    sandbox: each holds ``tmp_bytes`` at the most, as /tmp does.
    ``max_memory_bytes`` is what a process may map beyond what it inherited from the supervisor.
    ``max_processes`` counts threads too, as the kernel does. ``loopback`` gives the inside a
    127.0.0.1 of its own (never the host's); without it there are no internet sockets at all.
    ``memory_files`` leaves memfd_create open, whose pages no rlimit counts: only for a supervisor
    that counts them itself.
    """

    read_only: tuple[str, ...]
    writable: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    shm_bytes: int = 1 << 30
    tmp_bytes: int = 1 << 28
    max_processes: int = 256
    max_memory_bytes: int = 8 << 30
    max_file_bytes: int = 1 << 30
    max_open_files: int = 1024
    uid: int | None = None
    loopback: bool = False
    memory_files: bool = False


def worker_uid(spec: SandboxSpec) -> int:
    """The uid the worker will have when this process calls :func:`spawn`.

    As root each supervisor gets its own, because RLIMIT_NPROC counts over all processes of a uid.
    """
    if os.geteuid() != 0:
        return os.geteuid()
    return FIRST_UID + os.getpid() % NUM_UIDS if spec.uid is None else spec.uid


def spawn(spec: SandboxSpec, main: Callable[[], None], *, keep_fds: Sequence[int]) -> int:
    """Start ``main`` in a sandbox and return the pid of its init, to be waited for or killed.

    Call it once in a freshly forked process with one thread. Of the descriptors only ``keep_fds``
    and 0, 1, 2 stay open inside. Returns when the worker stands behind all its walls. Raises
    SandboxUnavailable when any of them cannot be built; nothing is left running then. Raises
    RuntimeError for a second call in one process and for a process with several threads.
    """
    _check_platform()
    _check_supervisor()
    uid, as_root = worker_uid(spec), os.geteuid() == 0
    if as_root and uid == 0:
        raise ValueError("the worker's uid must not be 0")
    try:
        _enter_pid_namespace(as_root)
    except OSError as error:
        raise _unavailable(error, as_root) from error
    status_read, status_write = os.pipe()
    life_read, life_write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        pid = os.fork()
    except OSError as error:
        raise _unavailable(error, as_root) from error
    if pid == 0:
        code = 70
        try:
            os.close(status_read)
            os.close(life_write)
            code = _init(spec, main, uid, as_root, set(keep_fds), status_write, life_read)
        except BaseException as error:  # noqa: BLE001
            _report(status_write, error)
        finally:
            os._exit(code)
    os.close(status_write)
    os.close(life_read)
    with os.fdopen(status_read, "rb") as pipe:
        message = pipe.read()
    os.close(life_write)
    if message != b"ready":
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        text = message.decode(errors="replace") or "the sandbox's init died while starting"
        raise _unavailable(text, as_root)
    return pid


def check_available() -> None:
    """Build a real sandbox in a forked child. Raises SandboxUnavailable if that fails."""
    _check_platform()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            spec = SandboxSpec(read_only=default_read_only(), max_processes=64)
            init = spawn(spec, lambda: None, keep_fds=())
            code = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
            os.write(write, f"an empty worker left with {code}".encode() if code else b"ok")
        except BaseException as error:  # noqa: BLE001
            os.write(write, str(error).encode()[:4000])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        message = pipe.read().decode(errors="replace")
    os.waitpid(pid, 0)
    if message != "ok":
        raise SandboxUnavailable(message or "the sandbox's trial process died")


def default_read_only() -> tuple[str, ...]:
    """The existing paths that this Python interpreter and its packages need, and nothing else."""
    system = (
        "/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/ssl/certs",
        "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs", "/etc/localtime", "/etc/alternatives",
        "/sys/devices/system/cpu", "/sys/devices/system/node",
    )  # fmt: skip
    packages = [*site.getsitepackages(), *(p for p in sys.path if p.endswith("-packages"))]
    own = [sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix, *packages]
    home = str(Path.home())
    # A prefix such as "/" or the home itself would open everything: leave it to the caller.
    own = [path for path in own if os.path.abspath(path) not in ("/", home, "/home", "/root")]
    wanted = [*system, *own, *map(os.path.realpath, own)]
    found = dict.fromkeys(os.path.abspath(path) for path in wanted if os.path.exists(path))
    return tuple(path for path in found if not any(_inside(path, other) for other in found))


def nvidia_devices() -> tuple[str, ...]:
    """The device files that CUDA needs, as far as they exist: GPUs, control and unified memory."""
    cards = [p for p in Path("/dev").glob("nvidia*") if p.name.removeprefix("nvidia").isdigit()]
    shared = [Path("/dev") / name for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")]
    capabilities = sorted(Path("/dev/nvidia-caps").glob("nvidia-cap*"))
    return tuple(str(p) for p in [*sorted(cards), *shared, *capabilities] if p.exists())


# -- the supervisor's side

_spawned_in = 0


def _check_supervisor() -> None:
    """Refuse what the kernel would refuse with a riddle, or what a fork would turn into a hang."""
    global _spawned_in
    if _spawned_in == os.getpid():
        raise RuntimeError("spawn was called before in this process: fork a supervisor for each")
    with contextlib.suppress(FileNotFoundError):
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            raise RuntimeError(f"the supervisor has {threads} threads and must have one")
    _spawned_in = os.getpid()


def _check_platform() -> None:
    if sys.platform != "linux":
        raise SandboxUnavailable(
            f"the sandbox needs Linux and this is {sys.platform}; grade in a Linux machine, or "
            "ask for the isolation level 'process'"
        )
    if syscalls.column() is None:
        raise SandboxUnavailable(
            "the sandbox knows 64-bit x86_64 and aarch64 only; grade on one of these"
        )


def _unavailable(cause: OSError | str, as_root: bool) -> SandboxUnavailable:
    text = str(cause)
    if "open_tree /" in text:
        mend = "name only paths that exist and that this user may enter"
    elif as_root:
        mend = (
            "root here lacks a right that the sandbox needs, as inside an ordinary container: "
            "start the container with --privileged, or grade on the host"
        )
    else:
        mend = (
            "allow user namespaces (sysctl user.max_user_namespaces above 0, "
            "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0), "
            "or grade as root"
        )
    release = os.uname().release
    return SandboxUnavailable(f"no sandbox: {text} (Linux {release}; 5.12 is needed). Mend: {mend}")


def _enter_pid_namespace(as_root: bool) -> None:
    """Make this process's next child the first of a new pid namespace."""
    if as_root:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        return
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID)
    # A process that once changed its uid, or hides its memory, may not write its own maps.
    dumpable = syscalls.prctl(syscalls.PR_GET_DUMPABLE)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    # Same numbers inside as outside; setgroups must be given up before a gid may be mapped.
    _write_file("/proc/self/uid_map", f"{uid} {uid} 1")
    _write_file("/proc/self/setgroups", "deny")
    _write_file("/proc/self/gid_map", f"{gid} {gid} 1")
    if dumpable == 0:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _write_file(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


# -- init's side


def _report(fd: int, error: BaseException) -> None:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    text = f"{type(error).__name__}: {error}" + "".join(f" [{f.name}:{f.lineno}]" for f in last)
    with contextlib.suppress(OSError):
        os.write(fd, text.encode(errors="replace")[:4000])


def _init(
    spec: SandboxSpec,
    main: Callable[[], None],
    uid: int,
    as_root: bool,
    keep: set[int],
    status: int,
    life: int,
) -> int:
    """Process 1: build the inside, start the worker, reap; returns the status to leave with."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([life], [], [], 0)[0]:  # the supervisor was gone before the line above
        return 70
    os.close(life)
    os.setsid()  # no controlling terminal
    # A handler from before the fork would run here, in process 1, at a signal from inside.
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    syscalls.unshare(_NAMESPACES)
    with contextlib.suppress(OSError):  # kernels built without cgroups
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)
    syscalls.syscall("sethostname", b"sandbox", 7)
    if spec.loopback:
        _raise_loopback()
    _build_root(spec, uid)
    worker = os.fork()
    if worker == 0:
        code = 70
        try:
            syscalls.close_all_but({0, 1, 2, status, *keep})
            _confine(spec, uid, as_root)
            os.write(status, b"ready")
            os.close(status)
        except BaseException as error:  # noqa: BLE001
            _report(status, error)
            os._exit(code)
        _run(main)
    syscalls.close_all_but(set())
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # nobody inside may look at this process
    syscalls.drop_capabilities()
    syscalls.clear_capabilities()
    while True:
        pid, result = os.wait()
        if pid == worker:
            code = os.waitstatus_to_exitcode(result)
            return code if code >= 0 else 128 - code


def _run(main: Callable[[], None]) -> None:
    """The worker's life after its walls stand; never returns."""
    code = 1
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # SIOCSIFFLAGS with IFF_UP | IFF_RUNNING (linux/sockios.h, linux/if.h)
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh22x", b"lo", 0x41))


def _inside(path: str, parent: str) -> bool:
    return path != parent and path.startswith(parent.rstrip("/") + "/")


def _parents(path: str) -> Iterator[str]:
    parts = path.strip("/").split("/")[:-1]
    for i in range(len(parts)):
        yield "/" + "/".join(parts[: i + 1])


def _build_root(spec: SandboxSpec, uid: int) -> None:
    """Replace the file system of this mount namespace with what ``spec`` names."""
    os.umask(0)
    gid = uid if os.geteuid() == 0 else os.getegid()
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    # Copies are taken before anything is covered, so a source may lie anywhere, /tmp included.
    trees: list[tuple[str, int, bool]] = []
    nodes = [*(f"/dev/{name}" for name in _DEV_NODES), *spec.devices]
    wanted = [(p, _RO) for p in spec.read_only] + [(p, _RW) for p in spec.writable]
    for path, attributes in [*wanted, *((p, _NODE) for p in nodes)]:
        path = os.path.abspath(path)
        if path == "/":
            raise OSError(errno.EINVAL, "the whole file system cannot be bound")
        fd = syscalls.clone_tree(path)
        syscalls.set_mount_flags(fd, attributes, recursive=True, about=path)
        trees.append((path, fd, os.path.isdir(path)))
    trees.sort(key=lambda tree: tree[0].count("/"))  # a child goes on top of its parent

    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    in_memory = "mode=1777,size={},nr_inodes=65536"  # size=0 would mean no limit
    new = "/tmp"  # any directory does: it is only the place to stand until the pivot
    syscalls.mount("tmpfs", new, "tmpfs", flags, "mode=0755,size=4m,nr_inodes=8192")
    for path in ("/proc", "/dev", "/dev/shm", "/tmp", "/etc"):
        os.mkdir(new + path, 0o755)
    for path, size in (("/dev/shm", spec.shm_bytes), ("/tmp", spec.tmp_bytes)):
        syscalls.mount("tmpfs", new + path, "tmpfs", flags, in_memory.format(max(size, 4096)))
    # Refused where the host's own /proc is partly covered, as in containers: then it stays empty.
    with contextlib.suppress(PermissionError):
        options = flags | syscalls.MS_NOEXEC | syscalls.MS_RDONLY
        syscalls.mount("proc", new + "/proc", "proc", options)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{new}/dev/{name}")
    _write_accounts(new, uid, gid)
    for path, fd, is_directory in trees:
        for parent in _parents(path):
            if not os.path.lexists(new + parent):
                os.mkdir(new + parent, 0o755)
        if not os.path.lexists(new + path):
            if is_directory:
                os.mkdir(new + path, 0o755)
            else:
                os.close(os.open(new + path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        syscalls.attach_tree(fd, new + path)
        os.close(fd)
    for path in map(os.path.abspath, spec.scratch):
        os.makedirs(new + path, 0o755, exist_ok=True)
        data = in_memory.format(max(spec.tmp_bytes, 4096))
        syscalls.mount("tmpfs", new + path, "tmpfs", flags, data)

    os.chdir(new)
    # Both roots at one place: the old one lies on top and is taken off (pivot_root(2), notes).
    syscalls.syscall("pivot_root", ".", ".")
    syscalls.syscall("umount2", ".", syscalls.MNT_DETACH)
    os.chdir("/")
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.set_mount_flags(fd, _RO, recursive=False, about="/")
    finally:
        os.close(fd)
    os.umask(0o022)


def _write_accounts(new: str, uid: int, gid: int) -> None:
    """The few files of /etc that name look-ups want; they say nothing about the host."""
    files = {
        "passwd": f"student:x:{uid}:{gid}:student:/tmp:/usr/sbin/nologin\n",
        "group": f"student:x:{gid}:\n",
        "hosts": "127.0.0.1 localhost sandbox\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
    for name, text in files.items():
        Path(f"{new}/etc/{name}").write_bytes(text.encode())
        os.chmod(f"{new}/etc/{name}", 0o644)


# -- the worker's side


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _confine(spec: SandboxSpec, uid: int, as_root: bool) -> None:
    """Give up every right; the order matters, as each step needs what the next one drops."""
    column = syscalls.column()
    assert column is not None
    families: tuple[int, ...] = (seccomp.AF_UNIX, seccomp.AF_NETLINK)
    if spec.loopback:
        families += (seccomp.AF_INET, seccomp.AF_INET6)
    # CUDA needs memfd_create and reserves terabytes of addresses, so RLIMIT_AS is for CPU workers.
    memfd = spec.memory_files or bool(spec.devices)
    walls = seccomp.program(column, families=families, memfd=memfd)
    mapped, data = _mapped_bytes()
    # In a user namespace of its own the count includes init and the supervisor.
    _limit(resource.RLIMIT_NPROC, spec.max_processes + (0 if as_root else 2))
    _limit(resource.RLIMIT_DATA, data + spec.max_memory_bytes)
    if not spec.devices:
        _limit(resource.RLIMIT_AS, mapped + spec.max_memory_bytes)
    _limit(resource.RLIMIT_FSIZE, spec.max_file_bytes)
    _limit(resource.RLIMIT_NOFILE, spec.max_open_files)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    syscalls.drop_capabilities()
    if as_root:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    syscalls.clear_capabilities()
    # Changing uid made /proc/self root's; torch and psutil read their own.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    # A second wall: what lies outside this root stays shut even for a descriptor that leads there.
    open_to_all = (*map(os.path.abspath, (*spec.writable, *spec.scratch)), "/tmp", "/dev")
    syscalls.landlock({"/": syscalls.LANDLOCK_READ, **dict.fromkeys(open_to_all, 0xFFFF)})
    seccomp.install(walls)


def _mapped_bytes() -> tuple[int, int]:
    """Bytes of address space and of private writable memory that this process has already."""
    with contextlib.suppress(OSError, ValueError):
        fields = Path("/proc/self/statm").read_bytes().split()
        page = resource.getpagesize()
        return int(fields[0]) * page, int(fields[5]) * page
    return 8 << 30, 4 << 30  # /proc is empty here: assume a large torch
