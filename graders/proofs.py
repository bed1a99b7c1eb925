"""Proofs of a lab: stubs earn nothing, right answers everything, wrong ones lose what they should.

Grading runs in a pool of processes, each with a grader of its own, so that the libraries are
imported once a process and not once a variant.
"""

from __future__ import annotations

import ast
import multiprocessing
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from graders.manifest import Manifest, find_lab, lab_directories
from graders.oracle.grade import ROOT, GradeError, Grader, Options
from graders.record import Record
from graders.report.terminal import make_console


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A wrong solution: one edit of one module, the tasks it must lose, and the mistake it is."""

    name: str
    module: str
    find: str
    replace: str
    fails: tuple[str, ...]
    why: str


class MutantList(msgspec.Struct, forbid_unknown_fields=True):
    """The mutants of a lab.

    ``costly`` names tasks whose tests take long (they run a whole model): they are graded only with
    mutants of their own module, and with those that list them.
    """

    mutant: tuple[Mutant, ...] = ()
    costly: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One thing to grade: a target, perhaps with modules laid over it, perhaps with an edit."""

    name: str
    target: str
    overlay: Path | None = None
    mutant: Mutant | None = None
    only: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Verdict:
    """What came out: points, and the tasks that were attempted and those not fully earned."""

    points: float
    attempted: tuple[str, ...]
    lost: tuple[str, ...]


def all_labs() -> list[str]:
    """The labs of this tree, by number."""
    return [folder.name.split("_")[0] for folder in lab_directories(ROOT)]


def load_mutants(lab: str) -> tuple[Mutant, ...]:
    """The mutants of a lab, each checked to apply exactly once to its module. Raises GradeError."""
    return _mutant_list(lab).mutant


def _mutant_list(lab: str) -> MutantList:
    manifest = find_lab(ROOT, lab)
    path = ROOT / "graders" / manifest.name / "mutants.toml"
    if not path.exists():
        raise GradeError(
            f"there is no {path.relative_to(ROOT)}: in a student's release mutants are left out, "
            "in the course it is a file to write (see CONTRIBUTING.md)"
        )
    try:
        listed = msgspec.toml.decode(path.read_bytes(), type=MutantList)
    except (msgspec.DecodeError, tomllib.TOMLDecodeError) as error:
        raise GradeError(f"{path.relative_to(ROOT)}: {error}") from None
    tasks = {task.id for task in manifest.tasks}
    names: set[str] = set()
    if set(listed.costly) - tasks:
        raise GradeError(
            f"{path.relative_to(ROOT)}: costly names {listed.costly}, known are {sorted(tasks)}"
        )
    for mutant in listed.mutant:
        here = f"{path.relative_to(ROOT)}: mutant {mutant.name!r}"
        if mutant.name in names:
            raise GradeError(f"{here} is there twice; give one another name")
        names.add(mutant.name)
        source = ROOT / "solutions" / manifest.package / mutant.module
        if not source.is_file():
            raise GradeError(f"{here}: the solution has no module {mutant.module!r}")
        found = source.read_text(encoding="utf-8").count(mutant.find)
        if found != 1:
            raise GradeError(f"{here} must apply exactly once, but its text is there {found} times")
        if not mutant.fails or set(mutant.fails) - tasks:
            raise GradeError(f"{here} names tasks {mutant.fails}, known are {sorted(tasks)}")
    return listed


def reach(manifest: Manifest, costly: Sequence[str] = ()) -> dict[str, set[str]]:
    """For each module file of the solution, the tasks it can matter to.

    A task sees its own module and those of the tasks it builds on, and whatever these import; a
    ``costly`` one is left out unless the module is its own.
    """
    folder = ROOT / "solutions" / manifest.package
    imports: dict[str, set[str]] = {}
    for path in folder.glob("*.py"):
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                found |= {node.module} if node.module else {alias.name for alias in node.names}
        imports[path.stem] = found
    by_id = {task.id: task for task in manifest.tasks}
    tasks_of: dict[str, set[str]] = {name: set() for name in imports}
    for task in manifest.tasks:
        modules: set[str] = set()
        todo, needs = [task.module], list(task.needs)
        while needs:
            need = by_id[needs.pop()]
            todo.append(need.module)
            needs += need.needs
        while todo:
            name = todo.pop().split(".")[0]
            if name in imports and name not in modules:
                modules.add(name)
                todo += imports[name]
        for name in modules:
            if task.id not in costly or name == task.module.split(".")[0]:
                tasks_of[name].add(task.id)
    return {f"{name}.py": tasks for name, tasks in tasks_of.items()}


# In a pool process: its grader, and the lab it is for.
_grader: Grader | None = None


def _open(lab: str) -> None:
    global _grader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)  # several of these share the cores
    _grader = Grader(lab, Options(stop_after_first_failure=True))


def _grade(job: Job) -> Verdict:
    assert _grader is not None
    _grader.options.only, _grader.options.device = job.only, job.device
    with tempfile.TemporaryDirectory() as folder:
        overlay = job.overlay
        if job.mutant is not None:
            overlay = Path(folder)
            module = job.mutant.module
            source = ROOT / "solutions" / _grader.manifest.package / module
            text = source.read_text(encoding="utf-8")
            (overlay / module).write_text(
                text.replace(job.mutant.find, job.mutant.replace), encoding="utf-8"
            )
        record = _grader.run(job.target, overlay=overlay)
    return Verdict(sum(t.earned for t in record.tasks), *_tasks(record))


