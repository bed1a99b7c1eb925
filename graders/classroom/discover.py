"""Find the submissions of a class and read each one's Python files, trusting none of them.

One folder or archive a student. A submission that cannot be read is a ``SubmissionError`` of its
own, which becomes that student's result; it never stops the others.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import tempfile
import unicodedata
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from graders.manifest import Manifest
from graders.oracle.stage import StageError, python_files

MAX_ENTRIES = 20_000
MAX_ARCHIVE_BYTES = 256 * 2**20
MAX_UNPACKED_BYTES = 512 * 2**20
MAX_DEPTH = 12
_MAX_CODE_BYTES = 64 * 2**20
_SEARCH_DEPTH = 5

_ARCHIVE = re.compile(r"\.(zip|tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz)$", re.IGNORECASE)
_OTHER_ARCHIVE = re.compile(r"\.(rar|7z|gz|bz2|xz|zst|tar\.zst)$", re.IGNORECASE)
# Letters of any script. Not first: what hides a file, looks like an option or, in a table, a sum.
_STUDENT = re.compile(r"[^\W_][\w.@+' -]{0,99}")
# Canvas: <name>[_LATE]_<user>_<submission>_<file>, the name without spaces.
_CANVAS = re.compile(r"(?P<student>[^_]+)(?:_LATE)?_(?P<user>\d+)_\d+_.+")


class ClassError(RuntimeError):
    """The class cannot be graded; the message names the thing, the cause and the mend."""


class SubmissionError(RuntimeError):
    """One submission cannot be graded; the message is for its author."""


@dataclass(frozen=True)
class Submission:
    """Where one student's work lies. ``problem`` says why it cannot be taken, when known so far."""

    student: str
    source: Path
    problem: str = ""


@dataclass
class Found:
    """What lies in the folder of submissions, by student, and what was left aside."""

    submissions: list[Submission] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


# -- who handed in ---------------------------------------------------------------------------------


def discover(folder: Path, manifest: Manifest) -> Found:
    """One submission a student, sorted by name. Raises ClassError.

    Understood are ``<student>/…`` and ``<student>.zip`` (or tar), ``<student>_…_lab02.zip`` as
    platforms export them, and nbgrader's ``submitted/<student>/<lab>/``.
    """
    folder = _class_folder(folder, manifest)
    found = Found()
    by_student: dict[str, list[Submission]] = {}
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        is_folder = entry.is_dir(follow_symlinks=False)
        suffix = _ARCHIVE.search(entry.name) or _OTHER_ARCHIVE.search(entry.name)
        if not (is_folder or entry.is_symlink() or suffix):
            found.ignored.append(escape(entry.name))
            continue
        name = entry.name if is_folder or not suffix else entry.name[: suffix.start()]
        if not is_folder:
            name = _student_of_file(name, manifest)
        one = _identify(name, Path(entry.path))
        by_student.setdefault(one.student, []).append(one)
    for student, theirs in by_student.items():
        if len(theirs) > 1:
            names = ", ".join(escape(one.source.name) for one in theirs)
            problem = f"there are {len(theirs)} submissions of this name ({names}): keep one"
            theirs = [Submission(student, theirs[0].source, problem)]
        found.submissions += theirs
    found.submissions.sort(key=lambda one: one.student)
    if not found.submissions:
        raise ClassError(
            f"no submissions in {folder}: it should hold a folder or a zip for each student"
        )
    return found


def _class_folder(folder: Path, manifest: Manifest) -> Path:
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "there is no such folder"
        raise ClassError(f"no submissions at {folder}: {what}")
    if (folder / "submitted").is_dir():  # an nbgrader course
        return folder / "submitted"
    modules = {task.module.split(".")[0] + ".py" for task in manifest.tasks}
    names = set(os.listdir(folder))
    if manifest.package in names or modules & names:
        raise ClassError(
            f"{folder} is one submission, not a class: give the folder that holds a folder for "
            f"each student, or grade this one with `grade {manifest.name} --target {folder}`"
        )
    return folder


