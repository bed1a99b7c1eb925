"""An autograder zip for Gradescope: the course's tree for one lab, and the two scripts it runs.

Gradescope builds an image with ``setup.sh`` once and runs ``run_autograder`` for each submission in
a container of its own. Whether the sandbox works in there is up to Gradescope's machines: where it
does not, the grader refuses, says so, and no result is written. ``isolation="process"`` accepts by
name that a submission, which then runs as the grader's own user, can read the hidden tests and
write its own result: the container protects the other students, and nothing in it the grader.
"""

from __future__ import annotations

import datetime
import math
import os
import re
import stat
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from graders.manifest import find_lab
from graders.nbgrader.exports import gradescope_json
from graders.nbgrader.parts import GRADER, WEIGHTS, use_weights
from graders.nbgrader.scores import grade, work_of
from graders.oracle.grade import Grader, Options
from graders.report.terminal import clean

_DATE = (2020, 1, 1, 0, 0, 0)  # the same course gives the same zip
_ROOT_FILES = ("pyproject.toml", "LICENSE")
_LITTER = ("__pycache__", ".ipynb_checkpoints", "alternatives")
# What grading one submission needs of graders/, beside the lab's own folder.
_NOT_NEEDED = ("adversarial", "release")

_SETUP = """\
#!/usr/bin/env bash
# Gradescope runs this once, when it builds the image.
set -euo pipefail
here="${AUTOGRADER_ROOT:-/autograder}"
cd "$here/source/inferlab"
# A CPU-only torch. For a machine with a GPU set this to nothing.
index="${PIP_EXTRA_INDEX_URL-https://download.pytorch.org/whl/cpu}"
if ! python3 -m pip --version > /dev/null; then
    apt-get update
    apt-get install -y python3-pip
fi
# The image is for nothing else; newer distributions want to be told so.
PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet uv==@uv@
python3 -m uv venv --python '>=3.11' "$here/env"
python3 -m uv pip install --python "$here/env/bin/python" \\
    ${index:+--extra-index-url "$index" --index-strategy unsafe-best-match} \\
    --constraint constraints/@lab@.txt --group pyproject.toml:@lab@
"""

_RUN = """\
#!/usr/bin/env bash
# Gradescope runs this for each submission. Anything but a whole result is an error of the course,
# which Gradescope shows to the instructor: never a zero.
set -euo pipefail
here="${AUTOGRADER_ROOT:-/autograder}"
cd "$here/source/inferlab"
exec "${AUTOGRADER_PYTHON:-$here/env/bin/python}" -m graders.nbgrader gradescope-run @lab@ \\
    --submission "$here/submission" --results "$here/results/results.json" \\
    --metadata "$here/submission_metadata.json" \\
    --isolation @isolation@ --hidden @hidden@
"""


