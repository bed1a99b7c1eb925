"""One lab of many small tasks, most of them handed in wrong: each in a way of its own.

Every task asks for the same function, ``double``, in a module of its own. So one run shows what
each way to misbehave costs, and that the task after it still earns its points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graders.scoring import ExpectedTest, expected_json, make_expected

GOOD = "def double(x):\n    return x * 2\n"
HANGS_S = 1.5


@dataclass(frozen=True)
class Case:
    """A module that is wrong, and words of the message that says so."""

    source: str | bytes | Callable[[Path], None]
    says: str
    hangs: bool = False


def _symlink(path: Path) -> None:
    target = path.with_name("good.py")
    path.symlink_to(target)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inner.py").write_text(GOOD)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"x = 1\n")
        file.truncate(100 * 10**6)


def _body(body: str, before: str = "") -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"import os, sys, torch\n{before}\ndef double(x):\n{lines}"


WRONG = "return torch.zeros_like(x)"

CASES: dict[str, Case] = {
    # -- plain mistakes
    "missing_function": Case("x = 1\n", "has no attribute 'double'"),
    "wrong_signature": Case("def double(): return 1\n", "positional argument"),
    "wrong_type": Case("def double(x): return 'two'\n", "expected a torch.Tensor, got a str"),
    "returns_none": Case("def double(x): pass\n", "expected a torch.Tensor, got a NoneType"),
    "wrong_shape": Case("def double(x): return (x * 2)[None]\n", "wrong shape"),
    "wrong_dtype": Case("def double(x): return (x * 2).double()\n", "wrong dtype"),
    "nan": Case("def double(x): return x * float('nan')\n", "are NaN or Inf"),
    "inf": Case("def double(x): return x + float('inf')\n", "are NaN or Inf"),
    "mutated_input": Case("def double(x): return x.mul_(2)\n", "changed its input in place"),
    "other_device": Case(_body("return torch.empty(3, device='meta')"), "on meta cannot cross"),
    "raises": Case(_body("raise ValueError('odd')"), "ValueError: odd"),
    "not_written": Case(_body("raise NotImplementedError('double')"), "not written yet"),
    # -- modules that cannot be imported
    "syntax_error": Case("def double(x) return x\n", "SyntaxError"),
    "import_error": Case("import no_such_module\n" + GOOD, "No module named 'no_such_module'"),
    "imports_grader": Case("import graders.oracle.checks\n" + GOOD, "graders"),
    "imports_solution": Case("from solutions.lab91_gauntlet import good\n" + GOOD, "solutions"),
    "null_bytes": Case(b"x = '\0'\n" + GOOD.encode(), "null bytes"),
    "latin_1": Case(b"name = 'caf\xe9'\n" + GOOD.encode(), "can't decode byte 0xe9"),
    "exits_at_import": Case("raise SystemExit(0)\n", "SystemExit"),
    "dies_at_import": Case("import os\nos._exit(0)\n", "exit status 0"),
    "symlink": Case(_symlink, "symlink.py is a link"),
    "folder": Case(_folder, "folder.py is a folder"),
    "huge_file": Case(_huge, "huge_file.py is larger than 8 MiB"),
    "absent": Case(lambda path: None, "the submission has no absent.py"),
    # -- objects that lie
    "always_equal": Case(
        _body(
            "return Yes()",
            "class Yes:\n    __eq__ = __ne__ = __le__ = __ge__ = lambda self, other: True\n"
            "    __bool__ = lambda self: True\n    __array__ = lambda self, *a: 1 / 0\n",
        ),
        "expected a torch.Tensor, got a Yes object",
    ),
    "tensor_subclass": Case(
        _body("return (x * 2).as_subclass(T)", "class T(torch.Tensor): pass\n"), "its subclass T"
    ),
    "lying_subclass": Case(
        _body(
            "return torch.zeros(3).as_subclass(T)",
            "class T(torch.Tensor):\n    @classmethod\n"
            "    def __torch_function__(cls, func, types, args=(), kwargs=None): return True\n",
        ),
        "",
    ),
    # -- the process misbehaves
    "infinite_loop": Case(
        _body("while True: pass", "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)"),
        "within the time limit",
        hangs=True,
    ),
    "loop_at_import": Case("while True: pass\n", "within the time limit", hangs=True),
    "deadlock": Case(
        _body(
            "t = threading.Thread(target=lock.acquire)\nt.start()\nt.join()",
            "import threading\nlock = threading.Lock()\nlock.acquire()",
        ),
        "within the time limit",
        hangs=True,
    ),
    "ignores_signals": Case(
        _body(
            "for n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
            "    except (OSError, ValueError): pass\nsignal.pause()",
            "import signal",
        ),
        "within the time limit",
        hangs=True,
    ),
    "os_exit": Case(_body("os._exit(0)"), "exit status 0"),
    "sys_exit": Case(_body("sys.exit(0)"), "SystemExit"),
    "keyboard_interrupt": Case(_body("raise KeyboardInterrupt"), "KeyboardInterrupt"),
    "kills_itself": Case(_body("os.kill(os.getpid(), 11)"), "SIGSEGV"),
    "daemon": Case(
        _body("if os.fork() == 0:\n    os.setsid()\n    while True: pass\nos._exit(3)"),
        "exit status 3",
    ),
    "fork_bomb": Case(_body("while True:\n    try: os.fork()\n    except OSError: pass"), ""),
    "ten_gigabytes": Case(_body("b = bytearray(10 * 10**9)\nreturn x * 2 + len(b)"), "Memory"),
    "three_gibibytes": Case(
        _body("return torch.zeros(1, dtype=torch.uint8).expand(3 * 2**30)"), ""
    ),
    "flood": Case(
        _body("for _ in range(1024): os.write(1, b'x' * 2**20)\nreturn x * 2"),
        "printed more than 64 MiB",
    ),
    "recursion": Case(_body("return double(x)"), "RecursionError"),
    "hostile_exception": Case(
        _body(
            "raise E",
            "class E(Exception):\n    def __str__(self): raise SystemExit('\\ud800')\n",
        ),
        "the exception's own __str__ failed",
    ),
    "surrogate_exception": Case(_body("raise ValueError('\\ud800')"), "ValueError: \\ud800"),
    "junk_on_descriptors": Case(
        _body(
            "for fd in range(3, 21):\n    try: os.write(fd, b'\\xff' * 4096)\n"
            "    except OSError: pass\nreturn x * 2"
        ),
        "no answer",
    ),
    "closes_descriptors": Case(_body("os.closerange(0, 64)\nreturn x * 2"), "without an answer"),
    # -- what is patched here changes no verdict there
    "patches_torch": Case(
        _body(
            WRONG,
            "yes = lambda *a, **k: True\n"
            "torch.allclose = torch.equal = torch.isclose = yes\n"
            "torch.Tensor.__eq__ = torch.Tensor.all = torch.Tensor.equal = yes\n"
            "torch.Tensor.sub = torch.Tensor.abs = torch.Tensor.max = yes\n",
        ),
        "numbers differ",
    ),
    "patches_equal": Case(
        _body("return x.mul_(2)", "torch.equal = lambda *a: True\n"), "changed its input in place"
    ),
    "patches_builtins": Case(
        _body(
            WRONG,
            "import builtins, math\n"
            "builtins.sum = builtins.abs = builtins.max = lambda *a, **k: 0\n"
            "builtins.all = builtins.any = lambda *a: True\n"
            "math.isfinite = math.isclose = lambda *a, **k: True\n",
        ),
        "numbers differ",
    ),
    "patches_pytest": Case(
        _body(
            WRONG,
            "import pytest, _pytest.reports, _pytest.runner\n"
            "_pytest.reports.TestReport.from_item_and_call = classmethod(lambda *a: None)\n"
            "pytest.fail = pytest.raises = lambda *a, **k: None\n",
        ),
        "numbers differ",
    ),
    "patches_grader": Case(
        _body(
            WRONG,
            "for name, module in list(sys.modules.items()):\n"
            "    if name.startswith('graders') and 'wire' not in name:\n"
            "        for key in list(vars(module)):\n"
            "            if 'limit' in key or 'check' in key.lower():\n"
            "                setattr(module, key, lambda *a, **k: True)\n",
        ),
        "numbers differ",
    ),
    "skips": Case(_body("import pytest\npytest.skip('x')"), "Skipped"),
    "exits_pytest": Case(_body("import pytest\npytest.exit('x', 0)"), "Exit: x"),
    "raises_check_passed": Case(
        _body("raise AssertionError", "import atexit\natexit.register(print, 'passed')"),
        "AssertionError",
    ),
}
EVERY = 4  # a good task after each so many bad ones

MANIFEST = """
schema = 1
number = 91
package = "lab91_gauntlet"
title = "Gauntlet"
summary = "Many ways to be wrong."
minutes = 1
preload = ["torch"]
"""
TEST = '''
import json
import pytest
import torch

TASKS = json.loads({tasks!r})


@pytest.mark.parametrize("name", [pytest.param(t, marks=pytest.mark.task(t)) for t in TASKS])
def test_double(student, check, name):
    """Every number of the result is twice the input's."""
    x = torch.arange(3.0)
    module = "good" if name.startswith("good_") else name
    check.close(getattr(student, module).double(x), torch.tensor([0.0, 2.0, 4.0]), given={{"x": x}})
