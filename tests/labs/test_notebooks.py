"""Every lab's notebook runs from top to bottom on the solution, and holds none of it itself."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from graders.oracle.grade import ROOT
from graders.sync import BEGIN, END
from tests.labs.trees import student_tree

NOTEBOOKS = sorted(ROOT.glob("labs/lab[0-9]*/lab[0-9]*.ipynb"))
CELL_TIMEOUT_S = 120
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def run(path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """Execute a notebook in its own folder of ``tree``; its code cells, with their outputs."""
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own backend makes the images
    monkeypatch.delenv("PYTHONPATH", raising=False)  # the tree under test is the only one
    notebook = nbformat.read(path, as_version=4)
    folder = tree / path.relative_to(ROOT).parent
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",  # of the interpreter that runs this test
        resources={"metadata": {"path": str(folder)}},
        allow_errors=True,
    )
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def errors(cells: list) -> dict[str, str]:
    """The cells that failed, by id, with the exception's name and message."""
    return {
        cell.id: f"{output.ename}: {output.evalue}"
        for cell in cells
        for output in cell.outputs
        if output.output_type == "error"
    }


@each_notebook
def test_runs_on_the_solution(path, tmp_path, monkeypatch) -> None:
    cells = run(path, student_tree(tmp_path, solved=True), monkeypatch)
    assert errors(cells) == {}
    images = [o for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    assert images, "a notebook without a plot"
    # A subprocess that fails only prints, so the report it printed is read.
    graded = [cell for cell in cells if re.search(r'"graders",\s*"grade"', cell.source)]
    assert graded, "a notebook in which the reader cannot check the work"
    for cell in graded:
        said = "".join(o.get("text", "") for o in cell.outputs)
        assert "public tests passed" in said, said


@each_notebook
def test_untouched_stubs_fail_each_cell_by_itself(path, tmp_path, monkeypatch) -> None:
    cells = run(path, student_tree(tmp_path, solved=False), monkeypatch)
    failed = errors(cells)
    assert failed, "the notebook runs on stubs, so it shows nothing of the student's"
    others = {k: v for k, v in failed.items() if not v.startswith("NotImplementedError: ")}
    assert others == {}, "a cell fails because an earlier one did"


@each_notebook
def test_committed_clean(path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [], f"cell {cell.id} was committed with outputs"
        assert cell.get("execution_count") is None, f"cell {cell.id} was committed as executed"


@each_notebook
def test_says_how_to_open_it(path) -> None:
    first = nbformat.read(path, as_version=4).cells[0].source
    command = f"python3 noxfile.py -s notebook -- {path.parent.name[:5]}"
    assert f"`{command}` opens it with all it needs." in first


@each_notebook
def test_no_line_of_the_solution(path) -> None:
    told = {
        line.strip()
        for cell in nbformat.read(path, as_version=4).cells
        for line in cell.source.splitlines()
    }
    leaked = told & secret_lines(ROOT / "solutions" / path.parent.name)
    assert leaked == set()


def secret_lines(package: Path) -> set[str]:
    """The lines of a solution's regions that are long enough to be nobody's accident."""
    found: set[str] = set()
    for source in package.rglob("*.py"):
        inside = False
        for line in map(str.strip, source.read_text(encoding="utf-8").splitlines()):
            inside = (inside or line == BEGIN) and line != END
            if inside and line != BEGIN and len(line) >= 24:
                found.add(line)
    assert found, f"no solution regions under {package}"
    return found


def test_there_are_notebooks() -> None:
    assert {path.parent.name for path in NOTEBOOKS} == {
        path.parent.name for path in ROOT.glob("labs/lab[0-9]*/lab.toml")
    }
