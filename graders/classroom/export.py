"""The class's code in the form that tools for finding similar code read; no detector of our own.

JPlag compares folders, one a student, against a folder of base code. Dolos compares files, listed
in an info.csv: a student's modules become one file. Both know what everybody was given, the stubs,
and leave it out of the comparison.
"""

from __future__ import annotations

import csv
import datetime
import io
import os
from dataclasses import dataclass, field
from pathlib import Path

from graders.classroom import discover
from graders.classroom.discover import ClassError, Submission, SubmissionError
from graders.manifest import Manifest, find_lab
from graders.oracle.stage import python_files, write_files

FORMS = ("jplag", "dolos")


@dataclass
class Exported:
    """What was written, who was left out and why, and the command that reads it."""

    students: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    command: str = ""


def export(form: str, submissions: Path, lab: str, out: Path, root: Path) -> Exported:
    """Write the class's modules to the new folder ``out``. Raises ClassError."""
    manifest = find_lab(root, lab)
    found = discover.discover(submissions, manifest)
    if out.exists() and any(out.iterdir()):
        raise ClassError(f"{out} is not empty: name a new folder for the export")
    out.mkdir(parents=True, exist_ok=True)
    given = python_files(root / "labs" / manifest.package)
    done = Exported()
    files: dict[str, dict[str, bytes]] = {}
    for submission in found.submissions:
        try:
            files[submission.student] = discover.read(submission, manifest)
        except SubmissionError as error:
            done.left_out[submission.student] = str(error)
    done.students = list(files)
    sources = {one.student: one for one in found.submissions}
    if form == "jplag":
        _jplag(out, files, given)
        done.command = f"java -jar jplag.jar -l python3 -bc {out}/base {out}/submissions"
    elif form == "dolos":
        _dolos(out, files, given, manifest, sources)
        done.command = f"cd {out} && dolos run -l python -i template.py submissions/info.csv"
    else:
        raise ClassError(f"there is no export {form!r}; there are {', '.join(FORMS)}")
    return done


def _jplag(out: Path, files: dict[str, dict[str, bytes]], given: dict[str, bytes]) -> None:
    for name, modules in (("base", given), *((f"submissions/{s}", m) for s, m in files.items())):
        write_files(out / name, modules)


def _dolos(
    out: Path,
    files: dict[str, dict[str, bytes]],
    given: dict[str, bytes],
    manifest: Manifest,
    sources: dict[str, Submission],
) -> None:
    folder = out / "submissions"
    folder.mkdir()
    # The same modules in the same order for everybody, so that places can be compared, too.
    order = list(dict.fromkeys(task.module.replace(".", "/") + ".py" for task in manifest.tasks))
    (out / "template.py").write_bytes(_joined(given, order))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["filename", "full_name", "created_at"])
    for student, modules in files.items():
        (folder / f"{student}.py").write_bytes(_joined(modules, order))
        at = datetime.datetime.fromtimestamp(
            os.stat(sources[student].source).st_mtime, datetime.UTC
        )
        writer.writerow([f"{student}.py", student, at.strftime("%Y-%m-%d %H:%M:%S +0000")])
    (folder / "info.csv").write_text(table.getvalue(), encoding="utf-8")


def _joined(modules: dict[str, bytes], order: list[str]) -> bytes:
    names = [name for name in order if name in modules]
    names += sorted(name for name in modules if name not in order)
    return b"\n".join(f"# {name}\n".encode("utf-8", "replace") + modules[name] for name in names)
