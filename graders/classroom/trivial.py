"""Five trivial tests after ``import torch``, as a lab of ours and as an nbgrader course.

Both ask the same of the same five functions, so that graders can be compared and not labs. As a
program it is nbgrader's side: ``python -m graders.classroom.trivial make COURSE N`` writes a course
with N submissions, and ``grade COURSE`` autogrades them one after the other through nbgrader's own
interface, printing a line of JSON for each.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from graders.scoring import ExpectedTest, expected_json, make_expected

LAB, PACKAGE = "lab99", "lab99_trivial"
_NOTEBOOK = "trivial"
# A function, its right body, a call, and what that gives.
_TASKS = {
    "double": ("x * 2", "torch.arange(4)", "[0, 2, 4, 6]"),
    "total": ("x.sum()", "torch.arange(5)", "10"),
    "largest": ("x.max()", "torch.tensor([3, 9, 4])", "9"),
    "mirror": ("x.flip(0)", "torch.arange(3)", "[2, 1, 0]"),
    "power": ("x @ x", "torch.eye(2)", "[[1.0, 0.0], [0.0, 1.0]]"),
}
_WRONG = "x - 1"  # the body of a wrong function
MOST = len(_TASKS)


def functions(wrong: bool) -> dict[str, str]:
    """The source of each function, the first of them wrong on demand."""
    texts = {name: f"def {name}(x):\n    return {body}\n" for name, (body, *_) in _TASKS.items()}
    if wrong:
        first = next(iter(_TASKS))
        texts[first] = f"def {first}(x):\n    return {_WRONG}\n"
    return texts


def is_wrong(number: int) -> bool:
    """Every second submission has a mistake: a grader that gives everybody everything shows."""
    return number % 2 == 1


# -- our side --------------------------------------------------------------------------------------


def write_lab(root: Path) -> None:
    """A tree with the lab: five tasks of 20 points, a hidden test each."""
    lab, hidden = root / "labs" / PACKAGE, root / "graders" / LAB
    (root / "labs" / "common").mkdir(parents=True)
    for folder in (root / "labs", root / "labs" / "common"):
        (folder / "__init__.py").write_text("")
    lab.mkdir()
    hidden.mkdir(parents=True)
    head = 'schema = 1\nnumber = 99\npackage = "lab99_trivial"\ntitle = "Trivial"\n'
    head += 'summary = "Five functions of one tensor."\nminutes = 1\npreload = ["torch"]\n'
    tasks = [
        f'[[task]]\nid = "{name}"\ntitle = "{name}"\nmodule = "functions"\npoints = 20\n'
        'tier = "cpu"\ntimeout_s = 60\nhints = ["read"]\n'
        for name in _TASKS
    ]
    tests = [
        f'@pytest.mark.task("{name}")\ndef test_{name}(student):\n    """It is right."""\n'
        f"    assert student.functions.{name}({call}).tolist() == {value}\n"
        for name, (_, call, value) in _TASKS.items()
    ]
    (lab / "lab.toml").write_text(head + "".join(tasks))
    (lab / "test_public.py").write_text('"""All tests are hidden."""\n')
    (hidden / "test_hidden.py").write_text("import pytest\nimport torch\n\n" + "\n".join(tests))
    public, listed = make_expected(
        {f"hidden::test_{name}": ExpectedTest(name, 1, "hidden") for name in _TASKS}
    )
    (lab / "expected.json").write_bytes(expected_json(public))
    (hidden / "expected.json").write_bytes(expected_json(listed))


def hand_in_to_us(folder: Path, students: int, first: int = 0) -> None:
    """So many packages, each different by a comment."""
    for number in range(first, first + students):
        package = folder / f"s{number:04d}" / PACKAGE
        package.mkdir(parents=True)
        text = "\n".join(["import torch\n", *functions(is_wrong(number)).values()])
        (package / "functions.py").write_text(f"{text}\n# {number}\n")


# -- nbgrader's side -------------------------------------------------------------------------------


def write_course(course: Path, students: int) -> None:
    """A course of nbgrader's, unreleased, with what students handed in. Needs nbgrader."""
    import nbformat

    source = course / "source" / LAB
    source.mkdir(parents=True)
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    notebook.cells = [nbformat.v4.new_code_cell("import torch")]
    for name, text in functions(wrong=False).items():
        _, call, value = _TASKS[name]
        head, body = text.splitlines()
        solution = f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"
        notebook.cells += [
            _cell(solution, f"{name}_solution", solution=True),
            _cell(f"assert {name}({call}).tolist() == {value}", name, grade=True, points=1),
        ]
    nbformat.write(notebook, source / f"{_NOTEBOOK}.ipynb")
    (course / "nbgrader_config.py").write_text("c = get_config()\n")
    made = _api(course).generate_assignment(LAB)
    if not made["success"]:
        raise RuntimeError(made["log"])
    released = nbformat.read(course / "release" / LAB / f"{_NOTEBOOK}.ipynb", as_version=4)
    for number in range(students):
        for cell in released.cells:
            name = cell.metadata.get("nbgrader", {}).get("grade_id", "").removesuffix("_solution")
            if name in _TASKS and cell.metadata.nbgrader["solution"]:
                cell.source = functions(is_wrong(number))[name] + f"\n# {number}"
        folder = course / "submitted" / f"s{number:04d}" / LAB
        folder.mkdir(parents=True)
        nbformat.write(released, folder / f"{_NOTEBOOK}.ipynb")


def _cell(text: str, name: str, *, grade: bool = False, solution: bool = False, **more: Any) -> Any:
    import nbformat

    about = {"schema_version": 3, "grade_id": name, "locked": grade}
    about |= {"grade": grade, "solution": solution, "task": False, **more}
    return nbformat.v4.new_code_cell(text, metadata={"nbgrader": about})


def _api(course: Path) -> Any:
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    config = Config()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.db_url = f"sqlite:///{course}/gradebook.db"
    return NbGraderAPI(config=config)


def autograde(course: Path) -> None:
    """Autograde each student; a line of JSON with the seconds and the score in the gradebook.

    ``success`` of nbgrader's answer is true also where every cell failed: only scores count.
    """
    from nbgrader.api import Gradebook

    api = _api(course)
    for folder in sorted((course / "submitted").iterdir()):
        began = time.perf_counter()
        api.autograde(LAB, folder.name)
        seconds = time.perf_counter() - began
        with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
            score = gradebook.find_submission(LAB, folder.name).score
        print(json.dumps({"seconds": seconds, "score": score}), flush=True)


def main() -> None:
    """``make COURSE N`` or ``grade COURSE``, in a process that imports nbgrader and nothing of it
    stays.
    """
    warnings.simplefilter("ignore")  # SQLAlchemy's, about nbgrader's own code
    verb, course, *more = sys.argv[1:]
    os.chdir(course)
    if verb == "make":
        write_course(Path(course), int(more[0]))
    else:
        autograde(Path(course))


if __name__ == "__main__":
    main()