def _student_of_file(name: str, manifest: Manifest) -> str:
    """The student in an archive's name without its suffix, as learning platforms make it."""
    lab = rf"[_ -]lab[_-]?0*{manifest.number}(?:{manifest.package[5:]})?(?:[ _-]?\(?\d+\)?)?$"
    canvas = _CANVAS.fullmatch(name)
    if canvas:
        return f"{canvas['student']}-{canvas['user']}"
    return re.sub(lab, "", name, flags=re.IGNORECASE) or name


def _identify(name: str, source: Path) -> Submission:
    """Take a name as a student's, or escape it and say what is wrong with it."""
    student = unicodedata.normalize("NFC", name)
    if source.is_symlink():
        problem = "the submission is a link: put the folder or archive itself there"
    elif not _STUDENT.fullmatch(student) or student[-1:] in ". " or _bytes(student) > 200:
        problem = (
            "the name cannot stand for a student: it needs 1 to 100 letters, digits or .@+'-_ and "
            "blanks, starting with a letter or digit"
        )
    elif not source.is_dir() and not _ARCHIVE.search(source.name):
        problem = f"{escape(source.name)} is an archive of another kind: hand in a zip"
    else:
        return Submission(student, source)
    named = _STUDENT.fullmatch(student) and _bytes(student) <= 200
    shown = student if named else escape(name) or "%"
    return Submission(shown, source, problem)


def _bytes(name: str) -> int:
    """How long a file's name gets; with a suffix and in front of one, 255 are allowed."""
    return len(name.encode("utf-8", "surrogateescape"))


def escape(name: str) -> str:
    """A file's name for a table or a file: anything odd in it as %XX, 120 characters at most."""
    if _STUDENT.fullmatch(name) and _bytes(name) <= 200:
        return name
    text = urllib.parse.quote(os.fsencode(name), safe="._-")[:120]
    return f"%{ord(text[0]):02X}{text[1:]}" if text[:1] in ("-", ".", "_") else text


# -- what was handed in ----------------------------------------------------------------------------


def read(submission: Submission, manifest: Manifest) -> dict[str, bytes]:
    """The package's Python files, by name, as the grader would take them.

    Raises SubmissionError, for whatever reason the submission has to be unreadable.
    """
    if submission.problem:
        raise SubmissionError(submission.problem)
    try:
        if submission.source.is_dir():
            return _read_folder(submission.source, manifest)
        with tempfile.TemporaryDirectory(prefix="inferlab-unpack-") as folder:
            _unpack(submission.source, Path(folder))
            return _read_folder(Path(folder), manifest)
    except SubmissionError:
        raise
    except StageError as error:
        # Its message names folders of this machine, which the author need not read.
        text = str(error).replace(str(submission.source), manifest.package)
        raise SubmissionError(re.sub(r"/\S*inferlab-unpack-\w+/", "", text)) from None
    except RecursionError:
        raise SubmissionError("its folders lie too deep in each other") from None
    except Exception as error:  # whatever a crafted file brings a library to raise
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SubmissionError(f"it cannot be read ({reason})") from None


