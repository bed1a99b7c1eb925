"""A copy of what a worker may see: the submission's package, the course library, nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

_MAX_FILES = 500
_MAX_BYTES = 64 * 2**20
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
        """Remove the folders."""
        shutil.rmtree(self.root, ignore_errors=True)


def make_stage(
    root: Path,
    package: str,
    submission: Path,
    overlay: Path | None = None,
    harness: Path | None = None,
) -> Stage:
    """Copy ``submission`` (the lab's package folder) and the course library under a new folder.

    ``overlay`` is a folder whose modules replace the submission's (alternatives, mutants). Only
    regular Python files are taken: a link could point at anything on the grader's machine.
    """
    if not submission.is_dir():
        raise StageError(
            f"no submission at {submission}: give the folder that holds the lab's modules"
        )
    top = Path(tempfile.mkdtemp(prefix="inferlab-"))
    top.chmod(0o755)
    package_dir = top / "stage" / "labs" / package
    package_dir.mkdir(parents=True)
    scratch, given = top / "scratch", top / "given"
    scratch.mkdir()
    scratch.chmod(0o777)
    given.mkdir()
    shutil.copyfile(root / "labs" / "__init__.py", top / "stage" / "labs" / "__init__.py")
    shutil.copytree(
        root / "labs" / "common",
        top / "stage" / "labs" / "common",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    if harness is not None and harness.exists():
        shutil.copyfile(harness, top / "stage" / "inferlab_harness.py")
    files: dict[str, bytes] = {}
    for source in filter(None, (submission, overlay)):
        for name, data in _python_files(source):
            files[name] = data
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + len(files[name]).to_bytes(8, "big") + files[name])
        target = package_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[name])
    return Stage(top, package_dir, scratch, given, digest.hexdigest())


def _python_files(folder: Path) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    total = 0
    for current, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(f for f in folders if f != "__pycache__" and not f.startswith("."))
        for name in sorted(names):
            path = Path(current) / name
            if not name.endswith(".py") or name in _NOT_SUBMITTED:
                continue
            info = path.lstat()
            if not stat.S_ISREG(info.st_mode):
                continue
            total += info.st_size
            if len(found) >= _MAX_FILES or total > _MAX_BYTES:
                raise StageError(
                    f"{folder} holds more than {_MAX_FILES} modules "
                    f"or {_MAX_BYTES >> 20} MiB of code"
                )
            found.append((path.relative_to(folder).as_posix(), path.read_bytes()))
    return found