def autograder_zip(
    root: Path, lab: str, dest: Path, *, isolation: str = "sandbox", hidden: str = "after_published"
) -> list[str]:
    """Write the zip for one lab; the names in it. Raises LabNotFound and ManifestError."""
    manifest = find_lab(root, lab)
    filled = {"@lab@": manifest.name, "@isolation@": isolation, "@hidden@": hidden,
              "@uv@": _uv_version()}  # fmt: skip
    scripts = {"setup.sh": _SETUP, "run_autograder": _RUN}
    names = []
    with zipfile.ZipFile(dest, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in scripts.items():
            for mark, value in filled.items():
                text = text.replace(mark, value)
            _add(archive, name, text.encode(), 0o755)
            names.append(name)
        for name, path in sorted(_files(root, manifest.name, manifest.package)):
            _add(archive, f"inferlab/{name}", path.read_bytes(), 0o644)
            names.append(f"inferlab/{name}")
    return names


def _files(root: Path, lab: str, package: str) -> Iterator[tuple[str, Path]]:
    """(name in the zip, file): the grader is this one, the rest the course's."""
    shared = [root / name for name in _ROOT_FILES]
    shared += [root / "constraints" / f"{lab}.txt", root / "labs" / "__init__.py"]
    own = [*_below(root / "labs" / package), *_below(root / "graders" / lab)]
    common = list(_below(root / "labs" / "common"))
    if not use_weights(path for path in own if path.suffix == ".py"):
        common = [path for path in common if WEIGHTS not in path.parts]
    for path in [*shared, *own, *common]:
        if path.is_file():
            yield path.relative_to(root).as_posix(), path
    for path in _below(GRADER):
        part = path.relative_to(GRADER).parts[0]
        if not re.fullmatch(r"lab\d+", part) and part not in _NOT_NEEDED:
            yield f"graders/{path.relative_to(GRADER).as_posix()}", path


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        # What proves the tests is of no use there, and would help who breaks out.
        if path.is_file() and not set(path.parts) & set(_LITTER) and path.name != "mutants.toml":
            yield path


def _add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (stat.S_IFREG | mode) << 16
    archive.writestr(info, data)


def _uv_version() -> str:
    groups = tomllib.loads((GRADER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    return str(groups["dependency-groups"]["lock"][0]).partition("==")[2]


# -- in Gradescope's container ---------------------------------------------------------------------


_Time = Annotated[datetime.datetime, msgspec.Meta(tz=True)]


class _Assignment(msgspec.Struct, frozen=True):
    """The assignment; with a user, as it is for that one, who may have an extension."""

    due_date: _Time | None = None
    total_points: float | str | None = None


class _User(msgspec.Struct):
    name: str = ""
    assignment: _Assignment | None = None


class Metadata(msgspec.Struct):
    """What is used of submission_metadata.json, as Gradescope's manual describes it:
    https://gradescope-autograders.readthedocs.io/en/latest/submission_metadata/
    """

    created_at: _Time | None = None
    assignment: _Assignment = _Assignment()
    users: list[_User] = []

    def students(self) -> list[str]:
        """Who handed in, a whole group."""
        return [clean(user.name).strip() for user in self.users if user.name.strip()]

    def late(self) -> datetime.timedelta | None:
        """How long after the due date, of a group's the latest; None if in time or not known."""
        own = [user.assignment.due_date for user in self.users if user.assignment]
        due = max((date for date in own if date), default=self.assignment.due_date)
        if due is None or self.created_at is None or self.created_at <= due:
            return None
        return self.created_at - due


def read_metadata(path: Path) -> Metadata:
    """Gradescope's file; an empty one, and a line for the instructor, where it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Metadata)
    except FileNotFoundError:
        return Metadata()
    except (OSError, msgspec.DecodeError) as error:
        print(f"{path.name} is not as expected, and was not used: {error}", file=sys.stderr)
        return Metadata()


def run(
    root: Path,
    lab: str,
    submission: Path,
    results: Path,
    isolation: str,
    hidden: str,
    metadata: Metadata | None = None,
) -> None:
    """Grade ``submission`` and write ``results``, whole or not at all.

    A submission that cannot be read earns 0 and is told why. Raises what the grader raises.
    """
    metadata = metadata or Metadata()
    results.unlink(missing_ok=True)
    with Grader(lab, Options(isolation=isolation, device="auto"), root) as grader:
        work = work_of("submission", submission, grader.manifest)
        record = grade(work, grader)
        tiers = ["cpu"] if record.device == "cpu" else ["cpu", "gpu"]
    if work.problem:
        print(work.problem, file=sys.stderr)
    _compare(
        metadata.assignment.total_points,
        math.fsum(task.points for task in record.tasks if task.tier in tiers),
    )
    text = gradescope_json(record, tiers=tiers, hidden=hidden, notes=_handed_in(metadata))
    # After the last process of the submission is gone.
    temporary = results.with_name(f".{results.name}.new")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, results)


def _handed_in(metadata: Metadata) -> list[str]:
    """Whose it is and whether it was late. Gradescope's own rule for late work stays the only one:
    points are not taken off twice.
    """
    lines = [f"handed in by {', '.join(metadata.students())}"] if metadata.students() else []
    if late := metadata.late():
        lines.append(
            f"handed in {str(late).partition('.')[0]} after the due date; no points are taken off "
            "here for that"
        )
    return lines


def _compare(total: float | str | None, most: float) -> None:
    """Tell the instructor, in Gradescope's log, of an assignment with another total."""
    try:
        if total is None or math.isclose(float(total), most, abs_tol=1e-6):
            return
    except ValueError:
        return
    print(
        f"Gradescope's assignment has {float(total):g} points, this lab {most:g}: the difference "
        "is for manual grading, or a slip in the assignment's settings",
        file=sys.stderr,
    )