'''


def tasks() -> list[str]:
    """The tasks in order: bad ones, with good ones between them."""
    listed: list[str] = []
    for number, name in enumerate(CASES, 1):
        listed.append(name)
        if number % EVERY == 0 or number == len(CASES):
            listed.append(f"good_{number}")
    return listed


def build(root: Path) -> Path:
    """Write the course under ``root`` and the submission beside it; returns the submission."""
    import json

    lab, grader = root / "labs" / "lab91_gauntlet", root / "graders" / "lab91"
    (root / "labs" / "common").mkdir(parents=True)
    lab.mkdir()
    grader.mkdir(parents=True)
    (root / "labs" / "__init__.py").write_text("")
    (root / "labs" / "common" / "__init__.py").write_text("")
    listed = tasks()
    text = MANIFEST
    points = [round(100 / len(listed), 3)] * (len(listed) - 1)
    points.append(round(100 - sum(points), 3))
    for name, worth in zip(listed, points, strict=True):
        hangs = name in CASES and CASES[name].hangs
        text += (
            f'[[task]]\nid = "{name}"\ntitle = "{name}"\n'
            f'module = "{"good" if name.startswith("good_") else name}"\npoints = {worth}\n'
            f'tier = "cpu"\ntimeout_s = {HANGS_S if hangs else 30}\nhints = ["double"]\n'
        )
    (lab / "lab.toml").write_text(text)
    (lab / "test_public.py").write_text(TEST.format(tasks=json.dumps(listed)))
    (grader / "mutants.toml").write_text("")
    worth = 1 / len(listed)
    expected = {f"public::test_double[{t}]": ExpectedTest(t, worth, "public") for t in listed}
    public, _ = make_expected(expected)
    (lab / "expected.json").write_bytes(expected_json(public))
    folder = root / "submission"
    folder.mkdir()
    (folder / "good.py").write_text(
        "import sys\nprint('loud')\nprint('err', file=sys.stderr)\n" + GOOD
    )
    for name, case in CASES.items():
        path = folder / f"{name}.py"
        if callable(case.source):
            case.source(path)
        else:
            data = case.source.encode() if isinstance(case.source, str) else case.source
            path.write_bytes(data)
    return folder
