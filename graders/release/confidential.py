"""What a student's release must not hold, read from the course: texts, and where they may stand.

A line that is common property (an import, ``return out``) proves nothing, so lines that the stubs,
the course library or the grader hold too are left out. Somebody could bring a solution into those
very files: three such lines in a row are looked for everywhere, common property or not.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from graders.release.tree import ReleaseError, Tree, of_grader
from graders.sync import SyncError, make_stub, solution_regions

# The shortest text that is looked for as a line of its own, and as a part of a longer one.
SOLUTION = (8, 20)  # solutions, alternatives, mutants
HELPER = (24, 40)  # what hidden tests use; rows of lines are looked for besides
# A short line of a hidden test (`model = tiny()`) could be any test's. Its name and docstring not.
TEST = (40, 60)
DOCSTRING = 16
ROW = 3  # so many lines of a solution in a row
ALLOWED = "graders/release/allowed.txt"

_IMPORT = re.compile(r"(from [\w.]+ import |import [\w.]+$)")
_HIDDEN = re.compile(r"graders/(lab\d+|hidden)/")
# Strings and comments of other files, diffs, quotations and sessions put these before a line.
_MARKS = " \t#>+-*|.`'\""


def normal(line: str) -> str:
    """A line with its whitespace made one blank each, none at the ends."""
    return " ".join(line.split())


def bare(line: str) -> str:
    """A normal line without marks of quotation before or behind it."""
    return line.strip(_MARKS)


@dataclass
class Confidential:
    """Texts by what they are. Every text is normal; values say what is theirs and from where."""

    lines: dict[str, str] = field(default_factory=dict)  # looked for as whole lines
    parts: dict[str, str] = field(default_factory=dict)  # looked for inside of longer lines
    names: dict[str, str] = field(default_factory=dict)  # looked for as words
    rows: dict[tuple[str, ...], str] = field(default_factory=dict)  # lines in a row
    paths: frozenset[str] = frozenset()  # files that only the course has

    def add_line(self, text: str, what: str, shortest: tuple[int, int]) -> None:
        """Look for this line, if it is long enough to mean something."""
        whole, part = shortest
        for form in {text, bare(text)}:
            if len(form) >= whole and re.search(r"\w\W*\w", form):
                self.lines.setdefault(form, what)
        if len(text) >= part:
            self.parts.setdefault(text, what)


def read_confidential(files: Tree, shared: Iterable[str] = ()) -> Confidential:
    """Everything of the course that students must not get.

    ``shared`` are paths of a lab's folder in ``graders/`` that its public tests need.
    Raises ReleaseError if a file of the course cannot be read.
    """
    shared = frozenset(shared)
    texts = {path: _text(path, file.data) for path, file in files.items() if _is_read(path)}
    stubs, found = _stubs(texts), Confidential()
    common = [text for path, text in texts.items() if _is_common(path, texts, shared)]
    common += stubs.values()
    _regions(texts, found)
    for path, text in texts.items():
        if not _HIDDEN.match(path) or path in shared:
            continue
        if path.endswith("mutants.toml"):
            _mutants(path, text, texts, found)
        elif _is_test(path):
            _test_code(path, text, found)
        elif path.endswith(".py"):
            # An alternative keeps the stub's lines; a helper may share some with the library.
            alternative = "/alternatives/" in path
            known = stubs.values() if alternative else common
            _other_code(path, text, found, SOLUTION if alternative else HELPER, known)
    public = [t for p, t in texts.items() if p.startswith("labs/") and _is_test(p)]
    _drop_common_property(common, public, found)
    _drop_allowed(files, found)
    found.paths = frozenset(
        path
        for path in files
        if path.startswith(("solutions/", "tests/", "content/measurements/"))
        or (_HIDDEN.match(path) and path not in shared)
    )
    return found


def _is_read(path: str) -> bool:
    if path.startswith(("solutions/", "graders/", "labs/")) or "/" not in path:
        return path.endswith((".py", ".toml"))
    return False


def _is_test(path: str) -> bool:
    return path.rpartition("/")[2].startswith("test_")


def _text(path: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ReleaseError(f"{path} is not UTF-8: save it as UTF-8") from None


def _stubs(texts: dict[str, str]) -> dict[str, str]:
    try:
        return {
            path: make_stub(text, path)
            for path, text in texts.items()
            if path.startswith("solutions/") and path.endswith(".py")
        }
    except SyncError as error:
        raise ReleaseError(str(error)) from None


def _regions(texts: dict[str, str], found: Confidential) -> None:
    for path, text in texts.items():
        if not path.startswith("solutions/"):
            continue
        lines = text.splitlines()
        for begin, end in solution_regions(text, path):
            region = lines[begin + 1 : end]
            for number, line in enumerate(region, begin + 2):
                what = f"line {number} of {path}, inside a solution"
                found.add_line(normal(line), what, SOLUTION)
            for row in rows_of(region):
                found.rows.setdefault(row, f"lines of a solution in {path}")


def rows_of(lines: Iterable[str]) -> Iterable[tuple[str, ...]]:
    """Each ``ROW`` neighbouring lines, those that are too short left out as if not there."""
    kept = [
        line
        for line in map(bare, map(normal, lines))
        if len(line) >= SOLUTION[0] and not _IMPORT.match(line)
    ]
    return zip(*(kept[start:] for start in range(ROW)), strict=False)


def _code_lines(path: str, text: str, found: Confidential, shortest: tuple[int, int]) -> None:
    for number, line in enumerate(map(normal, text.splitlines()), 1):
        if not _IMPORT.match(line):
            found.add_line(line, f"line {number} of {path}", shortest)


def _test_code(path: str, text: str, found: Confidential) -> None:
    _code_lines(path, text, found, TEST)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.lower().startswith("test"):
            found.names.setdefault(node.name, f"a hidden test of {path}")
        paragraph = normal((ast.get_docstring(node) or "").split("\n\n")[0])
        if len(paragraph) >= DOCSTRING:
            found.parts.setdefault(paragraph, f"what {node.name} of {path} says")


def _other_code(
    path: str, text: str, found: Confidential, shortest: tuple[int, int], known: Iterable[str]
) -> None:
    _code_lines(path, text, found, shortest)
    known_rows = {row for other in known for row in rows_of(other.splitlines())}
    for row in rows_of(text.splitlines()):
        if row not in known_rows:
            found.rows.setdefault(row, f"lines of {path}")


def _mutants(path: str, text: str, texts: dict[str, str], found: Confidential) -> None:
    """Names, what is sought and put there, and the lines that come out: often all but right."""
    try:
        listed = tomllib.loads(text).get("mutant", [])
    except tomllib.TOMLDecodeError as error:
        raise ReleaseError(f"{path}: {error}") from None
    lab = path.split("/")[1]
    for mutant in listed:
        name, module, find, replace = (
            str(mutant.get(key, "")) for key in ("name", "module", "find", "replace")
        )
        if "_" in name:  # a name of one word is a word like any other
            found.names.setdefault(name, f"a mutant of {path}")
        what = f"of the mutant {name} in {path}"
        for line in (*find.splitlines(), *replace.splitlines()):
            found.add_line(normal(line), f"text {what}", SOLUTION)
        for place, solution in texts.items():
            if place.startswith(f"solutions/{lab}_") and place.endswith(f"/{module}"):
                before = set(solution.splitlines())
                for line in solution.replace(find, replace).splitlines():
                    if line not in before:
                        found.add_line(normal(line), f"a line {what}", SOLUTION)


def _is_common(path: str, texts: dict[str, str], shared: frozenset[str]) -> bool:
    """Whether a file was written for everybody.

    A handout, a notebook or a public test is no such file: a line is not common because it stands
    there. Neither is what lies where a stub should; the stub itself is made anew.
    """
    if path in shared or "/" not in path or path.startswith("labs/common/") or of_grader(path):
        return True
    return (
        path.startswith("labs/")
        and not _is_test(path)
        and path.replace("labs/", "solutions/", 1) not in texts
    )


def _drop_common_property(
    common: Sequence[str], public: Sequence[str], found: Confidential
) -> None:
    """Take out what ``common`` text holds; for hidden tests also what ``public`` tests hold."""
    lines = {form for text in common for form in _forms(text)}
    of_tests = lines | {form for text in public for form in _forms(text)}
    flat = "\n".join(normal(text) for text in common)
    flat_tests = flat + "\n" + "\n".join(normal(text) for text in public)
    words = set(re.findall(r"\w+", flat_tests))

    def known(text: str, what: str, plain: Container[str], tests: Container[str]) -> bool:
        return text in (tests if "/test_" in what else plain)

    found.lines = {t: w for t, w in found.lines.items() if not known(t, w, lines, of_tests)}
    found.parts = {t: w for t, w in found.parts.items() if not known(t, w, flat, flat_tests)}
    found.names = {name: what for name, what in found.names.items() if name not in words}


def _drop_allowed(files: Tree, found: Confidential) -> None:
    """Take out the lines that the course's author has looked at and lets go."""
    listed = files[ALLOWED].data.decode("utf-8") if ALLOWED in files else ""
    for line in map(normal, listed.splitlines()):
        if line and not line.startswith("#"):
            for form in (line, bare(line)):
                found.lines.pop(form, None)
            found.parts.pop(line, None)


def _forms(text: str) -> Iterable[str]:
    for line in map(normal, text.splitlines()):
        yield line
        yield bare(line)
