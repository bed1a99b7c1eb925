"""What an attack is, and where all of them are."""

from __future__ import annotations

import importlib
import pkgutil
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

BOTH = ("process", "sandbox")
SANDBOX = ("sandbox",)
# What the untouched part of each submission is worth, and must stay worth.
HONEST = {"honest": 20.0}
# What may be reached. "time": grading took too long; "failed": the grader gave no record at all.
KINDS = (
    "points", "honest", "secret", "listener", "marker", "altered", "killed", "outlived",
    "neighbour", "record", "rendered", "disk", "memory", "time", "failed",
)  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """One submission that attacks.

    ``code`` is the body of a function ``attack(x)`` that the module of ``task`` calls before it
    returns ``answer``; ``before`` stands at the module's top. Both can use everything in ``kit``.
    ``files`` are further files of the submission by name (a module's name replaces that module),
    and ``plant`` puts into its folder what is no regular file.

    ``levels`` are the isolation levels that must stop it. ``earns`` are the points it deserves.
    ``bites`` names a level without the wall that answers it, and the kind of finding it must bring
    there: the proof that the attack is real and that the judge sees it. ``runs`` is false for an
    attack whose code is never reached.
    """

    name: str
    tries: str
    code: str = ""
    before: str = ""
    answer: str = "torch.zeros_like(x)"
    task: str = "double"
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    plant: Callable[[Path], None] | None = None
    levels: tuple[str, ...] = BOTH
    earns: Mapping[str, float] = field(default_factory=lambda: dict(HONEST))
    bites: tuple[str, str] | None = None
    runs: bool = True
    family: int = 0

    @property
    def id(self) -> str:
        """Family and name: ``07/proc_environ``."""
        return f"{self.family:02d}/{self.name}"

    def module(self) -> str:
        """The source of the attacking module."""
        body = textwrap.indent(textwrap.dedent(self.code).strip() or "pass", "    ")
        return MODULE.format(
            before=textwrap.dedent(self.before).strip(),
            body=body,
            function={"double": "double", "stream": "up", "speed": "total"}[self.task],
            answer=self.answer,
        )


MODULE = """\
from .kit import *

{before}

def attack(x):
{body}

def {function}(x):
    ran()
    attack(x)
    return {answer}
"""


@dataclass(frozen=True)
class Family:
    """A row of the table of attacks: its number, what it is, and what answers it."""

    number: int
    title: str
    answer: str
    attacks: tuple[Attack, ...]


def families() -> list[Family]:
    """All families in order. Raises ValueError if two attacks have one name."""
    package = importlib.import_module("graders.adversarial.families")
    found = []
    for info in pkgutil.iter_modules(package.__path__):
        number = int(info.name[1:3])
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        attacks = tuple(Attack(**{**vars(attack), "family": number}) for attack in module.ATTACKS)
        names = [attack.name for attack in attacks]
        if len(set(names)) < len(names):
            raise ValueError(f"{info.name}: two attacks of one name")
        title, _, answer = (module.__doc__ or "").strip().partition("\n\n")
        found.append(Family(number, " ".join(title.split()), " ".join(answer.split()), attacks))
    return found
