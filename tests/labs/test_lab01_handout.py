"""The handout of lab 01: its Python sessions print what they say, its tables hold right numbers."""

from __future__ import annotations

import re
import subprocess
import sys

import torch

from graders.lab01 import reference
from graders.manifest import find_lab
from graders.oracle.grade import ROOT
from tests.labs.trees import student_tree

HANDOUT = (ROOT / "labs" / "lab01_token_generation" / "README.md").read_text(encoding="utf-8")
# Runs in the student's tree: takes the sessions from the page, one namespace for all of them.
RUNNER = """
import doctest, re, sys
text = open(sys.argv[1], encoding="utf-8").read()
blocks = re.findall(r"^```python\\n(.*?)^```$", text, re.S | re.M)
session = doctest.DocTestParser().get_doctest("\\n".join(blocks), {}, "handout", sys.argv[1], 0)
runner = doctest.DocTestRunner()
failed, tried = runner.run(session)
print(f"tried {tried} failed {failed}")
"""


def run_sessions(folder, *, solved: bool, change=("", "")) -> tuple[int, int, str]:
    """Examples tried and failed, and the output; ``change`` alters the page first."""
    tree = student_tree(folder, solved=solved)
    page = tree / "README.md"
    assert change[0] in HANDOUT
    page.write_text(HANDOUT.replace(*change), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(page)],
        cwd=tree, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"tried (\d+) failed (\d+)", done.stdout)
    assert found, done.stdout + done.stderr
    return int(found[1]), int(found[2]), done.stdout


def test_sessions_print_what_they_say(tmp_path) -> None:
    tried, failed, said = run_sessions(tmp_path, solved=True)
    assert failed == 0, said
    assert tried == HANDOUT.count("\n>>> ") > 50


def test_a_wrong_number_is_noticed(tmp_path) -> None:
    assert run_sessions(tmp_path, solved=True, change=("0.8485, 2.2627", "0.8485, 2.2628"))[1] == 1


def test_stubs_fail_the_sessions(tmp_path) -> None:
    assert run_sessions(tmp_path, solved=False)[1] > 20


def test_table_of_tasks() -> None:
    rows = re.findall(r"^\| \d \| .+? \| `(\w+)\.py` \| (\d+)(?: extra)? \|", HANDOUT, re.M)
    tasks = find_lab(ROOT, "lab01").tasks
    assert rows == [(task.module, f"{task.points:g}") for task in tasks]


def row_of(label: str) -> list[float]:
    """The numbers of a row of the sampling table; a dash counts as 0."""
    line = next(line for line in HANDOUT.splitlines() if line.lstrip().startswith(label))
    cells = line.lstrip()[len(label) :].split()[:5]
    return [0.0 if cell == "-" else float(cell) for cell in cells]


def test_sampling_step_by_step() -> None:
    logits, previous = row_of("logits  "), [0, 4, 0]
    assert logits == [2, 1, 0.5, 0, -1]
    penalised = [v / 2 if v > 0 and i in previous else v for i, v in enumerate(logits)]
    penalised = [v * 2 if v < 0 and i in previous else v for i, v in enumerate(penalised)]
    assert row_of("1. penalty 2") == penalised
    assert row_of("2. temperature 0.5") == [v / 0.5 for v in penalised]
    settings = {"temperature": 0.5, "top_k": 4, "penalty": 2.0, "previous": previous}

    def rounded(p: list[float]) -> list[float]:
        return [round(x, 4) for x in p]

    p = reference.probabilities(logits, **settings)
    assert row_of("as probabilities") == rounded(p)
    nucleus = reference.probabilities(logits, **settings, top_p=0.8)
    kept = [a if b else 0.0 for a, b in zip(p, nucleus, strict=True)]
    assert row_of("4. top-p 0.8") == rounded(kept)
    assert f"{p[0] + p[1]:.4f} is short of 0.8" in HANDOUT
    final = reference.probabilities(logits, **settings, top_p=0.8, min_p=0.2)
    assert [bool(x) for x in row_of("5. min-p 0.2")] == [bool(x) for x in final]
    assert row_of("renormalised") == rounded(final)


def test_numbers_in_the_text() -> None:
    assert f"its root {12.5**0.5:.4f}" in HANDOUT
    plain = reference.probabilities([2.0, 1.0, 0.5, 0.0, -1.0])
    assert f"0.2 * {plain[0]:.4f} = {0.2 * plain[0]:.4f}: three pass" in HANDOUT
    assert sum(p >= 0.2 * plain[0] for p in plain) == 3
    assert f"largest fp16 number is {torch.finfo(torch.float16).max:.0f}" in HANDOUT
    weights = torch.softmax(torch.tensor([4096.0, 4100.0]), 0)
    assert f"{weights[0]:.0%} and {weights[1]:.0%}".replace("%", " %") in HANDOUT
