"""A made-up class: submissions of every kind, and what each must come to.

Made from a lab's solution, stubs and mutants, the same for the same seed, no two alike. A plan is a
state and, for each task of the CPU tier, the least and the most points it may earn. What a kind
does to a task follows from the modules it touched: a task whose module imports none of them is
untouched and earns everything, whatever happens in the others.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from graders.classroom.summary import Row, Status
from graders.manifest import Manifest
from graders.oracle.grade import ROOT
from graders.oracle.stage import python_files
from graders.proofs import load_mutants

KINDS = ("correct", "half done", "mutant", "broken", "hostile", "unreadable")
WEIGHTS = (36, 32, 14, 10, 5, 3)

# Appended to a module, and whether the module can then still be used: yes, no, or that depends.
HOSTILE: dict[str, tuple[str, bool | None]] = {
    "exits": ("import os\nos._exit(0)", False),
    "kills process 1": ("import os, signal\nos.kill(1, signal.SIGKILL)", None),
    "leaves a process": (
        "import os, time\nif os.fork() == 0:\n    os.setsid(), time.sleep(600), os._exit(0)",
        True,
    ),
    "patches": ("import builtins\nbuiltins.isinstance = lambda *a: True", None),
    "floods": ("print('x' * 10**8)", False),
    "fills memory": ("hog = [bytearray(2**24) for _ in range(10**6)]", False),
    "forks": ("import os\nwhile True:\n    os.fork()", None),
    "hangs": ("while True:\n    pass", False),
}
# These take seconds of the machine in every test that imports them: only where few tests do.
_COSTLY = ("floods", "fills memory", "forks", "hangs")
_UNREADABLE = ("an empty folder", "a link", "no archive")


@dataclass
class Plan:
    """What a submission must come to. ``tasks``: id to the least and the most share of points."""

    kind: str
    what: str = ""
    status: Status = "graded"
    tasks: dict[str, tuple[float, float]] = field(default_factory=dict)

    def differs(self, row: Row) -> str:
        """How a student's row is not as planned; empty if it is."""
        if row.status != self.status:
            return f"{row.status} and not {self.status}: {row.reason}"
        if self.status == "graded":
            earned = {task.id: task.earned / task.points for task in row.tasks}
            for task, (least, most) in self.tasks.items():
                if not least - 1e-9 <= earned[task] <= most + 1e-9:
                    return f"{task} earned {earned[task]:.2f} and not {least:.2f} to {most:.2f}"
        return ""


_FULL, _NONE, _ANY = (1.0, 1.0), (0.0, 0.0), (0.0, 1.0)
_NOT_FULL = (0.0, 0.999)


class _Lab:
    """What submissions are made of."""

    def __init__(self, manifest: Manifest) -> None:
        self.solution = python_files(ROOT / "solutions" / manifest.package)
        self.stubs = python_files(ROOT / "labs" / manifest.package)
        self.mutants = load_mutants(manifest.name)
        self.tasks = {t.id: t.module + ".py" for t in manifest.tasks if t.tier == "cpu"}
        self.modules = sorted(set(self.tasks.values()))
        imports = {name: set(_imports(data)) for name, data in self.solution.items()}
        self.uses = {name: _closure(name, imports) for name in self.modules}

    def planned(
        self, touched: Collection[str], then: tuple[float, float]
    ) -> dict[str, tuple[float, float]]:
        """``then`` for the tasks whose module is or imports one of ``touched``; all of the rest."""
        hit = set(touched)
        return {
            task: then if self.uses[module] & hit else _FULL for task, module in self.tasks.items()
        }

    def tasks_below(self, module: str) -> int:
        """How many tasks a module brings down."""
        return sum(module in self.uses[other] for other in self.tasks.values())


def _imports(data: bytes) -> Iterator[str]:
    """The lab's own modules that a module imports."""
    for node in ast.walk(ast.parse(data)):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            yield node.module.replace(".", "/") + ".py"


def _closure(name: str, imports: dict[str, set[str]]) -> set[str]:
    found, todo = set(), [name]
    while todo:
        here = todo.pop()
        if here not in found:
            found.add(here)
            todo += imports.get(here, ())
    return found


def make_class(folder: Path, manifest: Manifest, students: int, seed: int) -> dict[str, Plan]:
    """Write a class into ``folder``; returns each student's plan. Needs the lab's solution."""
    lab, draw = _Lab(manifest), random.Random(seed)
    # Each kind once, and each hostile one: a small class is a mixed one, too.
    kinds = [*KINDS, *["hostile"] * (len(HOSTILE) - 1)][:students]
    kinds += draw.choices(KINDS, WEIGHTS, k=students - len(kinds))
    draw.shuffle(kinds)
    cheap = [name for name in HOSTILE if name not in _COSTLY]
    hostile = [*_COSTLY, *draw.sample(cheap, len(cheap))]  # taken from the end
    plans = {}
    for number, kind in enumerate(kinds):
        student = f"s{number:04d}"
        if kind == "unreadable":
            plans[student] = _unreadable(folder / student, manifest, draw.choice(_UNREADABLE))
            continue
        files = dict(lab.solution)
        name = ""
        if kind == "hostile":
            name = hostile.pop() if hostile else draw.choice(list(HOSTILE))
        plans[student] = _make(kind, name, files, lab, draw)
        package = folder / student / manifest.package
        package.mkdir(parents=True)
        for path, data in files.items():
            (package / path).write_bytes(data + f"\n# {number}\n".encode())
    return plans


def _make(kind: str, hostile: str, files: dict[str, bytes], lab: _Lab, draw: random.Random) -> Plan:
    """Change ``files`` into a submission of this kind."""
    module = draw.choice(lab.modules)
    if kind == "half done":
        names = draw.sample(lab.modules, draw.randint(1, len(lab.modules) - 1))
        files |= {name: lab.stubs[name] for name in names}
        own = {task: _NONE for task, name in lab.tasks.items() if name in names}
        return Plan(kind, f"{len(names)} stubs", tasks=lab.planned(names, _ANY) | own)
    if kind == "mutant":
        mutant = draw.choice(lab.mutants)
        text = files[mutant.module].decode()
        files[mutant.module] = text.replace(mutant.find, mutant.replace).encode()
        tasks = lab.planned((), _ANY) | dict.fromkeys(mutant.fails, _NOT_FULL)
        return Plan(kind, mutant.name, tasks={t: tasks[t] for t in lab.tasks})
    if kind == "broken":
        if draw.random() < 0.5:
            files[module] += b"\ndef broken(:\n"
        else:
            del files[module]
        return Plan(kind, module, tasks=lab.planned([module], _NONE))
    if kind == "hostile":
        if hostile in _COSTLY:
            module = min(lab.modules, key=lab.tasks_below)
        text, usable = HOSTILE[hostile]
        files[module] += f"\n{text}\n".encode()
        then = {True: _FULL, False: _NONE, None: _ANY}[usable]
        return Plan(kind, f"{hostile} in {module}", tasks=lab.planned([module], then))
    return Plan(kind, tasks=lab.planned((), _FULL))


def _unreadable(place: Path, manifest: Manifest, what: str) -> Plan:
    """Something that cannot be graded."""
    if what == "no archive":
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".zip").write_bytes(b"PK\3\4, but no archive")
    else:
        place.mkdir(parents=True)
        if what == "a link":
            (place / manifest.package).mkdir()
            (place / manifest.package / "notes.py").symlink_to("/etc/hostname")
    return Plan("unreadable", what, status="rejected")
