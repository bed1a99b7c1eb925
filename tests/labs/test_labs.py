"""What must hold for every lab.

Stubs are in sync and worth 0, solutions and alternatives worth everything, mutants caught.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graders import cli, proofs
from graders.manifest import find_lab
from graders.oracle.grade import ROOT, GradeError
from graders.sync import sync
from tests.grader.toy import Course

LABS = proofs.all_labs()


def test_stubs_are_in_sync_with_the_solutions() -> None:
    assert sync(ROOT, check=True) == [], "run `nox -s sync`"


def test_lists_of_expected_tests_are_in_sync_with_the_tests() -> None:
    assert [path for path, _ in cli.stale_lists()] == [], "run `nox -s sync`"


@pytest.mark.parametrize("lab", LABS)
def test_stubs_earn_nothing_solutions_and_alternatives_everything(lab: str) -> None:
    assert proofs.prove([lab]) == 0


@pytest.mark.parametrize("lab", LABS)
def test_every_mutant_loses_exactly_its_tasks(lab: str) -> None:
    assert proofs.mutants([lab]) == 0


@pytest.mark.parametrize("lab", LABS)
def test_every_cpu_task_has_five_mutants(lab: str) -> None:
    manifest = find_lab(ROOT, lab)
    listed = proofs.load_mutants(lab)
    counts = {
        task.id: sum(task.id in m.fails for m in listed)
        for task in manifest.tasks
        if task.tier == "cpu"
    }
    assert all(count >= 5 for count in counts.values()), counts


@pytest.mark.parametrize("lab", LABS)
def test_every_cpu_task_has_a_public_test(lab: str) -> None:
    """A student must see something of every task before it is handed in."""
    manifest = find_lab(ROOT, lab)
    listed = json.loads((ROOT / "labs" / manifest.package / "expected.json").read_text())
    tests = listed["tests"].values()
    public = {test["task"] for test in tests if test["visibility"] == "public"}
    assert {task.id for task in manifest.tasks if task.tier == "cpu"} <= public


def test_a_mutant_is_graded_on_every_task_that_can_see_its_module() -> None:
    seen = proofs.reach(find_lab(ROOT, "lab02"))
    assert seen["placement.py"] == {"placement"}
    assert seen["roofline.py"] == {"roofline", "phases", "cost", "placement", "gpu_decode"}
    everything = {task.id for task in find_lab(ROOT, "lab02").tasks}
    assert seen["parameters.py"] == everything - {"roofline"}


def test_a_costly_task_is_graded_with_mutants_of_its_own_module_only() -> None:
    manifest = find_lab(ROOT, "lab02")
    plain, spared = proofs.reach(manifest), proofs.reach(manifest, ["cost"])
    assert "cost" in plain["roofline.py"] and "cost" in spared["cost.py"]
    assert spared == {
        module: tasks if module == "cost.py" else tasks - {"cost"}
        for module, tasks in plain.items()
    }


MUTANT = """
[[mutant]]
name = "a"
module = "double.py"
find = "x * 2"
replace = "x * 3"
fails = ["double"]
why = "a mistake"
"""


@pytest.mark.parametrize(
    "change, said",
    [
        (("x * 2", "x * 4"), "is there 0 times"),
        (('module = "double.py"', 'module = "none.py"'), "no module 'none.py'"),
        (('fails = ["double"]', "fails = []"), "names tasks"),
        (('fails = ["double"]', 'fails = ["nothing"]'), "names tasks"),
        (('why = "a mistake"', ""), "why"),
        (('why = "a mistake"', 'whi = "a mistake"'), "whi"),
        (("[[mutant]]", "[[mutant]"), "mutants.toml"),
        (("[[mutant]]", 'costly = ["nothing"]\n[[mutant]]'), "costly names"),
    ],
)
def test_a_malformed_list_of_mutants_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], said: str
) -> None:
    Course(tmp_path)
    solution = tmp_path / "solutions" / "lab90_toy"
    solution.mkdir(parents=True)
    (solution / "double.py").write_text("def double(x):\n    return x * 2\n")
    path = tmp_path / "graders" / "lab90" / "mutants.toml"
    monkeypatch.setattr(proofs, "ROOT", tmp_path)
    path.write_text(MUTANT)
    assert [mutant.name for mutant in proofs.load_mutants("lab90")] == ["a"]
    path.write_text(MUTANT.replace(*change))
    with pytest.raises(GradeError, match=said):
        proofs.load_mutants("lab90")
    path.write_text(MUTANT + MUTANT)
    with pytest.raises(GradeError, match="twice"):
        proofs.load_mutants("lab90")
