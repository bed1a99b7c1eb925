"""The system-call filter of the sandbox: a deny list compiled to classic BPF.

A deny list, because CUDA, torch and Python between them use too many calls for a list of allowed
ones to hold over the years. Namespaces, capabilities and the file system are the first wall; this
one takes away the kernel's rarely needed and often broken entrances.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from . import syscalls

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1

_KILL = 0x80000000
_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000

_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# struct seccomp_data: nr at 0, arch at 4, instruction pointer at 8, args from 16 (little endian).
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24
_AUDIT_ARCH = (0xC000003E, 0xC00000B7)

_NEW_NAMESPACE = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
)
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

DENIED: tuple[str, ...] = (
    # mounts and roots
    "mount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount",
    "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "swapon", "swapoff",
    "quotactl", "quotactl_fd", "sysfs", "ustat",
    # namespaces
    "unshare", "setns",
    # other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease",
    "kcmp", "pidfd_getfd", "move_pages", "migrate_pages",
    # kernel interior
    "bpf", "perf_event_open", "userfaultfd", "kexec_load", "kexec_file_load", "init_module",
    "finit_module", "delete_module", "create_module", "io_uring_setup", "io_uring_enter",
    "io_uring_register", "add_key", "request_key", "keyctl", "fanotify_init", "lookup_dcookie",
    "modify_ldt", "uselib", "_sysctl", "syslog", "acct", "iopl", "ioperm", "vhangup",
    # files by handle reach past the mounts
    "open_by_handle_at", "name_to_handle_at",
    # the machine
    "reboot", "sethostname", "setdomainname", "settimeofday", "clock_settime", "adjtimex",
    "clock_adjtime",
    # memory that no limit of ours counts
    "shmget", "memfd_secret",
)  # fmt: skip


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _errno(code: int) -> bytes:
    return _op(_RETURN, _ERRNO | code)


def _when(name: str, body: list[bytes], column: int) -> list[bytes]:
    """``body`` for one system call; it must end in a return. The call number is loaded already."""
    number = syscalls.NUMBERS[name][column]
    return [] if number is None else [_op(_JEQ, number, 0, len(body)), *body]


def program(
    column: int, *, families: tuple[int, ...] = (AF_UNIX, AF_NETLINK), memfd: bool = True
) -> bytes:
    """The filter for a column of :data:`syscalls.NUMBERS`, as an array of ``struct sock_filter``.

    ``families`` are the socket families left open; ``memfd`` leaves ``memfd_create`` open.
    """
    allow, refuse = _op(_RETURN, _ALLOW), _errno(errno.EPERM)
    code = [
        _op(_LOAD, _ARCH),
        _op(_JEQ, _AUDIT_ARCH[column], 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NR),
    ]
    if column == 0:  # x32 calls carry bit 30 and would slip past the numbers below
        code += [_op(_JGE, 0x40000000, 0, 1), _op(_RETURN, _KILL)]
    denied = DENIED if memfd else (*DENIED, "memfd_create")
    for name in denied:
        code += _when(name, [refuse], column)
    # The flags of clone3 lie behind a pointer; with ENOSYS libc falls back to clone.
    code += _when("clone3", [_errno(errno.ENOSYS)], column)
    code += _when(
        "clone", [_op(_LOAD, _ARG0), _op(_JSET, _NEW_NAMESPACE, 0, 1), refuse, allow], column
    )
    tests = [_op(_JEQ, family, len(families) - i, 0) for i, family in enumerate(families)]
    socket = [_op(_LOAD, _ARG0), *tests, _errno(errno.EAFNOSUPPORT), allow]
    for name in ("socket", "socketpair"):
        code += _when(name, socket, column)
    # Pushing characters into the instructor's terminal.
    pushes = [_op(_LOAD, _ARG1), _op(_JEQ, _TIOCSTI, 1, 0), _op(_JEQ, _TIOCLINUX, 0, 1)]
    code += _when("ioctl", [*pushes, refuse, allow], column)
    code.append(allow)
    return b"".join(code)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install(filter_bytes: bytes) -> None:
    """Put the filter on every thread of this process, for good. Needs no_new_privs to be set."""
    buffer = ctypes.create_string_buffer(filter_bytes, len(filter_bytes))
    fprog = _Program(len(filter_bytes) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    result = syscalls.syscall(
        "seccomp", SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(fprog)
    )
    if result:
        raise OSError(errno.EAGAIN, f"seccomp: thread {result} cannot take the filter")
