"""The small lab that attacks are handed in for, in a folder with everything worth stealing."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from graders.oracle.stage import write_files
from graders.scoring import ExpectedTest, expected_json, make_expected

from .attack import Attack

LAB = "lab93"
PACKAGE = "lab93_target"
POINTS = {"double": 40.0, "stream": 20.0, "speed": 20.0, "honest": 20.0}
TIME_LIMIT_S = {"double": 3, "stream": 4, "speed": 20, "honest": 20}

PUBLIC = '''
import pytest
import torch


@pytest.mark.task("double")
def test_double(student, check):
    """Every number of the result is twice the input's."""
    x = torch.arange(1.0, 6.0)
    check.close(student.double.double(x), 2 * x, given={"x": x})


@pytest.mark.task("honest")
def test_triple(student, check):
    """Three times the number."""
    check.equal(student.honest.triple(7), 21)
'''

# The secrets stand in the oracle's memory as expected values do.
HIDDEN = '''
import pytest
import torch

from graders.oracle.gpu import Measurement, copy_bandwidth, timed

SECRET = "{token}"


@pytest.mark.task("double")
def test_double_any_shape(student, check, rng_seed):
    """Every number of the result is twice the input's, for every shape."""
    generator = torch.Generator().manual_seed(rng_seed)
    for shape in ((3,), (2, 5), (20_011,)):
        x = torch.randn(shape, generator=generator)
        check.close(student.double.double(x), 2 * x, given={{"x": x}})


@pytest.mark.task("stream")
def test_up(student, check):
    """The stream yields 0, 1, 2 and ends."""
    check.equal(list(student.stream.up(3)), [0, 1, 2])


@pytest.mark.task("speed")
def test_total(student, check, note, rng_seed):
    """The total of fresh numbers, in a time that is possible."""
    generator = torch.Generator().manual_seed(rng_seed)
    size, times = 2**20, []
    for _ in range(4):
        x = torch.rand(size, generator=generator)
        seconds, got = timed(lambda: student.speed.total(x))
        check.close(got, x.double().sum().reshape(1), rtol=1e-6)
        times.append(seconds)
    # Far below what the call must read: on a busy CPU the bandwidth may be measured too low.
    measured = Measurement("total", times, bytes_moved=size / 4,
                           copy_bandwidth=copy_bandwidth("cpu"))
    measured.require_possible()


@pytest.mark.task("honest")
def test_triple_of_many(student, check):
    """Three times each number."""
    check.equal([student.honest.triple(n) for n in (-3, 0, 10**12)], [-9, 0, 3 * 10**12])
'''

# An oracle that believes what it is told: with it the judge must find points that nobody earned.
TRUSTING = '''
import pytest


@pytest.mark.task("double")
def test_double(student):
    """Something is returned."""
    assert student.double.double(1.0) is not None


@pytest.mark.task("honest")
def test_triple(student):
    """Three times the number."""
    assert student.honest.triple(7) == 21
'''

RIGHT = {
    "double.py": "def double(x):\n    return x * 2\n",
    "stream.py": "def up(n):\n    yield from range(n)\n",
    "speed.py": "def total(x):\n    return x.double().sum().reshape(1)\n",
    "honest.py": "def triple(n):\n    return 3 * n\n",
}
UNWRITTEN = {
    name: f"{text.splitlines()[0]}\n    raise NotImplementedError\n" for name, text in RIGHT.items()
}
# Whoever comes next: two tasks and the timed one right, the attacked one not done.
NEIGHBOUR = {**RIGHT, "double.py": UNWRITTEN["double.py"]}


class Course:
    """The course's folder. ``token`` is the secret that stands in everything that is one."""

    def __init__(self, root: Path, *, trusting: bool = False) -> None:
        self.root, self.token = root, f"canary-{secrets.token_hex(12)}"
        root.chmod(0o755)
        self._write_lab(trusting)
        # Readable to everybody: only the wall is between an attack and these.
        self._write("solutions/lab93_target/double.py", f"# {self.token}\n{RIGHT['double.py']}")
        self._write("submissions/bob/lab93_target/double.py", f"# {self.token}\n")
        self._write("instructor/gradebook.db", f"SQLite format 3 {self.token}")
        self._write("instructor/keys.json", f'{{"key": "{self.token}"}}')
        self._write("instructor/expected.json", f'["{self.token}"]')
        self._write(".git/objects/ab/cdef", self.token)
        self._write(".git/HEAD", f"ref: refs/heads/solutions # {self.token}\n")

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)

    def _write_lab(self, trusting: bool) -> None:
        manifest = (
            f'schema = 1\nnumber = 93\npackage = "{PACKAGE}"\ntitle = "Target"\n'
            'summary = "A lab to be attacked."\nminutes = 1\npreload = ["torch"]\n'
        )
        for task, points in POINTS.items():
            manifest += (
                f'[[task]]\nid = "{task}"\ntitle = "{task}"\nmodule = "{task}"\npoints = {points}\n'
                f'tier = "cpu"\ntimeout_s = {TIME_LIMIT_S[task]}\nhints = ["think"]\n'
            )
        public = {"test_double": "double", "test_triple": "honest"}
        hidden = {
            "test_double_any_shape": "double", "test_up": "stream", "test_total": "speed",
            "test_triple_of_many": "honest",
        }  # fmt: skip
        tests = {f"public::{n}": ExpectedTest(t, 1, "public") for n, t in public.items()}
        tests |= {f"hidden::{n}": ExpectedTest(t, 1, "hidden") for n, t in hidden.items()}
        listed, unlisted = make_expected(tests)
        self._write("labs/__init__.py", "")
        self._write("labs/common/__init__.py", "")
        self._write(f"labs/{PACKAGE}/lab.toml", manifest)
        self._write(f"labs/{PACKAGE}/test_public.py", TRUSTING if trusting else PUBLIC)
        self._write(f"labs/{PACKAGE}/expected.json", expected_json(listed).decode())
        self._write(f"graders/{LAB}/test_hidden.py", HIDDEN.format(token=self.token))
        self._write(f"graders/{LAB}/expected.json", expected_json(unlisted).decode())

    def hand_in(self, folder: Path, attack: Attack | None, target: dict[str, object]) -> Path:
        """Write an attack's submission, or the neighbour's, into ``folder``."""
        files: dict[str, str | bytes] = dict(NEIGHBOUR)
        if attack is not None:
            files = {**UNWRITTEN, "honest.py": RIGHT["honest.py"]}
            files |= {f"{attack.task}.py": attack.module(), **attack.files}
            files["target.py"] = f"T = {target!r}\n"
        folder.mkdir(parents=True)
        data = {name: c.encode() if isinstance(c, str) else c for name, c in files.items()}
        write_files(folder, data)
        if attack is not None:
            shutil.copyfile(Path(__file__).with_name("kit.py"), folder / "kit.py")
            if attack.plant is not None:
                attack.plant(folder)
        return folder
