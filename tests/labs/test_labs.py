"""What must hold for every lab.

Stubs are in sync and worth 0, solutions and alternatives worth everything, mutants caught.
"""

from __future__ import annotations

import pytest

from graders import cli
from graders.oracle.grade import ROOT
from graders.sync import sync

LABS = cli.all_labs()


def test_stubs_are_in_sync_with_the_solutions() -> None:
    assert sync(ROOT, check=True) == [], "run `nox -s sync`"


def test_lists_of_expected_tests_are_in_sync_with_the_tests() -> None:
    assert [path for path, _ in cli.stale_lists()] == [], "run `nox -s sync`"


@pytest.mark.parametrize("lab", LABS)
def test_stubs_earn_nothing_solutions_and_alternatives_everything(lab: str) -> None:
    assert cli.prove([lab]) == 0


@pytest.mark.parametrize("lab", LABS)
def test_every_mutant_loses_exactly_its_tasks(lab: str) -> None:
    assert cli.mutants([lab]) == 0


@pytest.mark.parametrize("lab", LABS)
def test_every_cpu_task_has_five_mutants(lab: str) -> None:
    manifest = cli.find_lab(ROOT, lab)
    listed = cli.load_mutants(lab)
    counts = {
        task.id: sum(task.id in m["fails"] for m in listed)
        for task in manifest.tasks
        if task.tier == "cpu"
    }
    assert all(count >= 5 for count in counts.values()), counts
