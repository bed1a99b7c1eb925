"""The documents that are written for a release: its README and its AGENTS.md."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from graders.manifest import Manifest
from graders.record import format_points
from graders.release.tree import ReleaseError, Tree

SHARED_SECTION = "A CPU-only torch"  # of the course's README, word for word


def _render(template: str, **values: object) -> bytes:
    # Autoescaping is for HTML; this is Markdown, from the course's own manifests.
    environment = Environment(
        loader=PackageLoader("graders.release", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(template).render(**values).encode()


def agents(labs: Sequence[Manifest], *, complete: bool) -> bytes:
    """What AI assistants are asked to do: tutor, not solve."""
    return _render("agents.md.jinja", first=labs[0].name, complete=complete)


def readme(files: Tree, labs: Sequence[Manifest]) -> bytes:
    """The student's README, from the manifests of the labs."""
    return _render(
        "readme.md.jinja",
        labs=labs,
        cell=lambda text: text.replace("|", "\\|"),
        points=_points,
        hours=lambda lab: f"{lab.minutes / 60:.2g}",
        torch_section=_section(files, SHARED_SECTION),
    )


def _points(lab: Manifest) -> str:
    gpu = lab.points("gpu")
    extra = f" + {format_points(gpu)} on a GPU" if gpu else ""
    return format_points(lab.points("cpu")) + extra


def _section(files: Tree, title: str) -> str:
    """A section of the course's README, as one of the second level."""
    text = files["README.md"].data.decode("utf-8") if "README.md" in files else ""
    found = re.search(rf"^##+ {re.escape(title)}\n.*?(?=^#+ |\Z)", text, re.M | re.S)
    if found is None:
        raise ReleaseError(f"the course's README.md has no section {title!r}: put it back")
    return re.sub(r"^##+", "##", found[0].strip())
