"""What students get: written from the course's last commit, and proved to hold nothing else.

`release` writes a repository with one root commit, or an archive, or both. `check` looks into one,
made here or elsewhere, for whatever must not be in it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graders.release import documents, write
from graders.release.confidential import Confidential, read_confidential
from graders.release.scan import (
    Finding,
    Report,
    Scanner,
    scan_archive,
    scan_folder,
    scan_repository,
)
from graders.release.tree import (
    File,
    ReleaseError,
    Source,
    Tree,
    choose_labs,
    git,
    has_git,
    read_folder,
    read_source,
    shared_references,
    student_files,
)
from graders.sync import sync

__all__ = [
    "Finding",
    "LeakError",
    "Release",
    "ReleaseError",
    "Report",
    "check",
    "prove_folders",
    "release",
]

SHOWN = 20


class LeakError(ReleaseError):
    """What was built holds what it must not, and was thrown away. ``findings`` are all of them."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        lines = "\n".join(f"  {finding}" for finding in self.findings[:SHOWN])
        more = len(self.findings) - SHOWN
        super().__init__(
            f"the release would hold what students must not get, so nothing was written:\n{lines}"
            + (f"\n  and {more} more" if more > 0 else "")
            + "\nTake it out of the files named. A line that is anybody's and no secret goes into "
            "graders/release/allowed.txt"
        )


@dataclass(frozen=True)
class Release:
    """What was written. ``commit`` is the repository's, ``source`` the course's; empty if none."""

    labs: tuple[str, ...]
    files: int
    commit: str
    source: str
    report: Report


def release(
    root: Path,
    dest: Path | None,
    *,
    labs: Sequence[str] = (),
    archive: Path | None = None,
    complete: bool = False,
) -> Release:
    """Write the student tree of these labs (all when empty) to ``dest`` and to ``archive``.

    complete: everything of the course, solutions and hidden tests too, for somebody who learns
    alone.
    Raises ReleaseError, LabNotFound or ManifestError; then nothing is left behind.
    """
    root = root.resolve()
    _check_places(root, dest, archive, labs, complete)
    manifests = choose_labs(root, labs)
    source = read_source(root)
    check_in_sync(root, source)
    tree = dict(source.files) if complete else student_files(source, manifests)
    tree["AGENTS.md"] = File(documents.agents(manifests, complete=complete))
    if not complete:
        tree["README.md"] = File(documents.readme(source.files, manifests))
    names = tuple(manifest.name for manifest in manifests)
    report, commit = Report(), ""
    with contextlib.ExitStack() as stack:
        if dest is not None:
            message = _message(source, names, complete)
            place = stack.enter_context(write.repository(dest, tree, source.date, message))
            _clean(source, place, complete, report)
            commit = git(place, "rev-parse", "HEAD").decode().strip()
        if archive is not None:
            place = stack.enter_context(write.archive(archive, tree, source.date))
            _clean(source, place, complete, report)
    return Release(names, len(tree), commit, source.commit, report)


def check(place: Path, root: Path, *, complete: bool = False) -> Report:
    """Look into every object of a released repository, or every member of a released archive.

    root: the course it was made from. complete: solutions may be in it, a history may not. The
    report lists what must not be there. Raises ReleaseError if ``place`` is no release at all.
    """
    return _look(Source(root, read_source(root).files, "", 0), place, complete)


def prove_folders(places: Iterable[Path], root: Path) -> Report:
    """Look into folders that students will get, each laid out as the course is: assignments.

    What must not be there is read from the course as it lies in ``root``, committed or not.
    Raises LeakError.
    """
    files: Tree = {}
    for name in ("solutions", "labs", "graders"):
        files |= read_folder(root / name, f"{name}/")
    scanner = Scanner(_confidential(files, root))
    for place in places:
        scan_folder(place, place, scanner)
    if scanner.report.findings:
        raise LeakError(scanner.report.findings)
    return scanner.report


def _confidential(files: Tree, root: Path) -> Confidential:
    return read_confidential(files, shared_references(files, choose_labs(root, ())))