def _tasks(record: Record) -> tuple[tuple[str, ...], tuple[str, ...]]:
    attempted = [task for task in record.tasks if task.status != "not_attempted"]
    lost = [task.id for task in attempted if task.status in ("failed", "partial")]
    return tuple(task.id for task in attempted), tuple(lost)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Progress]:
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = make_console(sys.stderr)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        bar.add_task(title, total=total)
        yield bar


def grade_all(lab: str, jobs: Sequence[Job], processes: int) -> list[Verdict]:
    """The verdicts of all jobs, in their order."""
    context = multiprocessing.get_context("spawn")
    verdicts: dict[int, Verdict] = {}
    pool = ProcessPoolExecutor(processes, context, initializer=_open, initargs=(lab,))
    try:
        with _bar(lab, len(jobs)) as bar:
            waiting = {pool.submit(_grade, job): number for number, job in enumerate(jobs)}
            for done in as_completed(waiting):
                verdicts[waiting[done]] = done.result()
                bar.advance(bar.task_ids[0])
    finally:
        pool.shutdown(cancel_futures=True)
    return [verdicts[number] for number in range(len(jobs))]


def alternatives(lab: str) -> list[Path]:
    """The folders of differently written right answers."""
    folder = ROOT / "graders" / find_lab(ROOT, lab).name / "alternatives"
    return sorted(p for p in folder.glob("*") if p.is_dir() and p.name != "__pycache__")


def prove(labs: Sequence[str], processes: int = 2, device: str = "cpu") -> int:
    """Stubs earn 0 in every task, solutions and alternatives earn everything. Prints; 0 if so.

    An alternative is graded on the tasks that can see one of its modules.

    On a GPU (``device`` "cuda", or "auto" where there is one) stubs and solutions face the GPU tier
    too, one after the other, since it measures. Alternatives need not be fast.
    """
    if not (ROOT / "solutions").is_dir():
        raise GradeError(
            "this tree holds no solutions/: it is a student's release. "
            "Grade your own work with `grade`"
        )
    failed = 0
    for lab in labs or all_labs():
        manifest = find_lab(ROOT, lab)
        matters = reach(manifest)
        jobs = [
            Job("stubs", "labs", device=device),
            Job("solution", "solution", device=device),
        ]
        for folder in alternatives(lab):
            seen = set().union(*(matters.get(path.name, set()) for path in folder.glob("*.py")))
            only = tuple(t.id for t in manifest.tasks if t.tier == "cpu" and t.id in seen)
            jobs.append(Job(f"alternative {folder.name}", "solution", overlay=folder, only=only))
        verdicts = grade_all(lab, jobs, 1 if device != "cpu" else processes)
        for job, verdict in zip(jobs, verdicts, strict=True):
            if job.name == "stubs":
                good = verdict.points == 0 and verdict.lost == verdict.attempted
            else:
                good = not verdict.lost
            failed += not good
            lost = "" if job.name == "stubs" or good else f", lost {', '.join(verdict.lost)}"
            of = f" in {', '.join(verdict.attempted)}" if job.only else ""
            points = f"{verdict.points:g} points{of}{lost}"
            print(f"{'ok  ' if good else 'FAIL'} {lab} {job.name}: {points}")
    return 1 if failed else 0


def mutants(labs: Sequence[str], processes: int = 2) -> int:
    """Print the kill matrix; every mutant must lose exactly the tasks it is listed for. 0 if so."""
    wrong = total = 0
    for lab in labs or all_labs():
        manifest, made = find_lab(ROOT, lab), _mutant_list(lab)
        listed = made.mutant
        tasks = [task.id for task in manifest.tasks if task.tier == "cpu"]
        matters = reach(manifest, made.costly)
        jobs = [
            Job(
                mutant.name,
                "solution",
                mutant=mutant,
                # What the module cannot reach is not graded again for each of its mutants.
                only=tuple(t for t in tasks if t in matters[mutant.module] or t in mutant.fails),
            )
            for mutant in listed
        ]
        width = max((len(mutant.name) for mutant in listed), default=0)
        legend = ", ".join(f"{number} {task}" for number, task in enumerate(tasks, 1))
        print(f"\n{lab}: columns are tasks: {legend}")
        for mutant, verdict in zip(listed, grade_all(lab, jobs, processes), strict=True):
            cells = " ".join(_cell(task, verdict.lost, mutant.fails) for task in tasks)
            good = sorted(verdict.lost) == sorted(mutant.fails)
            wrong, total = wrong + (not good), total + 1
            said = "killed" if good else f"WRONG: lost {', '.join(verdict.lost) or 'nothing'}"
            print(f"  {mutant.name:<{width}}  {cells}  {said}")
    print(
        f"\n{total - wrong} of {total} mutants lose exactly the tasks they are listed for "
        "(x killed, - survived, ! not listed)"
    )
    return 1 if wrong else 0


def _cell(task: str, lost: Iterable[str], listed: Iterable[str]) -> str:
    return {(True, True): "x", (True, False): "!", (False, True): "-", (False, False): "."}[
        task in lost, task in listed
    ]
