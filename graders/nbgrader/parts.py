"""Which files of the course an assignment or an autograder zip holds. Needs no nbgrader, nbformat
or torch: it runs in a lab's own environment too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

GRADER = Path(__file__).resolve().parents[1]
ROOT = GRADER.parent
# Megabytes of weights, handed in again by every student: only where a lab needs them.
WEIGHTS = "tiny_models"
_USES_WEIGHTS = re.compile(
    r"common\.(tiny_models|perplexity)\b|common import .*(tiny_models|perplex)"
)


class CourseError(RuntimeError):
    """The course cannot be written; the message names the thing, the cause and the mend."""


def use_weights(files: Iterable[Path]) -> bool:
    """Whether any of the files imports the trained models."""
    return any(_USES_WEIGHTS.search(file.read_text(encoding="utf-8")) for file in files)