def _look(source: Source, place: Path, complete: bool) -> Report:
    scanner = Scanner(None if complete else _confidential(source.files, source.root))
    if place.is_dir():
        scan_repository(place, scanner)
    else:
        scan_archive(place, scanner)
    return scanner.report


def _clean(source: Source, place: Path, complete: bool, total: Report) -> None:
    report = _look(source, place, complete)
    if report.findings:
        raise LeakError(report.findings)
    total.objects += report.objects
    total.bytes += report.bytes
    total.sought = report.sought


def _check_places(
    root: Path, dest: Path | None, archive: Path | None, labs: Sequence[str], complete: bool
) -> None:
    if dest is None and archive is None:
        raise ReleaseError("say where to: a folder for a repository, or --archive FILE.tar.gz")
    if complete and labs:
        raise ReleaseError(
            "a complete release holds the whole course, whose tests need every lab: "
            "leave out --labs, or leave out --complete"
        )
    for place in filter(None, (dest, archive)):
        if place.resolve().is_relative_to(root) and not _ignored(root, place):
            raise ReleaseError(
                f"{place} lies inside the course, which would then hold its own release: name a "
                "place outside, or one that git ignores, such as results/"
            )
    if dest is not None:
        write.check_free(dest)
        if not _git_runs():
            raise ReleaseError(
                "a repository cannot be made without git, and git is not on this machine: "
                "install it, or give --archive FILE.tar.gz and no folder"
            )
    if archive is not None:
        write.check_archive_place(archive)


def _git_runs() -> bool:
    try:
        git(Path(), "--version")
    except ReleaseError:
        return False
    return True


def _ignored(root: Path, place: Path) -> bool:
    try:
        git(root, "check-ignore", "--quiet", str(place.resolve()))
    except ReleaseError:
        return False
    return True


def check_in_sync(root: Path, source: Source) -> None:
    """Raises ReleaseError where stubs or lists of tests are not what they are made from."""
    stale = [path.as_posix() for path in sync(root, check=True)]
    if not stale:
        # The lists come from collecting all tests, in a process that imports this very tree.
        command = [sys.executable, "-m", "graders", "sync", "--check"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        stale = [line.removeprefix("differs: ") for line in done.stdout.splitlines()]
        if done.returncode != 0 and not stale:
            raise ReleaseError(f"`sync --check` failed: {done.stderr.strip()[-600:]}")
    if stale:
        raise ReleaseError(
            f"not in sync with the solutions and tests: {', '.join(stale)}. "
            "Run `python3 noxfile.py -s sync` and commit what it writes"
        )


def _message(source: Source, labs: Sequence[str], complete: bool) -> str:
    what = "the whole course" if complete else ", ".join(labs)
    made = f"\n\nMade from the course's commit {source.commit[:12]}.\n" if source.commit else "\n"
    return f"Inferlab: {what}{made}"


def main(
    dest: Path | None,
    labs: Sequence[str],
    archive: Path | None,
    complete: bool,
    check_place: Path | None,
    root: Path,
) -> int:
    """The verb ``release``: print what was written and what was proved, or what was found."""
    if check_place is not None:
        report = check(check_place, root, complete=complete)
        for finding in report.findings:
            print(finding)
        print(f"{_looked(report)}: {len(report.findings) or 'nothing'} found")
        return 1 if report.findings else 0
    made = release(root, dest, labs=labs, archive=archive, complete=complete)
    for place, what in ((dest, f"commit {made.commit[:12]}"), (archive, "archive")):
        if place is not None:
            print(f"{place}: {what}, {made.files} files, {', '.join(made.labs)}")
    if not has_git(root):
        print("made without git: from the folder as it lies there, with a fixed date")
    kind = "no history" if complete else "no solution, hidden test, mutant or history"
    print(f"{_looked(made.report)}: {kind} in it")
    return 0


def _looked(report: Report) -> str:
    size = f"looked into {report.objects} objects of {report.bytes / 2**20:.1f} MiB"
    return f"{size} for {report.sought} texts" if report.sought else size
