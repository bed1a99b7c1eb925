"""Reports from a made-up record: what must be said is said, and student text stays in its place."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from graders.record import Record, TaskResult, TestResult
from graders.report.html import render_html, safe_svg
from graders.report.terminal import (
    Progress,
    make_console,
    print_report,
    shorten_lines,
    total_lines,
)

EVIL = "<script>alert(1)</script>"
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'viewBox="0 0 4 4" width="4pt" height="4pt"><defs><clipPath id="c"><rect width="4" height="4"/>'
    '</clipPath></defs><g clip-path="url(#c)" onload="alert(1)"><path id="p" d="M0 0L4 4" '
    'style="stroke: #000"/><use xlink:href="#p"/></g><script>alert(1)</script>'
    '<image href="https://example.org/x.png"/><foreignObject/><text>a &lt; b</text></svg>'
)


def made_up(hidden: bool = True) -> Record:
    def test(name: str, task: str, outcome: str, see: str = "public", **more: str) -> TestResult:
        return TestResult(name, task, see, outcome=outcome, **more)  # type: ignore[arg-type]

    norm = TaskResult(
        "rms_norm",
        "RMSNorm",
        "cpu",
        40,
        10,
        20,
        "partial",
        [
            test("t::a", "rms_norm", "passed"),
            test(
                "t::b[2]",
                "rms_norm",
                "failed",
                invariant="The mean of squares is one.",
                message="values differ",
                given="x = [1.0, [bold]2]",
                expected="[0.5]",
                got="[0.7] " + "9" * 5000,
                traceback='File "norm.py", line 3\nZeroDivisionError',
                stdout=EVIL + "\x1b[31m\n" + "\n".join(f"line {n}" for n in range(900)),
            ),
            *(
                [
                    test(
                        "t::h[SECRETID]",
                        "rms_norm",
                        "error",
                        "hidden",
                        invariant="Any scale gives the same.",
                        message="SECRET",
                        given="SECRET",
                        expected="SECRET",
                        got="SECRET",
                        traceback="SECRET",
                        stdout="SECRET",
                    )
                ]
                if hidden
                else []
            ),
        ],
    )
    rope = TaskResult(
        "rope",
        EVIL,
        "cpu",
        60,
        0,
        60,
        "failed",
        [test("t::c", "rope", "missing", invariant="Turns keep lengths.")],
        needs=["rms_norm"],
    )
    fast = TaskResult("fast", "Fast decode", "gpu", 20, 0, 10, "not_attempted")
    return Record(
        lab="lab01_token_generation",
        title="Token generation",
        target="labs",
        hidden_present=hidden,
        tasks=[norm, rope, fast],
        plots=[("Roofline", SVG)],
        versions={"torch": "2.13.0"},
        submission_sha256="ab" * 32,
        started="2026-01-02T03:04:05+00:00",
    )


def printed(record: Record, width: int = 100) -> str:
    stream = io.StringIO()
    print_report(record, make_console(stream, width=width))
    return stream.getvalue()


def test_the_terminal_says_what_a_student_needs() -> None:
    text = printed(made_up())
    for part in (
        "The mean of squares is one.",
        "x = [1.0, [bold]2]",
        "[0.5]",
        "ZeroDivisionError",
        "lines left out",
        "builds on rms_norm, which fails: fix that first",
        "10/40",
        "CPU tier  10/100",
        "GPU tier  not attempted (no GPU), worth 20 points",
        "python3 noxfile.py -s lab01 -- --hint --task rms_norm",
        "Turns keep lengths.",
    ):
        assert part in text
    assert "\x1b" not in text
    assert "Any scale" not in text  # the first failure of each task only


def test_open_points_are_said_apart() -> None:
    text = printed(made_up(hidden=False), 80)
    assert "CPU tier  10 of the 80 points that public tests carry\n" in text
    assert "Still to be graded by hidden tests: 20 of 100 points\n" in text
    assert re.search(r"rms_norm .* 10/40 +20  in part\n", text)
    assert re.search(r"fast .* -/20 +-  not attempted\n", text)
    page = render_html(made_up(hidden=False))
    assert "20 still to be graded" in page
    assert "10/100" not in text + page


def test_both_tiers_may_be_open() -> None:
    record = made_up(hidden=False)
    record.tasks[2].status = "to_grade"
    record.tasks[2].earned = 10
    *tiers, last = total_lines(record)
    assert tiers == [
        "CPU tier  10 of the 80 points that public tests carry",
        "GPU tier  10 of the 10 points that public tests carry",
    ]
    assert last == "Still to be graded by hidden tests: 20 of 100 and 10 of 20 points"


def test_a_task_that_only_hidden_tests_know_has_passed_nothing() -> None:
    record = made_up(hidden=False)
    record.tasks[2].status, record.tasks[2].tests = "to_grade", []
    text, page = printed(record, 80), render_html(record)
    assert re.search(r"fast .* 0/0 .* no public test\n", text)
    assert "no public test" in page and "public tests passed" not in text + page


def test_nothing_is_open_where_hidden_tests_ran() -> None:
    assert "to grade" not in printed(made_up())
    assert "to be graded" not in printed(made_up()) + render_html(made_up())


def test_a_nearly_full_mark_does_not_read_as_full() -> None:
    record = made_up()
    record.tasks[0].earned = 39.999
    record.tasks[1].earned = 60
    for text in (printed(record), re.sub(r"<[^>]+>", "", render_html(record))):
        assert "39.99" in text
        assert "99.99" in text
        assert not re.search(r"\b(40 ?/ ?40|100 ?/ ?100|100 of 100)\b", text)


def test_a_test_is_called_public_or_hidden_once() -> None:
    record = made_up()
    for test in record.tasks[0].tests:
        test.id = f"{test.visibility}::{test.id}"
    text = printed(record)
    assert "public test t::b[2]\n" in text
    assert "public::" not in text
    page = render_html(record)
    assert "public test · <code>t::b[2]</code>" in page
    assert "hidden test · <code>t::h[SECRETID]</code>" in page
    assert "SECRETID" not in render_html(record, "feedback")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, printed(made_up(), width).splitlines())) <= width


def test_colour_on_terminals_only() -> None:
    stream = io.StringIO()
    print_report(made_up(), Console(file=stream, force_terminal=True, color_system="standard"))
    assert "\x1b[" in stream.getvalue()
    assert "\x1b[31m\n" not in stream.getvalue().replace("\x1b[0m", "")  # the student's own is gone


def test_a_pipe_gets_no_padding_and_survives_a_narrow_encoding() -> None:
    raw = io.BytesIO()
    record = made_up()
    record.tasks[0].tests[1].message = "half \u2192 whole \udcff"
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_report(record, make_console(stream))
    stream.flush()
    lines = raw.getvalue().decode("ascii").splitlines()
    assert "half ? whole ?" in lines
    assert all(line == line.rstrip() for line in lines)


def test_progress_in_a_pipe_is_plain_lines() -> None:
    stream = io.StringIO()
    with Progress(3, make_console(stream)) as progress:
        progress.task("norm")
        progress.test(True)
        progress.test(False)
        progress.task("rope")
        progress.test(True)
        progress.not_attempted("fast", "not attempted (no GPU)")
        progress.not_attempted("fast", "not attempted (no GPU)")
        progress.task("last")
        progress.test(False)
    assert stream.getvalue().splitlines() == [
        "norm: 1 of 2 tests passed",
        "rope: 1 of 1 tests passed",
        "fast: not attempted (no GPU)",
        "last: 0 of 1 tests passed",
    ]


def test_progress_on_a_terminal_is_one_line_that_goes_away() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=40, color_system=None)
    with Progress(2, console) as progress:
        progress.task("a_task_with_a_name_much_longer_than_this_terminal_is_wide")
        progress.test(True)
    assert "1/2 tests" in stream.getvalue()
    assert "tests passed" not in stream.getvalue()


class Page(HTMLParser):
    """Collects tags and attributes, and checks that tags close in order."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


