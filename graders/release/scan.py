"""Look into a release, object by object, for what must not be there.

Every object counts: reachable or not, in a pack or loose, the trees' names and the commits'
messages too, and around the repository its configuration and whatever lies in the folder besides.
Compressed files are opened. What cannot be opened is a finding: nobody knows what is in it.
"""

from __future__ import annotations

import bz2
import gzip
import html
import io
import json
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from graders.release.confidential import Confidential, bare, normal, rows_of
from graders.release.tree import ReleaseError, git

MAX_DEPTH, MAX_BYTES = 6, 512 * 2**20  # of compressed files in one another, and all of it unpacked
_ASCII = rb"[\t\r\n\x20-\x7e]{8,}"
_UTF_16 = (rb"(?:[\t\r\n\x20-\x7e]\0){8,}", rb"(?:\0[\t\r\n\x20-\x7e]){8,}")
_NOT_OURS = frozenset([".nox", ".venv"])  # what the student's own tools make
_FORBIDDEN_PATH = re.compile(
    r"(^|/)(solutions|alternatives|__pycache__)(/|$)|(^|/)test_(\w+_)?hidden\.py$"
    r"|(^|/)graders/hidden/|(^|/)mutants\.toml$|\.py[co]$"
)
_STREAMS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast(IO[bytes], gzip.open(file)),
    b"BZh": lambda file: cast(IO[bytes], bz2.open(file)),
    b"\xfd7zXZ\0": lambda file: cast(IO[bytes], lzma.open(file)),
}
_SEALED = {
    b"(\xb5/\xfd": "zstandard data",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"PACK": "a git pack",
    b"# v2 git bundle": "a git bundle",
    b"# v3 git bundle": "a git bundle",
    b"\x1f\x9d": "compressed data",
    b"\x04\x22\x4d\x18": "LZ4 data",
}


