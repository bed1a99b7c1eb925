"""Notebooks: the assignment's, and what becomes of a student's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbgrader.nbgraderformat import MetadataValidator

from graders.manifest import find_lab, lab_directories
from graders.nbgrader.course import Course, CourseError, configuration, write_course
from graders.nbgrader.notebook import assignment, graded_ids, rebuilt
from graders.oracle.grade import ROOT
from graders.release import prove_folders
from graders.sync import make_stub
from tests.nbgrader.conftest import make_course, toy_tree

LABS = [find_lab(ROOT, folder.name) for folder in lab_directories(ROOT)]
each_lab = pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An nbgrader course of every lab there is."""
    dest = tmp_path_factory.mktemp("course") / "new"
    write_course(Course(ROOT, db="postgresql://user@host/gradebook"), dest, [])
    return dest


# -- the assignment --------------------------------------------------------------------------------


@each_lab
def test_one_graded_cell_a_cpu_task(lab, course) -> None:
    notebook = nbformat.read(course / "source" / lab.name / f"{lab.name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    MetadataValidator().validate_nb(notebook)
    points = {
        cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader.points
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("grade")
    }
    assert points == {task.id: task.points for task in lab.tasks if task.tier == "cpu"}
    assert sum(points.values()) == 100
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader"):
            assert cell.metadata.nbgrader.locked and not cell.metadata.nbgrader.solution


@each_lab
def test_graded_cells_stand_in_their_sections(lab, course) -> None:
    """A task's cell comes behind the heading with its number, and before the next heading."""
    notebook = nbformat.read(course / "source" / lab.name / f"{lab.name}.ipynb", as_version=4)
    numbers: list[str] = []
    for cell in notebook.cells:
        if heading := re.match(r"## ((?:\d+(?:, | and )?)+)\.", cell.source):
            numbers = re.findall(r"\d+", heading[1])
        about = cell.metadata.get("nbgrader", {})
        if about.get("grade") and not any(c.id == "other-tasks" for c in notebook.cells):
            place = [task.id for task in lab.tasks].index(about["grade_id"]) + 1
            assert str(place) in numbers


@each_lab
def test_an_assignment_is_the_stub_package_and_no_secret(lab, course) -> None:
    folder = course / "source" / lab.name
    package = folder / "labs" / lab.package
    solutions = ROOT / "solutions" / lab.package
    for source in solutions.glob("*.py"):
        assert (package / source.name).read_text() == make_stub(source.read_text(), source.name)
    assert prove_folders([folder], ROOT).sought > 1000
    for path in folder.rglob("*"):
        assert not re.search(r"hidden|mutants|alternatives|solutions", path.name), path
    assert (folder / "labs" / "common" / "units.py").is_file()
    packages = (folder / "requirements.txt").read_text()
    assert "torch==" in packages and "#" not in packages
    assert "nox" not in (folder / f"{lab.name}.ipynb").read_text(), "an assignment has no noxfile"


def test_a_course_with_a_secret_in_it_is_not_written(tmp_path) -> None:
    """Whatever it is and wherever: the assignments that were there stay as they are."""
    tree = toy_tree(tmp_path / "tree")
    solution = tree / "solutions" / "lab90_toy" / "double.py"
    solution.parent.mkdir(parents=True)
    doubled = "    return torch.add(x, x, alpha=1)"
    solution.write_text(
        f"def double(x):\n    ### BEGIN SOLUTION\n{doubled}\n    ### END SOLUTION\n"
    )
    handout = tree / "labs" / "lab90_toy" / "README.md"
    course = make_course(tree, tmp_path / "course")
    before = {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}
    assert not any(b"alpha=1" in data for data in before.values())
    hidden = (tree / "graders" / "lab90" / "test_hidden.py").read_text()
    for leak in (doubled, "See test_double_refuses_text.", hidden):
        handout.write_text(f"# Toy\n\n{leak}\n")
        with pytest.raises(CourseError, match=r"labs/lab90_toy/README\.md"):
            make_course(tree, course)
        assert before == {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}
    handout.write_text("# Toy\n")
    make_course(tree, course)


@each_lab
def test_gpu_tasks_only_when_asked_for(lab) -> None:
    ours = nbformat.read(lab.directory / f"{lab.name}.ipynb", as_version=4)
    both = graded_ids(assignment(lab, ours, ("cpu", "gpu")))
    assert sorted(both) == sorted(task.id for task in lab.tasks)


@pytest.mark.parametrize("solved", [True, False], ids=["solution", "stubs"])
def test_a_fetched_assignment_runs_by_itself(course, tmp_path, solved) -> None:
    """All plots and one check, in a folder with nothing of this tree around it. On stubs each cell
    fails alone and says why.
    """
    folder, lab = tmp_path / "lab02", find_lab(ROOT, "lab02")
    shutil.copytree(course / "source" / "lab02", folder)
    if solved:
        for module in (ROOT / "solutions" / lab.package).glob("*.py"):
            shutil.copyfile(module, folder / "labs" / lab.package / module.name)
    notebook = nbformat.read(folder / "lab02.ipynb", as_version=4)
    others = set(graded_ids(notebook)) - {"roofline"}  # each takes seconds and shows the same
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("grade_id") not in others
    ]
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", allow_errors=True,
                   resources=where).execute()  # fmt: skip
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    said = {cell.id: [out for out in cell.outputs if out.output_type == "error"] for cell in code}
    failed = {name: errors[0] for name, errors in said.items() if errors}
    [check] = [cell for cell in code if cell.metadata.get("nbgrader", {}).get("grade")]
    if solved:
        assert failed == {}
        assert sum("image/png" in out.get("data", {}) for cell in code for out in cell.outputs) > 5
        assert "points that public tests carry" in check.outputs[0].text
    else:
        assert failed.pop(check.id).evalue.startswith("roofline is not done")
        assert {error.ename for error in failed.values()} == {"NotImplementedError"}
        assert len(failed) > 5