@pytest.mark.parametrize("audience", ["student", "feedback"])
def test_the_page_runs_nothing_and_asks_for_nothing(audience: str) -> None:
    text = render_html(made_up(), audience)  # type: ignore[arg-type]
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "link", "base", "img"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith(("#", "data:image/png"))
    assert not re.search(r"@import|url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_student_sees_reasons_and_plots() -> None:
    text = render_html(made_up())
    for part in ("The mean of squares is one.", "x = [1.0, [bold]2]", "ZeroDivisionError"):
        assert part in text
    assert "Builds on rms_norm, which fails" in text
    assert "&lt;script&gt;" in text
    assert "<svg" in text
    assert "\x1b" not in text


def test_feedback_says_of_a_hidden_test_its_invariant_alone() -> None:
    text = render_html(made_up(), "feedback")
    assert "Any scale gives the same." in text
    assert "SECRET" not in text
    assert "ZeroDivisionError" not in text  # the submission's words, which may carry hidden inputs
    assert "[0.5]" in text  # a public test's expected value is no secret
    assert "<svg" not in text
    assert "SECRET" in render_html(made_up(), "student")
    with pytest.raises(ValueError, match="audience"):
        render_html(made_up(), "public")  # type: ignore[arg-type]


def test_a_picture_is_reduced_to_drawing() -> None:
    text = safe_svg(SVG, "plot1-")
    assert text is not None
    assert 'href="#plot1-p"' in text
    assert "url(#plot1-c)" in text
    assert "a &lt; b" in text
    for part in ("script", "onload", "example.org", "foreignObject", "pt"):
        assert part not in text.replace("plot1", "").replace("clip-path", "")


@pytest.mark.parametrize(
    "text", ["", "<svg/>", "<html/>", "<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "<"]
)
def test_what_is_no_picture_is_not_drawn(text: str) -> None:
    assert safe_svg(text) is None
    record = made_up()
    record.plots = [("Roofline", text)]
    assert "could not be drawn" in render_html(record)


def test_a_matplotlib_figure_survives() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("svg")
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.loglog([1, 10], [1, 100])
    axes.set_title("Roofline $x^2$")
    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    text = safe_svg(stream.getvalue(), "a-")
    assert text is not None
    assert text.count("<path") > 5
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r' id="([^"]+)"', text))


def test_long_output_keeps_its_ends() -> None:
    text = shorten_lines("\n".join(map(str, range(100))), 10)
    assert text.startswith("0\n1\n")
    assert text.endswith("\n98\n99")
    assert "90 lines left out" in text
