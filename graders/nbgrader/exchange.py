"""Collecting what students hand in, without trusting a file of it.

The exchange is a folder that every student can write to, and nbgrader copies from it with the
instructor's rights, following links: a link to the instructor's key would come back as one of the
student's own modules. Archives it unpacks in full, and one that is damaged ends the whole run.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

from nbgrader.exchange.default import ExchangeCollect
from nbgrader.plugins import ExtractorPlugin, FileNameCollectorPlugin

from graders.classroom.discover import discover
from graders.manifest import find_lab
from graders.nbgrader.autograde import course_root
from graders.nbgrader.notebook import MAX_BYTES

# The instructor's own, in every submission because the assignment came with it.
_CAME_WITH_IT = ("graders", "labs/common")
_ARCHIVE_NAME = "handed-in"


class Collect(ExchangeCollect):  # type: ignore[misc]
    """``nbgrader collect`` that takes a submission's regular files, and those of its owner."""

    def do_copy(self, src: str, dest: str, log: Any = None) -> None:
        """Copy a submission; links, pipes, other people's files and too much stay behind."""
        left = int(self.coursedir.max_dir_size) * 1000
        top = Path(dest)
        top.mkdir(parents=True)
        owner = None
        # By descriptors: a folder that becomes a link meanwhile is not walked into.
        for here, folders, names, fd in os.fwalk(src, follow_symlinks=False):
            owner = os.fstat(fd).st_uid if owner is None else owner
            relative = Path(os.path.relpath(here, src))
            folders[:] = [
                name
                for name in sorted(folders)
                if name not in ("__pycache__", ".ipynb_checkpoints")
                and (relative / name).as_posix() not in _CAME_WITH_IT
            ]
            (top / relative).mkdir(exist_ok=True)
            for name in sorted(names):
                data = _owned(name, fd, owner, left)
                if data is None:
                    self.log.warning("left behind: %s", os.path.join(here, name))
                    continue
                left -= len(data)
                (top / relative / name).write_bytes(data)


def _owned(name: str, folder: int, owner: int, limit: int) -> bytes | None:
    """A regular file of that owner with at most ``limit`` bytes, or None."""
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(name, flags, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != owner or info.st_size > limit:
            return None
        data = file.read(limit + 1)
    return data if len(data) <= limit else None


class Extractor(ExtractorPlugin):  # type: ignore[misc]
    """``nbgrader zip_collect`` that unpacks nothing: each archive is handed on as it is.

    The grader opens it later, within limits, and a damaged one costs its author alone. Whose
    an archive is says its name, as for ``nox -s grade``: ``student.zip``, ``student_lab02.zip``,
    Canvas's ``name_user_submission_file.zip``.
    """

    def extract(self, archive_path: str, extracted_path: str) -> None:
        """Make ``extracted/<student>/`` with the archive, or with the folder's files."""
        lab = self.parent.coursedir.assignment_id
        manifest = find_lab(course_root(), lab)
        found = discover(Path(archive_path), manifest)
        for name in found.ignored:
            self.log.warning("no submission: %s", name)
        for one in found.submissions:
            if one.problem:
                self.log.error("%s is left out: %s", one.source.name, one.problem)
                continue
            folder = Path(extracted_path) / one.student
            folder.mkdir(parents=True, exist_ok=True)
            if one.source.is_dir():
                _copy_folder(one.source, folder)
            else:
                suffix = "".join(Path(one.source.name).suffixes[-2:])
                suffix = suffix if suffix.startswith(".tar") else one.source.suffix
                shutil.copyfile(one.source, folder / f"{_ARCHIVE_NAME}{suffix}")


def _copy_folder(source: Path, dest: Path) -> None:
    for here, folders, names, fd in os.fwalk(source, follow_symlinks=False):
        relative = Path(os.path.relpath(here, source))
        folders[:] = [name for name in folders if not name.startswith(".")]
        (dest / relative).mkdir(exist_ok=True)
        for name in names:
            data = _owned(name, fd, os.fstat(fd).st_uid, 4 * MAX_BYTES)
            if data is not None:
                (dest / relative / name).write_bytes(data)


class Collector(FileNameCollectorPlugin):  # type: ignore[misc]
    """Whose a file below ``extracted/<student>/`` is, and where it goes.

    A timestamp.txt out of an archive is the student's own word, and is not taken.
    """

    def collect(self, submitted_file: str) -> dict[str, str] | None:
        """``student_id`` and ``file_id``, or None for a file to leave out."""
        extracted = Path(self.parent._format_collect_path(self.parent.extracted_directory))
        student, *rest = Path(submitted_file).relative_to(extracted).parts
        if not rest or rest[-1] in ("timestamp.txt", "submission_secret.txt"):
            return None
        return {"student_id": student, "file_id": "/".join(rest)}