def test_a_course_of_somebody_elses_folder_is_refused(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(CourseError, match="no nbgrader course"):
        write_course(Course(ROOT), tmp_path, ["lab02"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_course_written_again_keeps_its_configuration(tmp_path) -> None:
    tree = toy_tree(tmp_path / "tree")
    course = make_course(tree, tmp_path / "c")
    config = course / "nbgrader_config.py"
    config.write_text("# mine\n")
    stale = course / "source" / "lab90" / "old.txt"
    stale.write_text("")
    make_course(tree, course)
    assert config.read_text() == "# mine\n" and not stale.exists()
    assert (stale.parent / "lab90.ipynb").is_file()


def test_configuration_is_python_and_takes_one_setting_for_a_database(course) -> None:
    text = (course / "nbgrader_config.py").read_text()
    compile(text, "nbgrader_config.py", "exec")
    assert 'c.CourseDirectory.db_url = "postgresql+psycopg2://user@host/gradebook"' in text
    assert "@" not in re.sub(r"\w+@\w+", "", text), "a mark was not filled in"
    odd = configuration(Course(Path('/a "b"\\n'), db="x'\"y"))
    compile(odd, "nbgrader_config.py", "exec")


# -- a student's -----------------------------------------------------------------------------------


def source_notebook() -> nbformat.NotebookNode:
    lab = find_lab(ROOT, "lab02")
    ours = nbformat.read(lab.directory / "lab02.ipynb", as_version=4)
    return assignment(lab, ours, ("cpu",))


SOURCE = source_notebook()
OURS = [c for c in SOURCE.cells if "nbgrader" in c.metadata]
NAMES = [cell.metadata.nbgrader.grade_id for cell in OURS]
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
about_cells = st.fixed_dictionaries(
    {},
    optional={
        "grade_id": st.sampled_from(NAMES) | json_values, "grade": json_values,
        "points": json_values, "schema_version": json_values, "locked": json_values,
    },
)  # fmt: skip
student_cells = st.fixed_dictionaries(
    {},
    optional={
        "cell_type": st.sampled_from(["code", "markdown", "raw"]) | json_values,
        "metadata": st.fixed_dictionaries({}, optional={"nbgrader": about_cells | json_values}),
        "source": st.text(max_size=20) | st.lists(st.text(max_size=5) | json_values) | json_values,
        "outputs": json_values,
    },
)


def check_rebuilt(path: Path) -> None:
    notebook, _ = rebuilt(path, SOURCE)
    nbformat.validate(notebook)
    MetadataValidator().validate_nb(notebook)
    nbformat.writes(notebook).encode("utf-8")
    kept = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    names = [cell.metadata.nbgrader.grade_id for cell in kept]
    assert sorted(names) == sorted(NAMES)
    texts = dict(zip(NAMES, [cell.source for cell in OURS], strict=True))
    for name, cell in zip(names, kept, strict=True):
        assert cell.source == texts[name]
        assert dict(cell.metadata.nbgrader) == dict(OURS[NAMES.index(name)].metadata.nbgrader)
    assert all(not cell.get("outputs") for cell in notebook.cells)


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({"cells": st.lists(student_cells | json_values, max_size=8)}))
def test_any_notebook_comes_out_with_the_instructors_cells_once_each(told) -> None:
    """Whatever a student's cells claim to be."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lab02.ipynb"
        path.write_text(json.dumps(told), encoding="utf-8", errors="surrogatepass")
        check_rebuilt(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[" * 10**6, b"9" * 10**5, b"null", b"[]", b'{"cells": {}}',
     b'{"cells": [[]]}', b'{"worksheets": []}'],
    ids=lambda data: data[:12].decode("latin-1"),
)  # fmt: skip
def test_what_is_no_notebook_counts_as_an_empty_one(data, tmp_path) -> None:
    (tmp_path / "lab02.ipynb").write_bytes(data)
    check_rebuilt(tmp_path / "lab02.ipynb")


def test_what_is_no_file_counts_as_an_empty_one(tmp_path) -> None:
    check_rebuilt(tmp_path / "absent.ipynb")
    import os

    os.mkfifo(tmp_path / "pipe.ipynb")
    check_rebuilt(tmp_path / "pipe.ipynb")
    (tmp_path / "secret").write_text(json.dumps({"cells": [{"source": "of another"}]}))
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "secret")
    notebook, odd = rebuilt(tmp_path / "link.ipynb", SOURCE)
    assert odd and "of another" not in nbformat.writes(notebook)


def test_an_untouched_notebook_keeps_its_order_and_text(tmp_path) -> None:
    nbformat.write(SOURCE, tmp_path / "lab02.ipynb")
    notebook, odd = rebuilt(tmp_path / "lab02.ipynb", SOURCE)
    assert odd == []
    assert [c.source for c in notebook.cells] == [c.source for c in SOURCE.cells]
    assert [c.cell_type for c in notebook.cells] == [c.cell_type for c in SOURCE.cells]


def test_missing_cells_come_back_in_their_order(tmp_path) -> None:
    mine = SOURCE.copy()
    mine.cells = [c for c in SOURCE.cells if c.metadata.get("nbgrader", {}).get("grade_id")
                  in (None, NAMES[3])]  # fmt: skip
    nbformat.write(mine, tmp_path / "lab02.ipynb")
    notebook, odd = rebuilt(tmp_path / "lab02.ipynb", SOURCE)
    names = [c.metadata.nbgrader.grade_id for c in notebook.cells if "nbgrader" in c.metadata]
    assert names == NAMES
    assert odd == [f"missing cells: {', '.join(name for name in NAMES if name != NAMES[3])}"]


def test_what_is_no_notebook_says_so_at_its_top(tmp_path) -> None:
    (tmp_path / "lab02.ipynb").write_bytes(b"{")
    notebook, odd = rebuilt(tmp_path / "lab02.ipynb", SOURCE)
    assert odd == ["The notebook cannot be read: it is no JSON"]
    assert notebook.cells[0].source == f"*{odd[0]}.*"
    assert [c.source for c in notebook.cells[1:]] == [c.source for c in OURS]
