"""Every way to misbehave costs its own task and no other, in a process and in the sandbox."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graders.oracle.grade import Grader, Options
from graders.record import Record, TaskResult, to_json, totals
from graders.worker.limits import Limits, descendants

from . import gauntlet
from .gauntlet import CASES


@pytest.fixture(scope="module")
def submission(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gauntlet.build(tmp_path_factory.mktemp("gauntlet"))


@pytest.fixture(scope="module", params=["process", "sandbox"])
def record(request: pytest.FixtureRequest, submission: Path) -> Iterator[Record]:
    """The whole gauntlet, graded once a level."""
    limits = Limits(memory_bytes=3 * 2**29)
    options = Options(isolation=request.param, device="cpu", limits=limits)
    before = set(descendants(os.getpid()))
    with Grader("lab91", options, submission.parent) as grader:
        record = grader.run(str(submission))
        end = time.monotonic() + 10
        while left := set(descendants(os.getpid())) - before - {grader.server.pid}:
            assert time.monotonic() < end, f"left alive: {left}"
            time.sleep(0.1)
        yield record


def by_name(record: Record) -> dict[str, TaskResult]:
    return {task.id: task for task in record.tasks}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_module_loses_its_task_and_says_why(record: Record, name: str) -> None:
    task = by_name(record)[name]
    (test,) = task.tests
    assert (task.earned, task.status, test.outcome) == (0, "failed", "failed")
    assert CASES[name].says in test.message + test.traceback
    assert test.message


def test_every_other_task_keeps_its_points(record: Record) -> None:
    good = [task for task in record.tasks if task.id.startswith("good_")]
    assert len(good) > 10
    for task in good:
        assert (task.earned, task.status) == (task.points, "passed"), task
    assert totals(record, "cpu").earned == pytest.approx(sum(task.points for task in good))


def test_what_a_module_prints_costs_nothing_and_is_kept(record: Record) -> None:
    (test,) = next(task for task in record.tasks if task.id.startswith("good_")).tests
    assert test.outcome == "passed"
    assert "loud\n" in test.stdout and "err\n" in test.stdout


def test_the_record_of_such_a_run_can_be_written(record: Record) -> None:
    assert to_json(record)
