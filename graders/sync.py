"""Write the students' stubs from the solutions: one source, and a test that proves it.

A stub module is its solution with every region between `### BEGIN SOLUTION` and `### END
SOLUTION` replaced by one `raise NotImplementedError`. A stub that somebody has edited is their
work, and is never overwritten unasked.
"""

from __future__ import annotations

import ast
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

BEGIN = "### BEGIN SOLUTION"
END = "### END SOLUTION"


class SyncError(Exception):
    """Markers that do not pair up, or a stub that holds somebody's work."""


def solution_regions(text: str, file: str) -> list[tuple[int, int]]:
    """(begin, end) line indices of the marker lines, counting from 0."""
    regions: list[tuple[int, int]] = []
    begin: int | None = None
    for index, line in enumerate(text.splitlines()):
        bare = line.strip()
        if bare == BEGIN:
            if begin is not None:
                raise SyncError(
                    f"{file}:{index + 1}: `{BEGIN}` inside the region opened at line {begin + 1}; "
                    f"close that one first; regions do not nest."
                )
            begin = index
        elif bare == END:
            if begin is None:
                raise SyncError(f"{file}:{index + 1}: `{END}` without a `{BEGIN}` before it.")
            regions.append((begin, index))
            begin = None
        elif BEGIN in line or END in line:
            raise SyncError(f"{file}:{index + 1}: a marker stands on a line of its own, alone.")
    if begin is not None:
        raise SyncError(f"{file}:{begin + 1}: `{BEGIN}` is never closed by `{END}`.")
    return regions


def _function_at(tree: ast.Module, line: int) -> str | None:
    """The qualified name of the innermost function (or class) around a line, counting from 1."""
    names: list[str] = []

    def descend(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            end = getattr(child, "end_lineno", None)
            if end is None or not child.lineno <= line <= end:  # type: ignore[attr-defined]
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.append(child.name)
            descend(child)

    descend(tree)
    return ".".join(names) or None


def make_stub(text: str, file: str = "<solution>") -> str:
    """The stub's text for a solution module's text. Raises SyncError naming file and line."""
    regions = solution_regions(text, file)
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise SyncError(f"{file}:{error.lineno}: not valid Python: {error.msg}.") from None
    lines = text.splitlines()
    out: list[str] = []
    cursor = 0
    for begin, end in regions:
        out += lines[cursor:begin]
        marker = lines[begin]
        indent = marker[: len(marker) - len(marker.lstrip())]
        # A closing marker at the very end of a body lies behind the body's last statement, so ask
        # for the region's first line of code.
        body = next(
            (i for i in range(begin + 1, end) if lines[i].strip() and lines[i].strip()[0] != "#"),
            None,
        )
        if body is None:
            raise SyncError(f"{file}:{begin + 1}: the region is empty; there is nothing to solve.")
        name = _function_at(tree, body + 1)
        if name is None:
            raise SyncError(
                f"{file}:{begin + 1}: a region outside any function, so the stub could not even be "
                f"imported. Move it into a function's body."
            )
        out.append(f'{indent}raise NotImplementedError("{name}: your code here")')
        cursor = end + 1
    out += lines[cursor:]
    stub = "\n".join(out) + "\n"
    try:
        ast.parse(stub)
    except SyntaxError as error:
        raise SyncError(
            f"{file}: the stub is not valid Python ({error.msg}, line {error.lineno} of the stub). "
            f"A region must cover whole statements."
        ) from None
    return stub


def _pairs(root: Path) -> Iterable[tuple[Path, Path]]:
    """(solution, stub) for each module of each lab."""
    solutions = root / "solutions"
    for package in sorted(path for path in solutions.glob("lab[0-9]*") if path.is_dir()):
        for source in sorted(package.rglob("*.py")):
            if "__pycache__" not in source.parts:
                yield source, root / "labs" / source.relative_to(solutions)


def _head(root: Path, path: Path) -> str | None:
    """The text of a file in git's HEAD; None where git does not have it."""
    relative = path.relative_to(root).as_posix()
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "show", f"HEAD:./{relative}"],
            capture_output=True,
            check=False,
        )
    except OSError:  # no git on this machine
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return None


def _same(left: str | None, right: str | None) -> bool:
    """Equal but for the ends of lines, which git may rewrite at checkout."""
    return left is not None and right is not None and left.splitlines() == right.splitlines()


def _write(path: Path, text: str) -> None:
    """All or nothing: an interrupted sync leaves the old stub whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".sync-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync(root: Path, check: bool = False, force: bool = False) -> list[Path]:
    """Write `labs/<package>/*.py` from `solutions/<package>/*.py`; the paths that differed,
    relative to root.

    check: write nothing, only say what differs. force: overwrite even stubs that hold uncommitted
    work. Nothing at all is written if one stub must not be: SyncError names each of them.
    """
    root = Path(root).resolve()
    stale: list[tuple[Path, str]] = []
    refused: list[str] = []
    for source, target in _pairs(root):
        shown = source.relative_to(root).as_posix()
        stub = make_stub(source.read_text(encoding="utf-8"), shown)
        there = _read(target)
        if _same(there, stub):
            continue
        stale.append((target, stub))
        # Committed text can be had back from git; anything else is somebody's work.
        if there is not None and not _same(there, _head(root, target)):
            refused.append(target.relative_to(root).as_posix())
    if not check:
        if refused and not force:
            raise SyncError(
                "these stubs hold work that is not in git's HEAD, so nothing was written: "
                + ", ".join(refused)
                + ". Commit or move it, or overwrite it with `nox -s sync -- --force`."
            )
        for target, stub in stale:
            _write(target, stub)
    return [target.relative_to(root) for target, _ in stale]
