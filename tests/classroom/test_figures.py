"""The figures in the instructor's guide are those that were measured."""

from __future__ import annotations

import json
import re

from graders.bench import show
from graders.oracle.grade import ROOT

GUIDE = ROOT / "content" / "instructors.md"


def test_the_guide_says_what_was_measured() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    name = re.search(r"\]\((measurements/[\w-]+-class-cpu\.json)\)", text)
    assert name is not None
    figures = {f["id"]: f for f in json.loads((GUIDE.parent / name[1]).read_text())["figures"]}

    def measured(id: str) -> str:
        return show(figures[id]["value"], figures[id]["unit"])

    two = measured("class.trivial.nbgrader.2").removesuffix(" a minute")
    rows = [
        f"nbgrader's own autograde | {measured('class.trivial.nbgrader.1')} |",
        f"graded here | {measured('class.trivial.ours.1')} |",
        f"and here | {two} and {measured('class.trivial.ours.2')} |",
        f"start of a submission's process | {measured('start.more')} |",
        f"hostile) | {measured('class.students.rate')}, all as planned |",
        f"over its start | {measured('class.memory.growth')} |",
        f"an undisturbed run's | {measured('class.kills.differences')} |",
    ]
    assert [row for row in rows if row not in text] == []
    assert figures["class.students.unplanned"]["value"] == 0
