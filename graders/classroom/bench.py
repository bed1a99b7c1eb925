"""Measure the grading of a class: ``bench --class``. Real commands, in processes of their own.

Four parts: submissions a minute beside nbgrader's; a made-up class of every kind graded, each as
planned, its memory watched; a class whose run is killed again and again; and, from the grader's own
bench, what the sandbox costs a worker's start. Nothing here depends on how fast the machine is;
figures to keep need it idle.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import functools
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from graders.bench import Figure, Step, Target, Unmeasured, sampled, sandbox_start, tree_bytes
from graders.classroom import trivial
from graders.classroom.made_up import Plan, make_class
from graders.classroom.summary import Row
from graders.manifest import find_lab
from graders.oracle.grade import ROOT

LAB = "lab02"
_ROUNDS = 2  # turns of each side
_LIMIT_S = 3 * 3600.0  # ends a bench that would hang; no figure depends on it
_EACH_S = 1.0  # between two looks at the memory
_COMMAND = (
    "import sys; from pathlib import Path; from graders import cli; "
    "cli.ROOT = Path(sys.argv[1]); sys.exit(cli.main(sys.argv[2:]))"
)


@dataclass(frozen=True)
class Sizes:
    """How much to measure."""

    notebooks: int = 10  # for nbgrader, each side and turn half of them
    trivial: int = 200
    starts: int = 100
    students: int = 300
    killed: int = 100
    kills: int = 10


QUICK = Sizes(notebooks=2, trivial=8, starts=5, students=9, killed=7, kills=2)


def steps(*, quick: bool, seed: int = 0) -> dict[str, Step]:
    """The parts, by the name that ``--part`` takes."""
    sizes = QUICK if quick else Sizes()
    return {
        "throughput": functools.partial(throughput, sizes),
        "start": functools.partial(sandbox_start, sizes.starts),
        "students": functools.partial(made_up_class, sizes, seed),
        "kills": functools.partial(killed, sizes, seed),
    }


# -- processes -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder with a signing key of its own."""
    with tempfile.TemporaryDirectory(prefix="inferlab-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def _running(command: Sequence[str], top: Path, **more: Any) -> Iterator[psutil.Popen]:
    """A Python process that does not outlive the block, its output in ``top``/log."""
    # nbgrader starts `alembic` by name, in whatever environment it is.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    environment = {
        **os.environ, "PATH": path, "INFERLAB_KEY": str(top / "key.json"), "HOME": str(top),
        "IPYTHONDIR": str(top / "ipython"), "JUPYTER_DATA_DIR": str(top / "jupyter"),
    }  # fmt: skip
    with (top / "log").open("ab") as log:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        process = psutil.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, **options | more
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _run(command: Sequence[str], top: Path) -> None:
    with _running(command, top) as process:
        _end(process, top)


def _grading(root: Path, theirs: Path, lab: str, out: Path, jobs: int) -> list[str]:
    """The command that grades a class, as ``python -m graders class``, in any tree."""
    return [
        "-c", _COMMAND, str(root), "class", str(theirs), "--lab", lab, "--out", str(out),
        "--device", "cpu", "--jobs", str(jobs),
    ]  # fmt: skip


def _end(process: psutil.Popen, top: Path) -> None:
    """Wait; raises Unmeasured, with the end of its output, unless all went well."""
    code = process.wait(_LIMIT_S)
    if code != 0:
        lines = (top / "log").read_text(errors="replace").splitlines()
        raise Unmeasured(f"a process ended with {code}: {' / '.join(lines[-3:])}")


