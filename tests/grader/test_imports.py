"""A module whose import ends the process is not tried in every test; anything else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from graders.record import TestResult
from tests.grader.toy import Course, course, task

AGAIN = "not tried again"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    with course(tmp_path_factory.mktemp("course")) as made:
        yield made


def results(toy: Course, double: str) -> list[TestResult]:
    record = toy.grade({"double.py": double})
    assert task(record, "count").status == "passed", "another module is nobody's business"
    return task(record, "double").tests


def test_an_import_that_ends_the_process_is_given_up(toy: Course) -> None:
    tests = results(toy, "import os\nos._exit(3)\n")
    assert len(tests) == 4 and {test.outcome for test in tests} == {"failed"}
    assert all("exit status 3" in test.message for test in tests)
    assert [AGAIN in test.message for test in tests] == [False, False, False, True]
    assert "each time that double.py was imported: after 3 times" in tests[3].message


def test_a_function_that_ends_the_process_is_tried_in_each_test(toy: Course) -> None:
    tests = results(toy, "import os\n\ndef double(x):\n    os._exit(3)\n")
    assert {test.outcome for test in tests} == {"failed"}
    assert not any(AGAIN in test.message for test in tests)


def test_an_import_that_recovers_costs_only_what_it_lost(toy: Course, tmp_path: Path) -> None:
    """Two losses are no proof: the third time the import is tried alone, and passes."""
    tally = tmp_path / "tally"
    tests = results(
        toy,
        "import os\n"
        f"fd = os.open({str(tally)!r}, os.O_CREAT | os.O_APPEND | os.O_RDWR)\n"
        "os.write(fd, b'x')\n"
        "if os.fstat(fd).st_size <= 2:\n    os._exit(3)\n\n"
        "def double(x):\n"
        "    if isinstance(x, str):\n        raise TypeError\n"
        "    return x * 2\n",
    )
    assert [test.outcome for test in tests] == ["failed", "failed", "passed", "passed"]
