"""The handout of lab 01: the numbers of its sampling table and of its text."""

from __future__ import annotations

import torch

from graders.lab01 import reference
from graders.oracle.grade import ROOT

HANDOUT = (ROOT / "labs" / "lab01_token_generation" / "README.md").read_text(encoding="utf-8")


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