def _read_folder(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    package = _locate(folder, manifest)
    if package is None:
        archives = [
            entry.path
            for entry in os.scandir(folder)
            if _ARCHIVE.search(entry.name) and entry.is_file(follow_symlinks=False)
        ]
        if len(archives) != 1:
            raise SubmissionError(_nothing_there(folder, manifest))
        with tempfile.TemporaryDirectory(prefix="inferlab-unpack-") as inner:
            _unpack(Path(archives[0]), Path(inner))
            package = _locate(Path(inner), manifest)
            if package is None:
                raise SubmissionError(_nothing_there(Path(inner), manifest))
            return _take(package, Path(inner), manifest)
    return _take(package, folder, manifest)


def _take(package: Path, top: Path, manifest: Manifest) -> dict[str, bytes]:
    for path, entry in _walk(package, MAX_DEPTH + 40):
        if entry.is_symlink() and not _stays_in(entry.path, top):
            raise SubmissionError(
                f"{escape_path(path)} is a link that leaves the submission: nothing was graded. "
                "Put the file itself there"
            )
    files = python_files(package)
    if not files:
        raise SubmissionError(f"{manifest.package} holds no Python file")
    return files


def _locate(folder: Path, manifest: Manifest) -> Path | None:
    """The folder that holds the lab's modules: by the package's name, else by the modules'."""
    modules = {task.module.split(".")[0] + ".py" for task in manifest.tasks}
    named: dict[str, int] = {}
    holding: dict[str, int] = {}
    for path, entry in _walk(folder, _SEARCH_DEPTH):
        depth = path.count("/")
        if entry.name.lower() == manifest.package:
            if entry.is_symlink():
                raise SubmissionError(f"{escape_path(path)} is a link: put the folder itself there")
            if entry.is_dir():
                named[path] = depth
        elif entry.name in modules and not entry.is_dir(follow_symlinks=False):
            holding[path.rpartition("/")[0]] = depth
    # Of lab02_capacity/lab02_capacity, as some programs pack it, the one that holds code.
    with_code = {path: depth for path, depth in named.items() if _holds_code(folder / path)}
    for found in (with_code or named, holding):
        nearest = [path for path, depth in found.items() if depth == min(found.values())]
        if len(nearest) > 1:
            raise SubmissionError(
                f"the lab is there {len(nearest)} times ("
                + ", ".join(escape_path(path) for path in sorted(nearest)[:5])
                + "): keep one"
            )
        if nearest:
            return folder / nearest[0]
    return None


def _holds_code(folder: Path) -> bool:
    with os.scandir(folder) as listing:
        return any(entry.name.endswith(".py") for entry in listing)


def _nothing_there(folder: Path, manifest: Manifest) -> str:
    there = sorted(escape(name) for name in os.listdir(folder))
    shown = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
    return (
        f"it holds no folder {manifest.package} and none of the lab's modules; "
        f"what it holds: {shown or 'nothing'}"
    )


def _walk(folder: Path, depth: int) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below ``folder``, by relative path; links are shown and not followed."""
    todo = [("", 1)]
    seen = 0
    while todo:
        here, level = todo.pop()
        try:
            listing = os.scandir(folder / here)
        except OSError:
            continue
        with listing:
            for entry in listing:
                seen += 1
                if seen > MAX_ENTRIES:
                    raise SubmissionError(
                        f"it holds more than {MAX_ENTRIES} files: leave out what is not part of "
                        "the lab, such as a virtual environment"
                    )
                if entry.name.startswith(".") or entry.name in ("__pycache__", "__MACOSX"):
                    continue
                path = f"{here}/{entry.name}" if here else entry.name
                yield path, entry
                if entry.is_dir(follow_symlinks=False) and level < depth:
                    todo.append((path, level + 1))


def _stays_in(path: str, top: Path) -> bool:
    target = os.path.realpath(path)
    return target.startswith(os.path.realpath(top) + os.sep)


def escape_path(path: str) -> str:
    """A path within a submission, for a message."""
    return "/".join(escape(part) for part in path.split("/")[-4:])


# -- archives --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """One entry of an archive: only what is needed of it."""

    name: str
    is_folder: bool
    is_file: bool


def _unpack(archive: Path, into: Path) -> None:
    """Write an archive's Python files below ``into``. Raises SubmissionError for a crafted one."""
    with _open_regular(archive) as file:
        if os.fstat(file.fileno()).st_size > MAX_ARCHIVE_BYTES:
            raise SubmissionError(
                f"the archive is larger than {MAX_ARCHIVE_BYTES >> 20} MiB: leave out what is not "
                "part of the lab, such as a virtual environment"
            )
        try:
            members = _zip(file) if zipfile.is_zipfile(file) else _tar(file)
            _write(members, into)
        except SubmissionError:
            raise
        except _TooMuch:
            raise SubmissionError(
                f"the archive unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB: "
                "leave out what is not part of the lab"
            ) from None
        except (RuntimeError, NotImplementedError):  # zipfile's words for a password
            raise SubmissionError(
                "the archive is encrypted or packed in an unusual way: make a plain zip"
            ) from None
        except Exception as error:  # crafted headers bring out more kinds than are documented
            raise SubmissionError(
                f"the archive is damaged ({type(error).__name__}): make it again"
            ) from None


def _write(members: Iterator[tuple[_Member, IO[bytes] | None]], into: Path) -> None:
    total = 0
    for number, (member, content) in enumerate(members):
        if number >= MAX_ENTRIES:
            raise SubmissionError(
                f"the archive holds more than {MAX_ENTRIES} files: leave out what is not part of "
                "the lab, such as a virtual environment"
            )
        path = _safe(member.name)
        if path is None or member.is_folder:
            continue
        if not member.is_file:
            if path.suffix == ".py":
                raise SubmissionError(
                    f"{escape_path(str(path))} in the archive is a link or a device: "
                    "put the file itself there"
                )
            continue
        if path.suffix != ".py" or content is None:
            continue
        data = content.read(_MAX_CODE_BYTES - total + 1)
        total += len(data)
        if total > _MAX_CODE_BYTES:
            raise SubmissionError(f"it holds more than {_MAX_CODE_BYTES >> 20} MiB of code")
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _safe(name: str) -> PurePosixPath | None:
    """A member's path below the folder; None for what is of no interest. Raises on a bad one."""
    name = name.replace("\\", "/")  # some Windows programs write these
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise SubmissionError(f"the archive names a path outside itself ({escape_path(name)})")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SubmissionError(f"the archive names a path outside itself ({escape_path(name)})")
    if any(part.startswith(".") or part == "__MACOSX" for part in parts) or not parts:
        return None
    if len(parts) > MAX_DEPTH:
        raise SubmissionError(f"its folders lie more than {MAX_DEPTH} deep in each other")
    if any(len(os.fsencode(part)) > 200 for part in parts):
        raise SubmissionError("a name in the archive is longer than 200 bytes")
    return PurePosixPath(*parts)


def _open_regular(path: Path) -> IO[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    file = os.fdopen(fd, "rb")
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        file.close()
        raise SubmissionError(f"{escape(path.name)} is no regular file")
    return file


def _zip(file: IO[bytes]) -> Iterator[tuple[_Member, IO[bytes] | None]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            is_file = stat.S_IFMT(mode) in (0, stat.S_IFREG)
            member = _Member(info.filename, info.is_dir(), is_file)
            if member.is_folder or not is_file or not info.filename.endswith(".py"):
                yield member, None  # a bomb that nobody opens is none
                continue
            with archive.open(info) as content:
                yield member, content


def _tar(file: IO[bytes]) -> Iterator[tuple[_Member, IO[bytes] | None]]:
    file.seek(0)
    magic = file.read(6)
    file.seek(0)
    plain: IO[bytes] = file
    if magic.startswith(b"\x1f\x8b"):
        plain = gzip.open(file)  # type: ignore[assignment]
    elif magic.startswith(b"BZh"):
        plain = bz2.BZ2File(file)
    elif magic == b"\xfd7zXZ\0":
        plain = lzma.LZMAFile(file)
    # To find the next header everything before it must be unpacked: so that is what is counted.
    with tarfile.open(fileobj=_Counted(plain), mode="r|") as archive:
        for info in archive:
            member = _Member(info.name, info.isdir(), info.isreg() and not info.issparse())
            yield member, archive.extractfile(info) if member.is_file else None


class _TooMuch(Exception):
    pass


class _Counted(io.RawIOBase):
    """A stream that ends in _TooMuch after so many bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, MAX_UNPACKED_BYTES

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        data = self._stream.read(min(size, 2**20) if size >= 0 else 2**20)
        self._left -= len(data)
        if self._left < 0:
            raise _TooMuch
        return data
