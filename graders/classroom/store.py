"""Results by content, on the disk, so that a killed run goes on where it stopped.

    OUT/lock              held by the run that grades into OUT; the kernel lets go when it dies
    OUT/run.json          which lab OUT is for, and where the present run keeps temporary files
    OUT/journal.jsonl     what happened, a line each: start, done, failed, stop
    OUT/store/ab/<key>    a graded result, signed; the key is the hash of everything it depends on
    OUT/packages/<hash>/  what was graded: the submission's Python files
    OUT/records/<student>.json   each student's signed record

Every file is written beside its place, brought to the disk and renamed: it is whole or not there.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from graders.classroom.discover import ClassError
from graders.manifest import Manifest
from graders.oracle.stage import digest, python_files, write_files
from graders.record import Record, RecordError, from_json, to_json
from graders.signing import Key, SigningError, sign, verify
from graders.worker.limits import Limits

_WORK_PREFIX = "inferlab-class-"
# What a result depends on besides the submission: the parts of the grader that give points.
_GRADER = (
    "__init__.py", "manifest.py", "plugin.py", "record.py", "scoring.py",
    "oracle", "hidden", "wire", "worker", "isolation",
)  # fmt: skip
_DISTRIBUTIONS = (
    "torch", "numpy", "transformers", "bitsandbytes", "pytest", "hypothesis", "msgspec",
)  # fmt: skip


class Conditions(msgspec.Struct, frozen=True):
    """What a result depends on besides the submission; hashed together with it."""

    grader: str
    isolation: str
    device: str
    seed: int
    limits: Limits


def grader_version(root: Path, manifest: Manifest) -> str:
    """SHA-256 of the lab's tests and manifest, the course library, the grader and its libraries."""
    lab = root / "labs" / manifest.package
    own = Path(__file__).resolve().parents[1]
    parts = [
        *(own / name for name in _GRADER),
        root / "graders" / manifest.name,
        root / "labs" / "__init__.py",
        root / "labs" / "common",
        *(lab / name for name in ("lab.toml", "test_public.py", "expected.json")),
    ]
    found = hashlib.sha256()
    for path in sorted(_files(parts)):
        data = path.read_bytes()
        name = path.relative_to(root if path.is_relative_to(root) else own.parent).as_posix()
        found.update(f"{name}\0{len(data)}\0".encode() + data)
    versions = [platform.python_version()]
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    found.update("\0".join(versions).encode())
    return found.hexdigest()


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_file():
            yield path
        elif path.is_dir():
            for found in path.rglob("*"):
                if found.is_file() and "__pycache__" not in found.parts:
                    yield found


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put ``data`` at ``path``: readers and a power cut see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Store:
    """One folder of results, open for one run: ``with Store(...) as store``."""

    def __init__(self, out: Path, manifest: Manifest, keys: tuple[Key, ...]) -> None:
        self.out, self.manifest, self.keys = out, manifest, keys
        self.work = Path()  # temporary files of this run, its slots' included
        self.altered: list[str] = []  # results that somebody changed, and that are graded anew
        self._lock = -1
        self._journal = -1
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self.out.mkdir(mode=0o700, parents=True, exist_ok=True)  # grades are nobody else's
            self._lock = os.open(self.out / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ClassError(
                f"results cannot be written to {self.out} ({error.strerror}): "
                "name a folder that you may write to"
            ) from None
        try:
            self._take_lock()
            self._claim()
            self._open_journal()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        os.close(self._journal)
        os.close(self._lock)

    def _take_lock(self) -> None:
        import fcntl

        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 100, 0).decode("ascii", "replace").strip()
            raise ClassError(
                f"another run is grading into {self.out} (process {holder or 'unknown'}): "
                "wait for it, or name another folder"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _claim(self) -> None:
        """Check that OUT is this lab's, and clear away what a killed run left."""
        path = self.out / "run.json"
        before: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            before = json.loads(path.read_bytes())
        if before.get("lab", self.manifest.name) != self.manifest.name:
            raise ClassError(
                f"{self.out} holds results of {before['lab']}: name another folder for "
                f"{self.manifest.name}"
            )
        if not before and any(name != "lock" for name in os.listdir(self.out)):
            raise ClassError(
                f"{self.out} is not empty and holds no results of a class: name a new folder"
            )
        left = Path(str(before.get("work") or ""))
        if left.name.startswith(_WORK_PREFIX) and left.is_dir() and not left.is_symlink():
            if left.stat().st_uid == os.geteuid():
                shutil.rmtree(left, ignore_errors=True)
        for stale in self.out.glob(".*.????????"):  # half-written files of a killed run
            stale.unlink(missing_ok=True)
        for folder in ("records", "feedback", *(f"store/{n:02x}" for n in range(256))):
            for stale in (self.out / folder).glob(".*"):
                stale.unlink(missing_ok=True)
        for unfinished in self.out.glob("packages/*/.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        self.work = Path(tempfile.mkdtemp(prefix=_WORK_PREFIX))
        run = {"schema": 1, "lab": self.manifest.name, "work": str(self.work)}
        write_atomically(path, json.dumps(run, indent=2).encode() + b"\n")

    # -- the journal -------------------------------------------------------------------------------

    def _open_journal(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._journal = os.open(self.out / "journal.jsonl", flags, 0o644)
        size = os.fstat(self._journal).st_size
        if size and os.pread(self._journal, 1, size - 1) != b"\n":
            os.write(self._journal, b"\n")  # a torn line stays one line

    def log(self, event: str, **details: Any) -> None:
        """Append a line."""
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "at": at, "run": os.getpid(), **details}) + "\n"
        with self._writing:
            os.write(self._journal, line.encode())

    # -- results -----------------------------------------------------------------------------------

    def key(self, files: dict[str, bytes], conditions: Conditions) -> str:
        """The name of a submission's result."""
        told = msgspec.json.encode([1, self.manifest.name, digest(files), conditions])
        return hashlib.sha256(told).hexdigest()

    def result(self, key: str) -> Record | None:
        """What was stored; None if nothing was, or nothing that can be believed."""
        path = self._path(key)
        try:
            record = self._believe(path.read_bytes(), f"result {key}")
        except FileNotFoundError:
            return None
        except (SigningError, RecordError) as error:
            self.altered.append(f"{path.relative_to(self.out)}: {error}")
            os.replace(path, path.with_suffix(".altered"))  # kept, as evidence
            return None
        return record

    def keep(self, key: str, record: Record) -> None:
        """Store a result for good: signed, whole, on the disk. The first one stays."""
        path = self._path(key)
        record = msgspec.structs.replace(record, target="")  # a folder's name, of no interest
        if not path.exists():
            write_atomically(path, sign(to_json(record), who=f"result {key}", key=self.keys[-1]))

    def give(self, student: str, record: Record) -> None:
        """Write a student's signed record, unless the very same one lies there."""
        record = msgspec.structs.replace(record, target=student)
        path = self.out / "records" / f"{student}.json"
        data = to_json(record)
        with contextlib.suppress(OSError, SigningError):
            old = verify(path.read_bytes(), self.keys)
            if (old.who, old.record) == (student, data):
                return
        write_atomically(path, sign(data, who=student, key=self.keys[-1]))

    def withdraw(self, student: str) -> None:
        """Take away a record of an earlier submission: the present one has no result."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.out / "records" / f"{student}.json")

    def _believe(self, envelope: bytes, who: str) -> Record:
        found = verify(envelope, self.keys)
        if found.who != who:
            raise SigningError(f"signed for {found.who!r}, not for {who!r}")
        return from_json(found.record)

    def _path(self, key: str) -> Path:
        return self.out / "store" / key[:2] / f"{key}.json"

    # -- what is graded ----------------------------------------------------------------------------

    def package(self, files: dict[str, bytes]) -> Path:
        """A folder with exactly these files, under a name that tells nobody whose they are."""
        folder = self.out / "packages" / digest(files)[:32] / self.manifest.package
        if not folder.is_dir() or digest(python_files(folder)) != digest(files):
            shutil.rmtree(folder, ignore_errors=True)  # torn by a power cut
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
            write_files(temporary, files)
            os.replace(temporary, folder)
        return folder