def _journal(out: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's journal; the last one may be torn."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for line in (out / "journal.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


# -- beside nbgrader -------------------------------------------------------------------------------


def throughput(sizes: Sizes) -> list[Figure]:
    """Submissions a minute of both graders, one after the other and two at once, by turns."""
    try:
        import nbgrader  # noqa: F401 - only whether it is there
    except ImportError:
        raise Unmeasured("nbgrader is not installed here: use `python3 noxfile.py -s bench`") from (
            None
        )
    notebooks = max(1, sizes.notebooks // _ROUNDS)
    submissions = max(2, sizes.trivial // _ROUNDS)
    theirs: dict[int, list[float]] = {1: [], 2: []}
    ours: dict[int, list[float]] = {1: [], 2: []}
    with _folder() as top:
        trivial.write_lab(top / "tree")
        for turn in range(_ROUNDS):
            for at_once in (1, 2):
                name = f"{turn}-{at_once}"
                theirs[at_once].append(_nbgrader(top, name, notebooks, at_once))
                ours[at_once].append(_ours(top, name, submissions, at_once))
    figures = []
    for at_once, how in ((1, "one at a time"), (2, "two at once")):
        for who, values in (("nbgrader", theirs), ("ours", ours)):
            label = "nbgrader's autograde" if who == "nbgrader" else "this, in the sandbox"
            figures.append(
                sampled(
                    f"class.trivial.{who}.{at_once}", f"five trivial tests, {how}: {label}",
                    "a minute", values[at_once],
                )
            )  # fmt: skip
        pairs = [a / b for a, b in zip(ours[at_once], theirs[at_once], strict=True)]
        ratio = sampled(
            f"class.trivial.ratio.{at_once}", f"five trivial tests, {how}: this over nbgrader",
            "ratio", pairs, Target("at least", 10.0),
        )  # fmt: skip
        ratio.note = "the samples are the ratios of neighbouring runs"
        figures.append(ratio)
    return figures


def _nbgrader(top: Path, name: str, notebooks: int, at_once: int) -> float:
    """Notebooks a minute, after each process has graded one that does not count."""
    module = ["-m", trivial.__name__]
    courses = [top / f"nbgrader-{name}-{number}" for number in range(at_once)]
    for course in courses:
        course.mkdir()
        _run([*module, "make", str(course), str(notebooks + 1)], top)
    with contextlib.ExitStack() as stack:
        running = []
        for course in courses:
            output = stack.enter_context((course / "out.jsonl").open("wb"))
            command = [*module, "grade", str(course)]
            running.append(stack.enter_context(_running(command, top, stdout=output)))
        for process in running:
            _end(process, top)
    rate = 0.0
    for course in courses:
        lines = [json.loads(line) for line in (course / "out.jsonl").read_text().splitlines()]
        rights = [float(trivial.MOST - trivial.is_wrong(n)) for n in range(notebooks + 1)]
        if (scores := [line["score"] for line in lines]) != rights:
            raise Unmeasured(f"nbgrader gave {scores} points and not {rights}")
        rate += 60 * notebooks / sum(line["seconds"] for line in lines[1:])
    return rate


def _ours(top: Path, name: str, submissions: int, jobs: int) -> float:
    """Submissions a minute, after as many as there are slots, which do not count."""
    theirs, out = top / f"class-{name}", top / f"out-{name}"
    trivial.hand_in_to_us(theirs, submissions + jobs)
    _run(_grading(top / "tree", theirs, trivial.LAB, out, jobs), top)
    for number, row in enumerate(_rows(out)):
        right = 100 - 20 * trivial.is_wrong(number)
        if row.status != "graded" or row.points != right:
            raise Unmeasured(f"{row.student}: {row.status}, {row.points} points and not {right}")
    done = [
        datetime.datetime.fromisoformat(line["at"])
        for line in _journal(out)
        if line["event"] == "done"
    ]
    return 60 * submissions / (done[-1] - done[jobs - 1]).total_seconds()


def _rows(out: Path) -> list[Row]:
    summary = json.loads((out / "summary.json").read_bytes())
    return msgspec.convert(summary["rows"], list[Row])


# -- a class of every kind -------------------------------------------------------------------------


def made_up_class(sizes: Sizes, seed: int) -> list[Figure]:
    """Grade it, and compare every student's state and points with the plan."""
    with _folder() as top:
        plans = _class_for(top / "class", sizes.students, seed)
        out = top / "out"
        began = time.perf_counter()
        with _running(_grading(ROOT, top / "class", LAB, out, 2), top) as process:
            everything, lasting = _watch(process)
            _end(process, top)
        seconds = time.perf_counter() - began
        rows = {row.student: row for row in _rows(out)}
        done = [line for line in _journal(out) if line["event"] == "done"]
    wrong = [
        f"{student} ({plan.kind}: {plan.what}): {differs}"
        for student, plan in plans.items()
        if (differs := plan.differs(rows[student]) if student in rows else "lost")
    ]
    kinds = Counter(plan.kind for plan in plans.values())
    what = f"{len(plans)} submissions of {LAB}"
    unplanned = sampled(
        "class.students.unplanned", f"{what}: lost, failed or not as planned", "", [len(wrong)],
        Target("at most", 0),
    )  # fmt: skip
    unplanned.note = "; ".join(wrong) or ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    rate = sampled("class.students.rate", f"{what}: graded", "a minute", [60 * len(rows) / seconds])
    each = sampled(
        "class.students.seconds", f"{what}: one of them", "s", [line["seconds"] for line in done],
        p95=True,
    )  # fmt: skip
    return [unplanned, rate, each, *_memory(everything, lasting)]


def _class_for(folder: Path, students: int, seed: int) -> dict[str, Plan]:
    if not (ROOT / "solutions" / find_lab(ROOT, LAB).package).is_dir():
        raise Unmeasured("this tree holds no solutions: it is a student's release")
    return make_class(folder, find_lab(ROOT, LAB), students, seed)


def _watch(process: psutil.Popen) -> tuple[list[float], list[float]]:
    """GiB of all processes (PSS); of the parent and the largest slot with its fork server (RSS).

    These last while submissions come and go. One slot, because at the end, when there is nothing
    left to grade, the others are gone.
    """
    everything, lasting = [], []
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < _LIMIT_S:
        used, _ = tree_bytes(process)
        with contextlib.suppress(psutil.NoSuchProcess):  # just ended
            slots = [_resident([slot, *slot.children()]) for slot in process.children()]
            if used and slots:
                everything.append(used / 2**30)
                lasting.append((_resident([process]) + max(slots)) / 2**30)
        time.sleep(_EACH_S)
    return everything, lasting


def _resident(processes: Sequence[psutil.Process]) -> int:
    return sum(process.memory_info().rss for process in processes)


def _memory(everything: list[float], lasting: list[float]) -> list[Figure]:
    """The lasting processes' memory over time. The first tenth, in which they import, is left out
    of the comparison.
    """
    warm = lasting[len(lasting) // 10 :]
    third = max(1, len(warm) // 3)
    middle = (len(warm) - third) // 2
    parts = {"start": warm[:third], "middle": warm[middle:][:third], "end": warm[-third:]}
    figures = []
    for name, samples in parts.items():
        figures.append(
            sampled(
                f"class.memory.{name}",
                f"memory of parent and one slot (RSS), {name}",
                "GiB",
                samples,
            )
        )
    growth = sampled(
        "class.memory.growth", "memory of parent and one slot, end over start", "ratio",
        [statistics.median(parts["end"]) / statistics.median(parts["start"])],
        Target("at most", 1.1),
    )  # fmt: skip
    peak = sampled("class.memory.all", "memory of all processes (PSS), peak", "GiB", everything)
    peak.value = max(peak.samples)
    peak.note = "the largest sample; submissions that fill their memory are among them"
    return [*figures, growth, peak]


# -- kills -----------------------------------------------------------------------------------------


def killed(sizes: Sizes, seed: int) -> list[Figure]:
    """Grade a class undisturbed, and again with kill -9 at random; both must end the same."""
    with _folder() as top:
        plans = _class_for(top / "class", sizes.killed, seed)
        graded = sum(plan.status == "graded" for plan in plans.values())
        enough = sorted(random.Random(seed).sample(range(graded * 9 // 10), sizes.kills))

        def grading(out: str) -> list[str]:
            return _grading(ROOT, top / "class", LAB, top / out, 2)

        _run(grading("undisturbed"), top)
        after = _kill_at_random(lambda: _running(grading("killed"), top), top / "killed", enough)
        _run(grading("killed"), top)
        wrong = differences(top / "undisturbed", top / "killed")
        twice = graded_again(_journal(top / "killed"))
    what = f"{sizes.killed} submissions, {len(after)} kills"
    kills = sampled("class.kills", f"{what}: submissions graded before each kill", "", after)
    return [
        kills,
        _none(f"{what}: grades that differ from an undisturbed run's", "differences", wrong),
        _none(f"{what}: submissions graded twice", "twice", twice),
    ]


def _none(what: str, name: str, found: Sequence[str]) -> Figure:
    figure = sampled(f"class.kills.{name}", what, "", [len(found)], Target("at most", 0))
    figure.note = "; ".join(found)
    return figure


def _kill_at_random(
    start: Callable[[], contextlib.AbstractContextManager[psutil.Popen]],
    out: Path,
    enough: Sequence[int],
) -> list[float]:
    """Start, and kill when so many are graded and a little later; how many there were then."""
    draw = random.Random(len(enough))
    after: list[float] = []
    for wanted in enough:
        with start() as process:
            began = time.monotonic()
            while process.poll() is None and time.monotonic() - began < _LIMIT_S:
                lines = _journal(out)
                working = any(x["event"] == "start" and x["run"] == process.pid for x in lines)
                if working and sum(x["event"] == "done" for x in lines) >= wanted:
                    break
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 1))
            if process.poll() is None:
                process.kill()  # -9: nothing can be said or tidied up
                after.append(sum(x["event"] == "done" for x in _journal(out)))
    if len(after) < len(enough):
        raise Unmeasured(f"the run ended before it was killed {len(enough)} times")
    return after


# What is another in each run: when, how long, and whether it was taken from the store.
_RUNS_OWN = {"seconds", "graded_now", "per_minute"}
_ROWS_OWN = {"seconds", "graded", "origin"}


def differences(one: Path, other: Path) -> list[str]:
    """How two runs' grades.csv and summary.json differ, times apart."""
    tables, pages = [], []
    for out in (one, other):
        with (out / "grades.csv").open(newline="", encoding="utf-8") as file:
            tables.append([_without(row, _ROWS_OWN) for row in csv.DictReader(file)])
        page = _without(json.loads((out / "summary.json").read_bytes()), _RUNS_OWN)
        pages.append(page | {"rows": [_without(row, _ROWS_OWN) for row in page["rows"]]})
    pairs = itertools.zip_longest(*tables)
    found = [f"grades.csv: {a} and {b}" for a, b in pairs if a != b]
    return found + [f"summary.json: {key}" for key in pages[0] if pages[0][key] != pages[1][key]]


def _without(fields: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def graded_again(journal: Sequence[dict[str, Any]]) -> list[str]:
    """Keys that were started or done after they had been done."""
    done: set[str] = set()
    again = []
    for line in journal:
        if line["event"] in ("start", "done"):
            if line["key"] in done:
                again.append(line["key"])
            if line["event"] == "done":
                done.add(line["key"])
    return again
