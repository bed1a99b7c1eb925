"""An autograder zip for Gradescope: the course's tree for one lab, and the two scripts it runs.

Gradescope builds an image with ``setup.sh`` once and runs ``run_autograder`` for each submission in
a container of its own. Whether the sandbox works in there is up to Gradescope's machines: where it
does not, the grader refuses, says so, and no result is written. ``isolation="process"`` accepts by
name that a submission, which then runs as the grader's own user, can read the hidden tests and
write its own result: the container protects the other students, and nothing in it the grader.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from graders.manifest import find_lab
from graders.nbgrader.exports import gradescope_json
from graders.nbgrader.parts import GRADER, WEIGHTS, use_weights
from graders.nbgrader.scores import grade, work_of
from graders.oracle.grade import Grader, Options

_DATE = (2020, 1, 1, 0, 0, 0)  # the same course gives the same zip
_ROOT_FILES = ("pyproject.toml", "LICENSE")
_LITTER = ("__pycache__", ".ipynb_checkpoints", "alternatives")
# What grading one submission needs of graders/, beside the lab's own folder.
_NOT_NEEDED = ("adversarial", "release")

_SETUP = """\
#!/usr/bin/env bash
# Gradescope runs this once, when it builds the image.
set -euo pipefail
cd /autograder/source/inferlab
# A CPU-only torch. For a machine with a GPU set this to nothing.
index="${PIP_EXTRA_INDEX_URL-https://download.pytorch.org/whl/cpu}"
python3 -m pip install --quiet uv==@uv@
python3 -m uv venv --python 3.12 /autograder/env
python3 -m uv pip install --python /autograder/env/bin/python \\
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


def run(root: Path, lab: str, submission: Path, results: Path, isolation: str, hidden: str) -> None:
    """Grade ``submission`` and write ``results``, whole or not at all.

    A submission that cannot be read earns 0 and is told why. Raises what the grader raises.
    """
    results.unlink(missing_ok=True)
    with Grader(lab, Options(isolation=isolation, device="auto"), root) as grader:
        work = work_of("submission", submission, grader.manifest)
        record = grade(work, grader)
        tiers = ["cpu"] if record.device == "cpu" else ["cpu", "gpu"]
    if work.problem:
        print(work.problem, file=sys.stderr)
    # After the last process of the submission is gone.
    temporary = results.with_name(f".{results.name}.new")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(gradescope_json(record, tiers=tiers, hidden=hidden), encoding="utf-8")
    os.replace(temporary, results)
