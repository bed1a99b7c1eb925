"""Linux system calls through :mod:`ctypes`, for what the standard library does not offer.

Only libc's ``syscall`` and ``prctl`` are used, so nothing has to be compiled or installed. Numbers
are those of the kernel's ``unistd`` headers for x86_64 and of the generic table that aarch64 uses.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

# Namespaces (linux/sched.h).
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# Mounts (linux/mount.h).
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, 0o2000000
MOVE_MOUNT_F_EMPTY_PATH = 4

# prctl (linux/prctl.h).
PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 3, 4, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4

# name: (x86_64, aarch64); None where the architecture lacks the call.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "ioctl": (16, 29),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "ptrace": (101, 117),
    "syslog": (103, 116),
    "capset": (126, 91),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "vhangup": (153, 58),
    "modify_ldt": (154, None),
    "pivot_root": (155, 41),
    "_sysctl": (156, None),
    "adjtimex": (159, 171),
    "chroot": (161, 51),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "mount": (165, 40),
    "umount2": (166, 39),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "create_module": (174, None),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "quotactl": (179, 60),
    "lookup_dcookie": (212, 18),
    "clock_settime": (227, 112),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "migrate_pages": (256, 238),
    "unshare": (272, 97),
    "move_pages": (279, 239),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "clock_adjtime": (305, 266),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "finit_module": (313, 273),
    "seccomp": (317, 277),
    "memfd_create": (319, 279),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "mount_setattr": (442, 442),
    "quotactl_fd": (443, 443),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "memfd_secret": (447, 447),
    "process_mrelease": (448, 448),
    "open_tree_attr": (467, 467),
}
_MACHINES = {"x86_64": 0, "amd64": 0, "aarch64": 1, "arm64": 1}


def column() -> int | None:
    """This machine's column of :data:`NUMBERS`; None for a machine the sandbox does not know."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    return _MACHINES.get(platform.machine().lower())


def number(name: str) -> int:
    """The number of a system call here. Raises OSError where there is none."""
    index = column()
    value = NUMBERS[name][index] if index is not None else None
    if value is None:
        raise OSError(f"no system call {name} on {sys.platform} {platform.machine()}")
    return value


# Looked up once, before any fork: dlopen takes locks that a fork may have left held.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _argument(value: object) -> object:
    if isinstance(value, int):
        return ctypes.c_long(value)
    if isinstance(value, str):
        return ctypes.c_char_p(os.fsencode(value))
    if isinstance(value, bytes):
        return ctypes.c_char_p(value)
    if value is None:
        return ctypes.c_void_p(None)
    return value


def syscall(name: str, *args: object, about: str = "") -> int:
    """Make a system call; ints, paths (str), bytes, None and ctypes references are passed on.

    Raises OSError with the call's name (and ``about``, e.g. the path) when the kernel refuses.
    """
    if _libc is None:
        raise OSError(f"no system call {name} on {sys.platform}")
    ctypes.set_errno(0)
    result: int = _libc.syscall(ctypes.c_long(number(name)), *map(_argument, args))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}{f' {about}' if about else ''}: {os.strerror(code)}")
    return result


def prctl(option: int, *args: int) -> int:
    """``prctl(2)``. Raises OSError when refused."""
    if _libc is None:
        raise OSError(f"no prctl on {sys.platform}")
    ctypes.set_errno(0)
    padded = (*args, 0, 0, 0, 0)[:4]
    result: int = _libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(a) for a in padded))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    """``unshare(2)``."""
    syscall("unshare", flags, about=f"{flags:#x}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """``mount(2)``."""
    syscall("mount", source, target, kind, flags, data, about=f"{kind or 'flags'} on {target}")


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


def clone_tree(path: str) -> int:
    """A descriptor of a detached recursive copy of the mounts at ``path`` (Linux 5.2)."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
    return syscall("open_tree", AT_FDCWD, path, flags, about=path)


def set_mount_flags(fd: int, attributes: int, *, recursive: bool, about: str) -> None:
    """Add ``MOUNT_ATTR_*`` to the mount behind ``fd`` (Linux 5.12)."""
    attr = _MountAttr(attributes, 0, 0, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    size = ctypes.sizeof(attr)
    syscall("mount_setattr", fd, "", flags, ctypes.byref(attr), size, about=about)


def attach_tree(fd: int, target: str) -> None:
    """Put a detached mount at ``target``."""
    flags = MOVE_MOUNT_F_EMPTY_PATH
    syscall("move_mount", fd, "", AT_FDCWD, target, flags, about=target)


def drop_capabilities() -> None:
    """Empty the bounding and the ambient set of this thread: nothing can be gained again."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == 22:  # EINVAL: past the last capability this kernel knows
                break
            raise
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def clear_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets (``capset``, version 3)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    syscall("capset", ctypes.byref(header), ctypes.byref(data))


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor that is not in ``keep`` (``close_range``, Linux 5.9)."""
    first = 0
    for fd in [*sorted(keep), None]:
        last = 0xFFFFFFFF if fd is None else fd - 1
        if first <= last:
            syscall("close_range", first, last, 0)
        first = 0 if fd is None else fd + 1


# Landlock (linux/landlock.h). Rights that make sense on a file that is no directory come first.
LANDLOCK_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read file, read directory
LANDLOCK_FILE = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_LANDLOCK_BITS = {0: 0, 1: 13, 2: 14, 3: 15, 4: 15}  # by ABI version; 16 from version 5 on


def landlock_rights() -> int:
    """Every file-system right this kernel's Landlock can withhold; 0 where there is no Landlock."""
    try:
        version = syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0
    return (1 << _LANDLOCK_BITS.get(version, 16)) - 1


def landlock(granted: dict[str, int]) -> None:
    """Withhold every right but those granted beneath each path. Needs no_new_privs to be set.

    Does nothing where the kernel has no Landlock: it is a second wall, never the only one.
    """
    rights = landlock_rights()
    if not rights:
        return
    handled = ctypes.c_uint64(rights)
    ruleset = syscall("landlock_create_ruleset", ctypes.byref(handled), 8, 0)
    try:
        for path, wanted in granted.items():
            allowed = wanted & rights & (-1 if os.path.isdir(path) else LANDLOCK_FILE)
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, fd), 12)
                syscall("landlock_add_rule", ruleset, 1, ctypes.byref(rule), 0, about=path)
            finally:
                os.close(fd)
        syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
