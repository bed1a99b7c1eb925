"""The notebook of an assignment, and a student's notebook made safe.

A student's notebook is never run and gives no points: those come from the package beside it. So
nothing of what a student did to the notebook may cost points, theirs or anybody's. nbgrader itself
would stop a whole batch at one cell with an old schema version. Therefore the notebook that goes
through nbgrader is built anew: the instructor's cells as they were released, and of the student's
own cells the text.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from graders.manifest import Manifest, Task

MAX_BYTES = 16 * 2**20
MAX_CELLS = 2000
MAX_CELL_CHARS = 200_000
SCHEMA = 3
CHECK_ID = "inferlab-check"  # a hyphen: no task is called that

_SECTION = re.compile(r"## ((?:\d+(?:, | and )?)+)\.")
# The lab's own notebook stands in a tree with a noxfile; an assignment has a list of packages.
_KERNEL = re.compile(r"^.*noxfile\.py -s notebook\b.*$", re.MULTILINE)
_PACKAGES = "Kernel: any Python with the packages of `requirements.txt`, and `ipykernel`."
_GRADES = re.compile(r'"graders",\s*"grade"')

_CHECK = '''\
import subprocess


def check(task, device="cpu"):
    """Run the visible tests of one task on your modules, as they are saved on the disk."""
    command = [sys.executable, "-m", "graders", "grade", "{lab}", "--task", task]
    done = subprocess.run([*command, "--device", device], capture_output=True, text=True)
    print(done.stdout or done.stderr)
    if done.returncode != 0:
        raise AssertionError(f"{{task}} is not done: see above")
'''


# -- the instructor's ------------------------------------------------------------------------------


def assignment(manifest: Manifest, lab: NotebookNode, tiers: Collection[str]) -> NotebookNode:
    """The lab's own notebook with one graded cell a task, behind the section that shows it.

    Sections are the headings ``## 3.`` and ``## 7 and 8.``, by the task's number in the handout.
    """
    tasks = [task for task in manifest.tasks if task.tier in tiers]
    numbers = {task.id: number for number, task in enumerate(manifest.tasks, 1)}
    waiting = {numbers[task.id]: task for task in tasks}
    cells: list[NotebookNode] = []
    open_tasks: list[Task] = []

    def close_section() -> None:
        cells.extend(_graded(task, numbers[task.id]) for task in open_tasks)
        open_tasks.clear()

    for cell in _without_own_check(lab.cells):
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            close_section()
            heading = _SECTION.match(cell.source)
            for number in re.findall(r"\d+", heading[1]) if heading else ():
                if int(number) in waiting:
                    open_tasks.append(waiting.pop(int(number)))
        source = cell.source.replace("](README.md)", f"](labs/{manifest.package}/README.md)")
        cells.append(_plain(cell.cell_type, _KERNEL.sub(_PACKAGES, source), cell.id))
        if cell.id == "setup":
            cells.append(_locked(_CHECK.format(lab=manifest.name)))
    close_section()
    if waiting:
        cells.append(_plain("markdown", "## The other tasks", "other-tasks"))
        cells += [_graded(task, number) for number, task in sorted(waiting.items())]
    if not any(_grade_id(cell) == CHECK_ID for cell in cells):
        raise ValueError(f"the notebook of {manifest.name} has no cell with the id 'setup'")
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=dict(lab.metadata))
    nbformat.validate(notebook)
    return notebook


def _without_own_check(cells: Iterable[NotebookNode]) -> list[NotebookNode]:
    """The lab's cells but the last one, which grades one task, and its heading."""
    kept: list[NotebookNode] = []
    for cell in cells:
        if not _GRADES.search(cell.source):
            kept.append(cell)
        elif kept and kept[-1].cell_type == "markdown" and kept[-1].source.startswith("## "):
            kept.pop()
    return kept


def _graded(task: Task, number: int) -> NotebookNode:
    device = ', device="cuda"' if task.tier == "gpu" else ""
    source = (
        f"# Task {number}, {task.title}: {task.points:g} points. Its visible tests:\n"
        f'check("{task.id}"{device})'
    )
    return _ours(source, task.id, {"grade": True, "points": task.points})


def _locked(source: str) -> NotebookNode:
    return _ours(source.rstrip(), CHECK_ID, {"grade": False})


