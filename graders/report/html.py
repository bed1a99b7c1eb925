"""The report as one page: no script, no outside request, light and dark, fit to print or to
mail.
"""

from __future__ import annotations

import re
from typing import Literal
from xml.etree import ElementTree

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from graders.record import (
    ADVISORY,
    Record,
    TaskResult,
    TestResult,
    for_feedback,
    format_points,
    measured,
    status_word,
    to_grade,
    totals,
)
from graders.report.terminal import (
    failing_needs,
    first_failure,
    needs_line,
    shorten_chars,
    shorten_lines,
    test_name,
    total_lines,
)

Audience = Literal["student", "feedback"]

MAX_FAILURES = 8
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_ELEMENTS = frozenset(
    [
        "svg",
        "g",
        "defs",
        "path",
        "use",
        "rect",
        "circle",
        "ellipse",
        "line",
        "polyline",
        "polygon",
        "text",
        "tspan",
        "title",
        "desc",
        "clipPath",
        "linearGradient",
        "radialGradient",
        "stop",
        "pattern",
        "image",
    ]
)


def safe_svg(text: str, prefix: str = "") -> Markup | None:
    """An SVG picture reduced to drawing, ids prefixed; None for text that is no usable SVG.

    A plot calls student functions, and titles or tick labels may carry their text. So elements
    come from a list, handlers and links that leave the picture go, and only embedded PNGs stay as
    images.
    """
    if "<!ENTITY" in text.upper():
        return None
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None
    if root.tag != f"{_SVG}svg":
        return None

    def own_url(value: str) -> str | None:
        """`url(#x)` with the prefix; None for anything that could leave the page."""
        plain = re.sub(r"url\(\s*#([\w.-]+)\s*\)", "", value, flags=re.ASCII)
        if re.search(r"url|import|expression|javascript|\\|@|:\s*//|/\*", plain, re.IGNORECASE):
            return None
        return re.sub(r"url\(\s*#([\w.-]+)\s*\)", rf"url(#{prefix}\1)", value, flags=re.ASCII)

    def visit(node: ElementTree.Element) -> None:
        for name, value in list(node.attrib.items()):
            del node.attrib[name]
            if name == "id":
                if re.fullmatch(r"[\w.-]+", value, re.ASCII):
                    node.set("id", prefix + value)
            elif name in ("href", _XLINK):
                if re.fullmatch(r"#[\w.-]+", value, re.ASCII):
                    node.set("href", f"#{prefix}{value[1:]}")
                elif node.tag == f"{_SVG}image" and value.startswith("data:image/png;base64,"):
                    node.set("href", value)
            elif not name.startswith(("{", "on")) and name != "class":
                safe = own_url(value)
                if safe is not None:
                    node.set(name, safe)
        for child in list(node):
            local = child.tag.removeprefix(_SVG) if isinstance(child.tag, str) else ""
            if local in _ELEMENTS and child.tag == _SVG + local:
                visit(child)
            else:
                node.remove(child)

    visit(root)
    # Drawn as wide as the page allows; the viewBox keeps the proportions.
    if root.get("viewBox"):
        root.attrib.pop("width", None)
        root.attrib.pop("height", None)
    root.set("role", "img")
    for node in root.iter():
        node.tag = node.tag.removeprefix(_SVG)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    # Safe to mark: built from the lists above, and ElementTree escaped its text and attributes.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _failures(task: TaskResult) -> tuple[list[tuple[TestResult, int]], int]:
    """(failing tests to show with how many share the invariant, how many more there are)."""
    failing = [t for t in task.tests if t.outcome in ("failed", "error", "missing")]
    first = first_failure(task)
    failing.sort(key=lambda t: t is not first)
    groups: dict[object, list[TestResult]] = {}
    for test in failing:
        # The cases of one test share its sentence; the first one is the smallest and says enough.
        key = (test.visibility, test.invariant) if test.invariant else test.id
        groups.setdefault(key, []).append(test)
    shown = [(tests[0], len(tests)) for tests in groups.values()]
    return shown[:MAX_FAILURES], max(0, len(shown) - MAX_FAILURES)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}" if whole else "0"


def page_template(package: str, name: str) -> Template:
    """A package's template of a page; it may extend ``page.html``, which every report's does."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("graders.report", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render_html(record: Record, audience: Audience = "student") -> str:
    """The page. audience "feedback" is for a graded submission's author: hidden tests say their
    invariant alone.
    """
    if audience not in ("student", "feedback"):
        raise ValueError(f'audience is "student" or "feedback", not {audience!r}')
    if audience == "feedback":
        record = for_feedback(record)
    tasks = []
    for task in record.tasks:
        failures, more = _failures(task)
        pending = to_grade(task, record.hidden_present)
        tasks.append(
            {
                "task": task,
                "status": status_word(task),
                "earned": format_points(task.earned, task.points),
                "points": format_points(task.points),
                "pending": format_points(pending) if pending else "",
                "earned_width": _percent(task.earned, task.points),
                "pending_width": _percent(pending, task.points),
                "passed": sum(t.outcome == "passed" for t in task.tests),
                "needs": needs_line(needs) if (needs := failing_needs(task, record.tasks)) else "",
                "failures": failures,
                "more": more,
            }
        )
    cpu, gpu = totals(record, "cpu"), totals(record, "gpu")
    head = cpu if cpu.points else gpu
    plots = [
        (title, safe_svg(svg, f"plot{number}-"))
        for number, (title, svg) in enumerate(record.plots, 1)
    ]
    return page_template("graders.report", "template.html").render(
        record=record,
        audience=audience,
        tasks=tasks,
        lines=total_lines(record),
        head_earned=format_points(head.earned, head.points - head.to_grade),
        head_points=format_points(head.points - head.to_grade),
        head_tier="CPU tier" if cpu.points else "GPU tier",
        head_pending=format_points(head.to_grade) if head.to_grade else "",
        plots=plots,
        # A record's times are UTC; a page is read by people.
        started=re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*\+00:00$", r"\1 \2 UTC", record.started),
        measured=measured(record),
        advisory=ADVISORY,
        value=shorten_chars,
        block=shorten_lines,
        name=test_name,
    )
