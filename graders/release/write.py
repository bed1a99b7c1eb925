"""Write a tree as a repository with one root commit, or as an archive: twice the same, twice equal.

Nothing stands at its place before it is whole: it is built beside it and then renamed.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graders.release.tree import ReleaseError, Tree, git

AUTHOR = "Inferlab <inferlab@example.invalid>"
TOP = "inferlab"  # the folder that an archive unpacks to
EARLIEST = 315_532_800  # 1980: no older date survives every archive format


def check_free(dest: Path) -> None:
    """Raises ReleaseError unless a repository can be put there."""
    if dest.is_symlink() or (dest.exists() and not dest.is_dir()):
        raise ReleaseError(f"{dest} is no folder: name one that does not exist yet, or is empty")
    try:
        if dest.exists() and any(dest.iterdir()):
            raise ReleaseError(
                f"{dest} is not empty, and nothing there is overwritten: empty it or name another"
            )
        _check_parent(dest)
    except OSError as error:
        raise ReleaseError(f"{dest} cannot be used: {error.strerror}") from None


def check_archive_place(path: Path) -> None:
    """Raises ReleaseError unless an archive can be put there."""
    if not path.name.endswith((".tar.gz", ".tgz")):
        raise ReleaseError(f"{path.name} does not end in .tar.gz: that is what it will be")
    if path.exists() or path.is_symlink():
        raise ReleaseError(f"{path} is there already: remove it or name another")
    _check_parent(path)


def _check_parent(path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise ReleaseError(f"{parent} is no folder: make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ReleaseError(f"{parent} is not yours to write in: name another place")


@contextlib.contextmanager
def repository(dest: Path, tree: Tree, date: int, message: str) -> Iterator[Path]:
    """The finished repository in a folder of its own, moved to ``dest`` if the body succeeds."""
    place = Path(tempfile.mkdtemp(prefix=".inferlab-release-", dir=dest.absolute().parent))
    try:
        place.chmod(0o755)
        git(place, "init", "--quiet", "--template=", "--initial-branch=main")
        git(place, "fast-import", "--quiet", data=_stream(tree, date, message))
        # Line ends as they are: no platform's habit may change a file.
        git(place, "-c", "core.autocrlf=false", "reset", "--quiet", "--hard")
        yield place
        if dest.exists():
            dest.rmdir()  # empty, or this fails
        os.replace(place, dest)
    except OSError as error:
        raise ReleaseError(f"{dest} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _stream(tree: Tree, date: int, message: str) -> bytes:
    """The whole history, one commit, in the language of ``git fast-import``."""
    said = message.encode()
    head = f"commit refs/heads/main\nauthor {AUTHOR} {date} +0000\ncommitter {AUTHOR} {date} +0000"
    out = [head.encode(), b"\ndata %d\n" % len(said), said, b"\n"]
    for path in sorted(tree):
        file = tree[path]
        quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        mode = "100755" if file.executable else "100644"
        out += [f"M {mode} inline {quoted}\ndata {len(file.data)}\n".encode(), file.data, b"\n"]
    return b"".join(out) + b"done\n"


@contextlib.contextmanager
def archive(path: Path, tree: Tree, date: int) -> Iterator[Path]:
    """The finished archive under a name of its own, moved to ``path`` if the body succeeds."""
    date = max(date, EARLIEST)
    handle, name = tempfile.mkstemp(prefix=".inferlab-release-", dir=path.absolute().parent)
    place = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            # Neither the name nor the time of day goes into the header.
            with gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
                _pack(packed, tree, date)
        place.chmod(0o644)
        yield place
        os.replace(place, path)
    except OSError as error:
        raise ReleaseError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        place.unlink(missing_ok=True)


def _pack(stream: gzip.GzipFile, tree: Tree, date: int) -> None:
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as out:
        for path in sorted(tree):
            member = tarfile.TarInfo(f"{TOP}/{path}")
            member.size, member.mtime = len(tree[path].data), date
            member.mode = 0o755 if tree[path].executable else 0o644
            out.addfile(member, io.BytesIO(tree[path].data))