@dataclass(frozen=True)
class Finding:
    """One thing that must not be there: its kind, where it stands, and what it is."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}"


@dataclass
class Report:
    """What was looked at, how much was looked for, and what was found."""

    objects: int = 0
    bytes: int = 0
    sought: int = 0  # texts
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, where: str, what: str) -> None:
        """Note a finding, each once."""
        finding = Finding(kind, where, what)
        if finding not in self.findings:
            self.findings.append(finding)


class Scanner:
    """Looks into bytes and notes what it finds. ``secrets`` is None for a complete release."""

    def __init__(self, secrets: Confidential | None) -> None:
        self.secrets, self.report = secrets, Report()
        self._unpacked = 0
        # A long text is in a view only if its words are: asked first, this saves most searches.
        parts = secrets.parts if secrets else {}
        if secrets is not None:
            self.report.sought = len(secrets.lines.keys() | secrets.parts.keys())
            self.report.sought += len(secrets.names) + len(secrets.rows)
        self._parts = [(text, frozenset(text.split(" ")[1:-1])) for text in parts]

    # -- one name, one text ------------------------------------------------------------------------

    def path(self, path: str, where: str) -> None:
        """A file's path (or only its name, where git keeps no more)."""
        if self.secrets is None:
            if re.search(r"(^|/)__pycache__(/|$)|\.py[co]$", path):
                self.report.add("compiled code", where, path)
            return
        if path in self.secrets.paths or _FORBIDDEN_PATH.search(path):
            self.report.add("path", where, f"{path} is no file for students")
        self._words(path, where)

    def text(self, text: str, where: str) -> None:
        """Text of any kind: code, prose, a message."""
        if self.secrets is None:
            return
        lines = text.splitlines()
        for line in lines:
            line = normal(line)
            for form in (line, bare(line)):
                if what := self.secrets.lines.get(form):
                    self.report.add("line", where, f"{_shown(form)!r} is {what}")
                    break
        for row in rows_of(lines):
            if what := self.secrets.rows.get(row):
                self.report.add("lines in a row", where, f"{what}, from {_shown(row[0])!r} on")
        self._parts_of(normal(text), where)
        # A sentence that goes on behind a mark of comment or quotation.
        self._parts_of(normal("\n".join(bare(line) for line in lines)), where)
        self._words(text, where)

    def _parts_of(self, flat: str, where: str) -> None:
        assert self.secrets is not None
        words = set(flat.split(" "))
        for text, inner in self._parts:
            if inner <= words and text in flat:
                self.report.add("part", where, f"{_shown(text)!r} is {self.secrets.parts[text]}")

    def _words(self, text: str, where: str) -> None:
        assert self.secrets is not None
        for word in self.secrets.names.keys() & set(re.findall(r"\w+", text)):
            self.report.add("name", where, f"{word} is {self.secrets.names[word]}")

    # -- bytes -------------------------------------------------------------------------------------

    def content(self, data: bytes, where: str, depth: int = 0) -> None:
        """A file's bytes, whatever they are."""
        self.report.bytes += len(data)
        if _is_compiled(data):
            self.report.add("compiled code", where, "Python's compiled form of a module")
        if self.secrets is None:
            return
        for magic, name in _SEALED.items():
            if data.startswith(magic):
                self.report.add("sealed", where, f"{name}, which cannot be looked into")
        if depth >= MAX_DEPTH:
            self.report.add("sealed", where, "too many compressed files in one another")
            return
        for view in _views(data):
            self.text(view, where)
        try:
            for name, inner in self._members(data):
                inside = f"{where}, in it {name}" if name else f"{where}, unpacked"
                if name:
                    self.path(name, inside)
                self.content(inner, inside, depth + 1)
        except _TooLarge:
            self.report.add("sealed", where, f"unpacks to more than {MAX_BYTES >> 20} MiB")
        except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
            self.report.add("sealed", where, f"cannot be unpacked: {error}")
        except (zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile) as error:
            self.report.add("sealed", where, f"cannot be unpacked: {error}")

    def _members(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of what is compressed or archived in it; no name for a mere stream."""
        for magic, opener in _STREAMS.items():
            if data.startswith(magic):
                with opener(io.BytesIO(data)) as stream:
                    yield "", self._read(stream)
        if data[257:262] == b"ustar":
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                for member in archive:
                    yield from self._tar_member(archive, member)
        # A zip archive may stand behind anything else: its directory is at its end.
        elif data.startswith(b"PK") or b"PK\x05\x06" in data[-66_000:]:
            if not zipfile.is_zipfile(io.BytesIO(data)):
                return
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                yield "", packed.comment
                for info in packed.infolist():
                    if not info.is_dir():
                        with packed.open(info) as stream:
                            yield info.filename, self._read(stream)

    def _tar_member(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo
    ) -> Iterator[tuple[str, bytes]]:
        stream = archive.extractfile(member) if member.isfile() else None
        if stream is not None:
            yield member.name, self._read(stream)
        elif not member.isdir():
            yield member.name, member.linkname.encode("utf-8", "surrogateescape")

    def _read(self, stream: IO[bytes]) -> bytes:
        data = stream.read(MAX_BYTES - self._unpacked + 1)
        self._unpacked += len(data)
        if self._unpacked > MAX_BYTES:
            raise _TooLarge
        return data


class _TooLarge(Exception):
    """More bytes than anybody packs into a course."""


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _is_compiled(data: bytes) -> bool:
    """Python's compiled form since 3.7: a magic number that ends in CR LF, then small flags."""
    return len(data) > 16 and data[2:4] == b"\r\n" and data[5:8] == b"\0\0\0" and data[4] < 4


def _views(data: bytes) -> Iterator[str]:
    """The texts that are in these bytes: as they are, and out of JSON and HTML."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        # Neither tensors nor tables have long readable runs; whatever has one gets it read.
        for pattern in (_ASCII, *_UTF_16):
            if runs := re.findall(pattern, data):
                yield "\n".join(run.replace(b"\0", b"").decode("ascii") for run in runs)
        return
    views = [text]
    if text.lstrip()[:1] in ("{", "["):
        views.append("\n".join(_json_strings(text)))
    for view in views:
        yield view
        if re.search(r"&#?\w+;", view):
            yield html.unescape(view)


def _json_strings(text: str) -> Iterator[str]:
    try:
        todo = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            # A notebook keeps a cell as a list of its lines: they stay in their order.
            todo += reversed(value)
        elif isinstance(value, dict):
            todo += reversed([*value, *value.values()])


# -- a repository ----------------------------------------------------------------------------------


def scan_repository(place: Path, scanner: Scanner) -> None:
    """All objects, and all files that are no objects."""
    report = scanner.report
    objects = _objects(place)
    names: dict[str, list[str]] = {}
    commits, parents = 0, 0
    trees = {number: body for number, kind, body in objects if kind == "tree"}
    roots = [re.match(rb"tree (\w+)", body) for _, kind, body in objects if kind == "commit"]
    for path, mode, number in _walk(trees, [m[1].decode() for m in roots if m]):
        names.setdefault(number, []).append(path)
        if mode not in ("100644", "100755", "40000"):
            report.add("link", path, "a link or a submodule, which can lead anywhere")
        scanner.path(path, path)
    seen = {number for number, _, _ in objects}
    kept = _reachable(place)
    for number, kind, body in objects:
        report.objects += 1
        where = " and ".join(names.get(number, [])[:2]) or f"{kind} {number[:12]}"
        if kind == "blob":
            scanner.content(body, where)
        elif kind == "tree":
            for _, name, _ in _entries(body, len(number) // 2):
                scanner.path(name, where)
        else:
            commits += kind == "commit"
            parents += kind == "commit" and bool(re.search(rb"^parent ", body, re.M))
            scanner.text(body.decode("utf-8", "replace"), f"the message of {kind} {number[:12]}")
        if number not in kept:
            report.add("history", where, f"{kind} {number[:12]} belongs to no branch or tag")
    if commits != 1 or parents:
        report.add("history", str(place), f"{commits} commits, and not one root commit")
    if lost := kept - seen:
        report.add("history", str(place), f"object {min(lost)[:12]} is missing")
    _around(place, scanner)


def _objects(place: Path) -> list[tuple[str, str, bytes]]:
    """(number, type, bytes) of every object that git finds there."""
    answer = git(place, "cat-file", "--batch", "--batch-all-objects", "--unordered")
    found, at = [], 0
    while at < len(answer):
        end = answer.index(b"\n", at)
        number, kind, size = answer[at:end].decode().split(" ")
        found.append((number, kind, answer[end + 1 : end + 1 + int(size)]))
        at = end + 1 + int(size) + 1
    return found


def _reachable(place: Path) -> set[str]:
    listed = git(place, "rev-list", "--objects", "--all", "--no-object-names").decode().split()
    tags = git(place, "for-each-ref", "--format=%(objectname)").decode().split()
    return {*listed, *tags}


def _entries(body: bytes, size: int = 20) -> Iterator[tuple[str, str, str]]:
    """(mode, name, object) of a tree object; objects have numbers of ``size`` bytes."""
    at = 0
    while at < len(body):
        blank, end = body.index(b" ", at), body.index(b"\0", at)
        yield (
            body[at:blank].decode(),
            body[blank + 1 : end].decode("utf-8", "replace"),
            body[end + 1 : end + 1 + size].hex(),
        )
        at = end + 1 + size


def _walk(trees: dict[str, bytes], roots: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(path, mode, object) of everything below these trees."""
    todo = [(root, "") for root in dict.fromkeys(roots)]
    while todo:
        number, prefix = todo.pop()
        for mode, name, inner in _entries(trees.get(number, b""), len(number) // 2):
            yield prefix + name, mode, inner
            if mode == "40000":
                todo.append((inner, f"{prefix}{name}/"))


def _around(place: Path, scanner: Scanner) -> None:
    """The repository's own files, and those of the folder that are in no commit."""
    report = scanner.report
    home = Path(git(place, "rev-parse", "--absolute-git-dir").decode().rstrip("\n"))
    for path in sorted(p for p in home.rglob("*") if not p.is_dir()):
        name = path.relative_to(home).as_posix()
        if name in ("objects/info/alternates", "objects/info/http-alternates"):
            report.add("history", f".git/{name}", "objects are borrowed from another repository")
        if re.match(r"objects/([0-9a-f]{2}/|pack/pack-\w+\.(pack|idx|rev)$)", name):
            continue  # read through git already
        scanner.content(path.read_bytes(), f".git/{name}")
    if remotes := git(place, "remote").decode().split():
        report.add("history", ".git/config", f"a remote {remotes[0]!r} leads to where it came from")
    if git(place, "rev-parse", "--is-bare-repository").strip() == b"true":
        return
    listed = git(place, "ls-files", "-z", "--others", "--directory").decode()
    changed = git(place, "diff", "--name-only", "-z", "HEAD").decode()
    for name in filter(None, (*listed.split("\0"), *changed.split("\0"))):
        if name.split("/")[0] not in _NOT_OURS:
            report.add("not committed", name, "lies in the folder and is not in the commit")
            scan_folder(place / name, place, scanner)


def scan_folder(start: Path, place: Path, scanner: Scanner) -> None:
    """All files below ``start``, by their paths below ``place``; a link is a finding."""
    paths = sorted(start.rglob("*")) if start.is_dir() and not start.is_symlink() else [start]
    for path in paths:
        name = path.relative_to(place).as_posix()
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # deleted, and the deletion is not committed
            continue
        if stat.S_ISLNK(mode):
            scanner.report.add("link", name, f"leads to {os.readlink(path)}")
        elif stat.S_ISREG(mode):
            scanner.report.objects += 1
            scanner.path(name, name)
            scanner.content(path.read_bytes(), name)


# -- an archive ------------------------------------------------------------------------------------


def scan_archive(place: Path, scanner: Scanner) -> None:
    """Each member of a ``.tar.gz``, whose paths stand below one folder. Raises ReleaseError."""
    report = scanner.report
    try:
        with tarfile.open(place, "r:gz") as archive:
            for member in archive:
                report.objects += 1
                name = member.name.partition("/")[2]
                scanner.path(name, name)
                if member.isfile():
                    stream = archive.extractfile(member)
                    assert stream is not None
                    scanner.content(stream.read(), name)
                elif not member.isdir():
                    report.add("link", name, f"leads to {member.linkname}")
                for value in member.pax_headers.values():
                    scanner.text(str(value), f"{name}, its header")
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise ReleaseError(f"{place} is no release's archive: {error}") from None