def _ours(source: str, grade_id: str, more: dict[str, Any]) -> NotebookNode:
    about = {
        "schema_version": SCHEMA, "grade_id": grade_id, "locked": True, "solution": False,
        "task": False, "cell_type": "code", **more,
    }  # fmt: skip
    cell = nbformat.v4.new_code_cell(source, metadata={"nbgrader": about})
    cell.id = f"graded-{grade_id}".replace("_", "-")[:64]
    return cell


def _plain(kind: str, source: str, cell_id: str | None = None) -> NotebookNode:
    make = {
        "markdown": nbformat.v4.new_markdown_cell,
        "raw": nbformat.v4.new_raw_cell,
    }.get(kind, nbformat.v4.new_code_cell)
    cell = make(source)
    if cell_id:
        cell.id = cell_id
    return cell


def _grade_id(cell: NotebookNode) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def graded_ids(notebook: NotebookNode) -> list[str]:
    """The tasks that have a graded cell, in order."""
    about = [cell.metadata.get("nbgrader", {}) for cell in notebook.cells]
    return [one["grade_id"] for one in about if one.get("grade")]


# -- the student's ---------------------------------------------------------------------------------


def rebuilt(path: Path, source: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """A student's notebook as nbgrader may see it, and what was odd about it.

    The instructor's cells stand where the student has them, once each and unchanged; one that is
    missing stands behind the one it followed. Every other cell keeps its kind and text alone. What
    cannot be read counts as an empty notebook. Never raises for anything a student can write.
    """
    cells, odd = _student_cells(path)
    own = {name: cell for cell in source.cells if (name := _grade_id(cell))}
    placed: dict[str, int] = {}
    made: list[NotebookNode] = []
    unreadable = bool(odd)
    if unreadable:
        made.append(_plain("markdown", f"*{odd[0]}.*"))
    for kind, text, name in cells:
        if name in own and name not in placed:
            if text != own[name].source:
                odd.append(f"cell {name} was edited")
            placed[name] = len(made)
            made.append(own[name].copy())
            continue
        if name in own:
            odd.append(f"cell {name} is there twice")
        made.append(_plain(kind, text))
    missing = [name for name in own if name not in placed]
    if missing and not unreadable:
        odd.append(f"missing cells: {', '.join(missing)}")
    after = 0 if unreadable else -1  # below the line that says why
    for name, cell in own.items():
        if name in missing:
            made.insert(after + 1, cell.copy())
            placed = {n: at + (at > after) for n, at in placed.items()}
            placed[name] = after + 1
        after = placed[name]
    notebook = nbformat.v4.new_notebook(cells=made, metadata=dict(source.metadata))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook, odd


def _student_cells(path: Path) -> tuple[list[tuple[str, str, str | None]], list[str]]:
    """(kind, text, grade_id) of each cell, and why there are none if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return [], ["The notebook was not handed in"]
    except OSError as error:
        return [], [f"The notebook cannot be opened ({error.strerror})"]
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return [], ["The notebook cannot be read: it is no regular file"]
        data = file.read(MAX_BYTES + 1)
    if not data.strip():
        return [], ["The notebook was not handed in"]
    if len(data) > MAX_BYTES:
        return [], [f"The notebook cannot be read: it is larger than {MAX_BYTES >> 20} MiB"]
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):  # no UTF-8, no JSON, numbers of a million digits, depth
        return [], ["The notebook cannot be read: it is no JSON"]
    cells = told.get("cells") if isinstance(told, dict) else None
    if not isinstance(cells, list):
        return [], ["The notebook cannot be read: it has no list of cells"]
    return [_student_cell(cell) for cell in cells[:MAX_CELLS] if isinstance(cell, dict)], []


def _student_cell(cell: dict[str, Any]) -> tuple[str, str, str | None]:
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    text = source if isinstance(source, str) else ""
    text = text[:MAX_CELL_CHARS].encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair
    about: Any = cell.get("metadata")
    about = about.get("nbgrader") if isinstance(about, dict) else None
    name = about.get("grade_id") if isinstance(about, dict) else None
    kind = cell.get("cell_type")
    return (
        kind if kind in ("markdown", "raw") else "code",
        text,
        name if isinstance(name, str) else None,
    )
