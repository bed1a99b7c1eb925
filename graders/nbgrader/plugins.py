"""nbgrader's export plugins: from the gradebook, so with late penalties and manual grades."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbgrader.api import MissingEntry
from nbgrader.plugins import ExportPlugin
from traitlets import Unicode

from graders.nbgrader.exports import Column, canvas_csv, read_roster


class CanvasExport(ExportPlugin):  # type: ignore[misc]
    """``nbgrader export --exporter=graders.nbgrader.plugins.CanvasExport --to=canvas.csv``.

    Options: ``--CanvasExport.roster=FILE`` (Canvas's own export) and ``--CanvasExport.match``.
    """

    roster = Unicode("", help="Canvas's export of the gradebook, to fill in.").tag(config=True)
    match = Unicode("SIS Login ID", help="The roster's column with nbgrader's student ids.").tag(
        config=True
    )

    def export(self, gradebook: Any) -> None:
        """Write the file; a student who handed nothing in has an empty field, not a zero."""
        wanted = [str(name) for name in self.assignment]
        columns = []
        for assignment in gradebook.assignments:
            if wanted and assignment.name not in wanted:
                continue
            scores = {}
            for student in gradebook.students:
                try:
                    submission = gradebook.find_submission(assignment.name, student.id)
                except MissingEntry:
                    continue
                penalty = submission.late_submission_penalty or 0.0
                scores[student.id] = max(0.0, submission.score - penalty)
            columns.append(Column(assignment.name, assignment.max_score, scores))
        roster = read_roster(Path(self.roster)) if self.roster else None
        dest = Path(self.to or "canvas.csv")
        text, absent = canvas_csv(columns, roster, self.match)
        dest.write_text(text, encoding="utf-8", newline="")
        for student in absent:
            self.log.error("%s is not in the roster's column %s", student, self.match)
        self.log.info("Grades for Canvas in %s", dest)
