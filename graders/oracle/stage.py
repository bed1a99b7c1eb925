"""A copy of what a worker may see: the submission's package, the course library, nothing else."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

_MAX_FILES = 500
_MAX_BYTES = 64 * 2**20
_MAX_FILE_BYTES = 8 * 2**20
_NOT_SUBMITTED = {
    "test_public.py",
    "conftest.py",
    "lab.toml",
    "expected.json",
    "plots.py",
    "sitecustomize.py",
}


class StageError(RuntimeError):
    """The submission cannot be staged: names the file, the cause and the mend."""


@dataclass(frozen=True)
class Stage:
    """Folders made for one grading run; removed by ``close``."""

    root: Path
    package: Path
    scratch: Path
    given: Path
    submission_sha256: str

    def close(self) -> None:
        """Remove the folders, however deep a submission made them."""
        try:
            shutil.rmtree(self.root, ignore_errors=True)
        except RecursionError:  # Python before 3.13 calls itself once a level
            subprocess.run(["rm", "-rf", "--", str(self.root)], capture_output=True)


def make_stage(
    root: Path,
    package: str,
    submission: Path,
    overlay: Path | None = None,
    harness: Path | None = None,
    modules: Collection[str] = (),
) -> Stage:
    """Copy ``submission`` (the lab's package folder) and the course library under a new folder.

    ``overlay`` is a folder whose modules replace the submission's (alternatives, mutants). Only
    regular Python files are taken: a link could point at anything on the grader's machine. In the
    place of a file that cannot be taken, and of each of ``modules`` that is not there, stands one
    that says so when it is imported: it costs the tasks that need it, and no other. Raises
    StageError.
    """
    if not submission.is_dir():
        what = "it is a file" if submission.exists() else "there is no such folder"
        raise StageError(
            f"no submission at {submission}: {what}. Give the folder that holds the lab's modules"
        )
    files: dict[str, bytes] = {}
    for source in filter(None, (submission, overlay)):
        files.update(python_files(source))
    if not files and modules:
        raise StageError(
            f"no submission at {submission}: the folder holds no Python file. "
            f"Give the folder that holds the lab's modules ({', '.join(_module_files(modules))})"
        )
    submission_sha256 = digest(files)
    for module, name in zip(modules, _module_files(modules), strict=True):
        if name not in files and not any(f.startswith(name[:-3] + "/") for f in files):
            files[name] = _stand_in(f"the submission has no {name}", module)
    try:
        top = Path(tempfile.mkdtemp(prefix="inferlab-"))
    except OSError as error:
        raise StageError(
            f"no temporary folder can be made ({error}): free some space, or name one in TMPDIR"
        ) from None
    try:
        return _fill(top, root, package, files, harness, submission_sha256)
    except BaseException:
        shutil.rmtree(top, ignore_errors=True)
        raise


def _fill(
    top: Path,
    root: Path,
    package: str,
    files: dict[str, bytes],
    harness: Path | None,
    submission_sha256: str,
) -> Stage:
    package_dir = top / "stage" / "labs" / package
    package_dir.mkdir(parents=True)
    scratch, given = top / "scratch", top / "given"
    scratch.mkdir()
    given.mkdir()
    shutil.copyfile(root / "labs" / "__init__.py", top / "stage" / "labs" / "__init__.py")
    shutil.copytree(
        root / "labs" / "common",
        top / "stage" / "labs" / "common",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    if harness is not None and harness.exists():
        shutil.copyfile(harness, top / "stage" / "inferlab_harness.py")
    write_files(package_dir, files)
    # The sandbox's uid is nobody here: it reads what everybody may read, whatever the umask.
    for folder, _, names in os.walk(top):
        os.chmod(folder, 0o755)
        for name in names:
            os.chmod(os.path.join(folder, name), 0o644)
    scratch.chmod(0o777)
    return Stage(top, package_dir, scratch, given, submission_sha256)


def _module_files(modules: Collection[str]) -> list[str]:
    return [module.replace(".", "/") + ".py" for module in modules]


def _stand_in(why: str, module: str = "") -> bytes:
    """A module that only says why it is not the submission's own."""
    error = "ModuleNotFoundError" if module else "ImportError"
    return f"raise {error}({why!r})\n".encode("utf-8", "backslashreplace")


def digest(files: dict[str, bytes]) -> str:
    """SHA-256 of a submission's files, names included: what a record calls its submission."""
    found = hashlib.sha256()
    for name in sorted(files):
        found.update(os.fsencode(name) + b"\0" + len(files[name]).to_bytes(8, "big"))
        found.update(files[name])
    return found.hexdigest()


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their names below ``folder``, making the folders they lie in."""
    for name, data in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def python_files(folder: Path) -> dict[str, bytes]:
    """Name to content of a folder's Python files, stand-ins for those that cannot be taken."""
    found: dict[str, bytes] = {}
    total = 0
    for current, folders, names in os.walk(folder, followlinks=False):
        here = Path(current).relative_to(folder)
        for name in [f for f in folders if f.endswith(".py")]:
            found[(here / name).as_posix()] = _stand_in(f"{name} is a folder: it must be a file")
        folders[:] = sorted(
            f for f in folders if f != "__pycache__" and not f.startswith(".") and f[-3:] != ".py"
        )
        for name in sorted(names):
            if not name.endswith(".py") or name in _NOT_SUBMITTED:
                continue
            data = _read_regular(Path(current) / name)
            total += len(data)
            if len(found) >= _MAX_FILES or total > _MAX_BYTES:
                raise StageError(
                    f"{folder} holds more than {_MAX_FILES} Python files or {_MAX_BYTES >> 20} MiB "
                    f"of code (the last one seen was {here / name}): move what is not part of the "
                    "lab out of it, such as a virtual environment"
                )
            found[(here / name).as_posix()] = data
    return found


def _read_regular(path: Path) -> bytes:
    """The bytes of a regular file of bounded size; otherwise a stand-in that says why not."""
    name = path.name
    try:
        # The link is refused and the pipe not waited for by the open itself: no time to swap them.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return _stand_in(f"{name} is a link, and links are not followed: put the file there")
        return _stand_in(
            f"{name} cannot be read ({error.strerror}): give it to the user who grades, or chmod +r"
        )
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return _stand_in(f"{name} is no regular file: put a file with your code there")
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        return _stand_in(
            f"{name} is larger than {_MAX_FILE_BYTES >> 20} MiB ({info.st_size} bytes): "
            "a module holds code, not data"
        )
    return data
