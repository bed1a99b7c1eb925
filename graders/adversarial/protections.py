"""What the operating system must give for the sandbox, and which of that is missing here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from graders.isolation import sandbox, syscalls

# Name: what it is for.
PROTECTIONS = {
    "namespaces": "mount, pid and network namespaces: without them there is no sandbox at all",
    "seccomp": "the filter of system calls: without it there is no sandbox at all",
    "landlock": "the second wall around files: without it the mount namespace stands alone",
}


class AttackError(RuntimeError):
    """The attacks cannot be run as asked; the message names the thing, the cause and the mend."""


def missing() -> dict[str, str]:
    """Each protection that this machine cannot give, with the reason."""
    if sys.platform != "linux":
        return dict.fromkeys(PROTECTIONS, f"this is {sys.platform}, not Linux")
    found = {}
    if not Path("/proc/sys/kernel/seccomp/actions_avail").exists():
        found["seccomp"] = "the kernel was built without CONFIG_SECCOMP_FILTER"
    if not syscalls.landlock_rights():
        found["landlock"] = "the kernel has no Landlock, or it is not in its list of active LSMs"
    try:
        sandbox.check_available()
    except sandbox.SandboxUnavailable as error:
        if "seccomp" in str(error):
            found["seccomp"] = str(error)
        else:
            found["namespaces"] = str(error)
    return found


def require(level: str, without: Sequence[str]) -> list[str]:
    """The names of missing protections that may be missing. Raises AttackError for another."""
    if unknown := [name for name in without if name not in PROTECTIONS]:
        raise AttackError(
            f"--without {unknown[0]}: there is no such protection; they are "
            + ", ".join(PROTECTIONS)
        )
    if level != "sandbox":
        return []
    absent = missing()
    for name, reason in absent.items():
        if name not in without:
            raise AttackError(
                f"this machine (Linux {os.uname().release}) does not give {name}: {reason}. "
                f"{PROTECTIONS[name]}. Run the attacks where it does, or say --without {name}"
            )
    if {"namespaces", "seccomp"} & absent.keys():
        raise AttackError("there is no sandbox here to attack: what is left is --isolation process")
    return list(absent)
