"""Every way in which a submission can misbehave: what it costs, and that nothing else is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .toy import Course, course, first_failure, task

BAD_DOUBLE = {
    "missing function": ("x = 1\n", "has no attribute 'double'"),
    "wrong signature": ("def double(): return 1\n", "positional argument"),
    "wrong type": ("def double(x): return 'two'\n", "expected a torch.Tensor"),
    "wrong shape": ("def double(x): return (x * 2)[None]\n", "wrong shape"),
    "wrong dtype": ("def double(x): return (x * 2).double()\n", "wrong dtype"),
    "nan": ("def double(x): return x * float('nan')\n", "NaN or Inf"),
    "inf": ("def double(x): return x + float('inf')\n", "NaN or Inf"),
    "mutated input": ("def double(x): return x.mul_(2)\n", "changed its input in place"),
    "other device": ("import torch\ndef double(x): return torch.empty(3, device='meta')\n", "meta"),
    "always equal": (
        "class Yes:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
        "def double(x): return Yes()\n",
        "expected a torch.Tensor",
    ),
    "tensor subclass": (
        "import torch\nclass T(torch.Tensor): pass\ndef double(x): return (x * 2).as_subclass(T)\n",
        "its subclass T",
    ),
    "syntax error": ("def double(x) return x\n", "SyntaxError"),
    "import error": ("import no_such_module\n", "no_such_module"),
    "infinite loop": (
        "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "def double(x):\n    while True: pass\n",
        "within the time limit",
    ),
    "deadlocked thread": (
        "import threading\nlock = threading.Lock()\nlock.acquire()\n"
        "def double(x):\n    t = threading.Thread(target=lock.acquire); t.start(); t.join()\n",
        "within the time limit",
    ),
    "os._exit": ("import os\ndef double(x): os._exit(0)\n", "exit status 0"),
    "sys.exit": ("import sys\ndef double(x): sys.exit(0)\n", "SystemExit"),
    "kill itself": ("import os\ndef double(x): os.kill(os.getpid(), 11)\n", "SIGSEGV"),
    "10 GB": (
        "def double(x):\n    b = bytearray(10 * 10**9)\n    return x * 2 + len(b)\n",
        "Memory",
    ),
    "flood": (
        "import os\ndef double(x):\n    for _ in range(1024): os.write(1, b'x' * 2**20)\n"
        "    return x * 2\n",
        "printed more than",
    ),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    """One course, its fork servers kept warm."""
    with course(tmp_path_factory.mktemp("course")) as made:
        yield made


@pytest.mark.parametrize("isolation", ["process", "sandbox"])
def test_good_solution_earns_everything(toy: Course, isolation: str) -> None:
    record = toy.grade({}, isolation)
    assert [t.earned for t in record.tasks] == [60.0, 40.0, 0.0]
    assert task(record, "fast").status == "not_attempted"


@pytest.mark.parametrize("name", BAD_DOUBLE)
def test_bad_module_costs_only_its_own_task(toy: Course, name: str) -> None:
    source, message = BAD_DOUBLE[name]
    record = toy.grade({"double.py": source}, "sandbox", stop_after_first_failure=True)
    failure = first_failure(record, "double")
    assert message in failure.message + failure.traceback, failure
    assert task(record, "double").earned < 60
    assert task(record, "count").earned == 40


@pytest.mark.parametrize("isolation", ["process", "sandbox"])
def test_fork_bomb_is_contained(toy: Course, isolation: str) -> None:
    bomb = (
        "import os\ndef double(x):\n"
        "    while True:\n        try: os.fork()\n        except OSError: pass\n"
    )
    record = toy.grade({"double.py": bomb}, isolation, stop_after_first_failure=True)
    assert task(record, "double").earned == 0
    assert task(record, "count").earned == 40


def test_generator_that_never_ends_is_cut_short(toy: Course) -> None:
    record = toy.grade({"count.py": "import itertools\ndef up(n): return itertools.count()\n"})
    assert first_failure(record, "count").message == "not equal"
    assert task(record, "double").earned == 60


def test_async_stream_is_consumed(toy: Course) -> None:
    source = (
        "import asyncio\nasync def up(n):\n"
        "    for i in range(n):\n        await asyncio.sleep(0)\n        yield i\n"
    )
    assert task(toy.grade({"count.py": source}), "count").earned == 40


def test_deleted_working_directory(toy: Course) -> None:
    source = (
        "import os, shutil\ndef up(n):\n"
        "    shutil.rmtree(os.getcwd(), ignore_errors=True)\n    yield from range(n)\n"
    )
    record = toy.grade({"count.py": source})
    assert [t.earned for t in record.tasks] == [60.0, 40.0, 0.0]


def test_output_that_is_not_utf8_is_shown_escaped(toy: Course) -> None:
    source = "import os\ndef up(n):\n    os.write(1, b'caf\\xe9 ')\n    yield 7\n"
    assert "caf\\xe9" in first_failure(toy.grade({"count.py": source}), "count").stdout


def test_traceback_is_the_students_own(toy: Course) -> None:
    source = "def up(n):\n    return helper(n)\n\ndef helper(n):\n    raise ValueError('odd')\n"
    text = first_failure(toy.grade({"count.py": source}), "count").traceback
    assert "helper(n)" in text and "ValueError: odd" in text
    assert "servant.py" not in text and "/stage/" not in text


def test_no_hidden_tests_means_points_still_to_be_graded(tmp_path: Path) -> None:
    with course(tmp_path, hidden=False) as made:
        record = made.grade({})
    assert not record.hidden_present
    assert task(record, "double").earned == 30
    assert task(record, "double").status == "to_grade"


def test_no_such_lab(tmp_path: Path) -> None:
    from graders.manifest import LabNotFound
    from graders.oracle.grade import Grader, Options

    with pytest.raises(LabNotFound, match="lab77"):
        Grader("lab77", Options(), tmp_path)
