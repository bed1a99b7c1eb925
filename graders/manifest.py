"""Read a lab's manifest, `labs/<package>/lab.toml`: the only place where points are written.

Every way in which a manifest can be wrong ends in a `ManifestError` that names the file, the key,
the cause and what to do about it, because the person who reads it is usually writing their first
lab.
"""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

SCHEMA = 1
CPU_POINTS = 100.0
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*\Z")


class ManifestError(Exception):
    """A manifest that cannot be used: where, why, and what mends it."""

    def __init__(self, file: Path, key: str, cause: str, mend: str) -> None:
        self.file, self.key, self.cause, self.mend = file, key, cause, mend
        where = f"{file}: {key}" if key else f"{file}"
        super().__init__(f"{where}: {cause}. {mend}.")


class LabNotFound(LookupError):
    """No lab goes by that name; the message lists the labs there are."""


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One graded task. `needs` are the tasks it builds on; `timeout_s` is wall clock in seconds."""

    id: str
    title: str
    module: str
    points: float
    tier: Literal["cpu", "gpu"]
    timeout_s: float
    hints: tuple[str, ...]
    needs: tuple[str, ...] = ()


class Plot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A picture of the report: `call` is `module:function` inside the lab's package."""

    title: str
    call: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as written; `Manifest` is what the rest of the grader sees."""

    schema: int
    number: int
    package: str
    title: str
    summary: str
    minutes: int
    task: tuple[Task, ...]
    preload: tuple[str, ...] = ()
    plot: tuple[Plot, ...] = ()


class Manifest(msgspec.Struct, frozen=True):
    """A checked manifest. `directory` is the lab's folder, `minutes` the time a reader should
    plan.
    """

    number: int
    package: str
    title: str
    summary: str
    minutes: int
    preload: tuple[str, ...]
    tasks: tuple[Task, ...]
    plots: tuple[Plot, ...]
    directory: Path

    @property
    def name(self) -> str:
        """The short name of the session, `lab01`."""
        return f"lab{self.number:02d}"

    def task(self, task_id: str) -> Task:
        """The task with this id. Raises KeyError naming the tasks there are."""
        for task in self.tasks:
            if task.id == task_id:
                return task
        known = ", ".join(task.id for task in self.tasks)
        raise KeyError(f"{self.name} has no task {task_id!r}; its tasks are {known}")

    def points(self, tier: str) -> float:
        """Points of a tier, "cpu" or "gpu"."""
        return math.fsum(task.points for task in self.tasks if task.tier == tier)


def _key(path: str, data: dict[str, Any]) -> str:
    """`$.task[2].points` as `[[task]] "rope": points`, which a reader can find in the file."""
    path = path.removeprefix("$").removeprefix(".")
    found = re.match(r"(task|plot)\[(\d+)\]\.?(.*)", path)
    if not found:
        return path
    table, index, rest = found[1], int(found[2]), found[3]
    try:
        entry = data[table][index]
        label = repr(str(entry.get("id") or entry.get("title") or f"number {index + 1}"))
    except (AttributeError, IndexError, KeyError, TypeError):
        label = f"number {index + 1}"
    return f"[[{table}]] {label}" + (f": {rest}" if rest else "")


def _from_msgspec(file: Path, data: dict[str, Any], error: Exception) -> ManifestError:
    message, _, path = str(error).partition(" - at ")
    key = _key(path.strip("`"), data)
    names = re.findall(r"`([^`]+)`", message)
    if "missing required field" in message:
        return ManifestError(file, key, f"the key `{names[0]}` is missing", "Add it")
    if "unknown field" in message:
        fields = Task if "[[task]]" in key else Plot if "[[plot]]" in key else _File
        known = ", ".join(fields.__struct_fields__)
        return ManifestError(
            file, key, f"the key `{names[0]}` is unknown", f"Known here are: {known}"
        )
    if key.endswith("tier"):
        return ManifestError(file, key, "the tier is unknown", 'Write "cpu" or "gpu"')
    cause = message[:1].lower() + message[1:].replace("`", "")
    return ManifestError(file, key, cause, "Write a value of the expected type")


def load_manifest(path: Path) -> Manifest:
    """Read and check a `lab.toml` (or the lab folder that holds one). Raises ManifestError."""
    path = Path(path)
    file = path / "lab.toml" if path.is_dir() else path
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(
            file, "", "there is no such file", "Every lab has a lab.toml; see CONTRIBUTING"
        ) from None
    except UnicodeDecodeError:
        raise ManifestError(file, "", "the file is not UTF-8", "Save it as UTF-8") from None
    except OSError as error:
        raise ManifestError(
            file, "", f"the file cannot be read ({error.strerror})", "Check its permissions"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(file, "", f"not valid TOML: {error}", "Mend the syntax there") from None
    schema = data.get("schema")
    if type(schema) is int and schema != SCHEMA:
        raise ManifestError(
            file, "schema", f"version {schema} is unknown", f"This grader reads schema = {SCHEMA}"
        )
    try:
        raw = msgspec.convert(data, _File, strict=True)
    except msgspec.ValidationError as error:
        raise _from_msgspec(file, data, error) from None
    _check(file, raw)
    return Manifest(
        number=raw.number,
        package=raw.package,
        title=raw.title,
        summary=raw.summary,
        minutes=raw.minutes,
        preload=raw.preload,
        tasks=raw.task,
        plots=raw.plot,
        directory=file.parent,
    )


def _check(file: Path, raw: _File) -> None:
    """What types cannot say. The first fault found is raised."""

    def fail(key: str, cause: str, mend: str) -> None:
        raise ManifestError(file, key, cause, mend)

    if raw.number < 1:
        fail("number", f"{raw.number} is not a lab number", "Labs count from 1")
    if not _IDENTIFIER.match(raw.package) or not raw.package.startswith(f"lab{raw.number:02d}_"):
        fail(
            "package",
            f"{raw.package!r} does not fit lab number {raw.number}",
            f'Write a name like "lab{raw.number:02d}_something"',
        )
    folder = file.parent.name
    if re.match(r"lab\d", folder) and folder != raw.package:
        fail("package", f"{raw.package!r} lies in a folder called {folder!r}", "Rename one of them")
    for name in raw.preload:
        if not all(part.isidentifier() for part in name.split(".")):
            fail("preload", f"{name!r} is no module", 'Write names like "torch"')
    if raw.minutes < 1:
        fail("minutes", f"{raw.minutes} is not a duration", "Write a positive number of minutes")
    for key in ("title", "summary"):
        if not getattr(raw, key).strip():
            fail(key, "the text is empty", "Say it in a few words")
    if not raw.task:
        fail("task", "there is no task", "Add at least one [[task]]")
    seen: set[str] = set()
    for task in raw.task:
        here = f"[[task]] {task.id!r}"
        if not _IDENTIFIER.match(task.id):
            fail(f"{here}: id", "not a usable id", "Use lower-case letters, digits and _")
        if task.id in seen:
            fail(f"{here}: id", "this id is used twice", "Give every task an id of its own")
        seen.add(task.id)
        if not task.title.strip():
            fail(f"{here}: title", "the text is empty", "Say it in a few words")
        if not all(part.isidentifier() for part in task.module.split(".")):
            fail(f"{here}: module", f"{task.module!r} is no module", 'Write it like "norm"')
        if not math.isfinite(task.points) or task.points <= 0:
            fail(f"{here}: points", f"{task.points} is not a number of points", "Write one above 0")
        if not math.isfinite(task.timeout_s) or task.timeout_s <= 0:
            fail(
                f"{here}: timeout_s",
                f"{task.timeout_s} is not a time limit",
                "Write a number of seconds above 0",
            )
        if not task.hints or not all(hint.strip() for hint in task.hints):
            fail(f"{here}: hints", "there are no hints", "Write one or more, gentlest first")
    _check_needs(file, raw.task)
    total = math.fsum(task.points for task in raw.task if task.tier == "cpu")
    if not math.isclose(total, CPU_POINTS, abs_tol=1e-9):
        fail(
            "[[task]]: points",
            f"the CPU tier adds up to {total:g} points, not {CPU_POINTS:g}",
            "Change points until it does; the GPU tier comes on top",
        )
    for plot in raw.plot:
        module, _, function = plot.call.partition(":")
        if not (module.isidentifier() and function.isidentifier()):
            fail(
                f"[[plot]] {plot.title!r}: call",
                f"{plot.call!r} is no call",
                'Write "module:function"',
            )


def _check_needs(file: Path, tasks: tuple[Task, ...]) -> None:
    by_id = {task.id: task for task in tasks}
    for task in tasks:
        for need in task.needs:
            if need not in by_id:
                raise ManifestError(
                    file,
                    f"[[task]] {task.id!r}: needs",
                    f"there is no task {need!r}",
                    f"Tasks are: {', '.join(by_id)}",
                )
    done: set[str] = set()

    def visit(task_id: str, trail: tuple[str, ...]) -> None:
        if task_id in trail:
            circle = " -> ".join([*trail[trail.index(task_id) :], task_id])
            raise ManifestError(
                file,
                f"[[task]] {task_id!r}: needs",
                f"tasks need each other in a circle ({circle})",
                "Take one of these needs out",
            )
        if task_id not in done:
            for need in by_id[task_id].needs:
                visit(need, (*trail, task_id))
            done.add(task_id)

    for task in tasks:
        visit(task.id, ())


def lab_directories(root: Path) -> list[Path]:
    """Folders under `labs/` that hold a lab.toml, sorted by name."""
    return sorted(file.parent for file in (Path(root) / "labs").glob("*/lab.toml"))


def _number(folder: Path) -> int | None:
    prefix = re.match(r"lab(\d+)", folder.name, re.ASCII)
    return int(prefix[1]) if prefix else None


def find_lab(root: Path, name: str) -> Manifest:
    """The manifest of the lab called "lab01", "1", "01" or by its package name.

    Raises LabNotFound, listing the labs there are, or ManifestError for the lab that was meant.
    """
    folders = lab_directories(root)
    wanted = str(name).strip().lower().rstrip("/").rpartition("/")[2]
    number = re.fullmatch(r"(?:lab[_-]?)?(\d+)", wanted, re.ASCII)
    found = [folder for folder in folders if folder.name == wanted]
    if number and not found:
        found = [f for f in folders if _number(f) == int(number[1])]
    if len(found) > 1:
        raise LabNotFound(
            f"{name!r} is the number of {len(found)} labs, "
            + " and ".join(folder.name for folder in found)
            + ". Give each lab a number of its own, or say which one by its whole name."
        )
    if found:
        return load_manifest(found[0] / "lab.toml")
    there = "\n".join(f"  {folder.name.partition('_')[0]}  {folder.name}" for folder in folders)
    raise LabNotFound(
        f"there is no lab {name!r}. "
        + (f"The labs there are:\n{there}" if there else "There are no labs under labs/ at all.")
    )
