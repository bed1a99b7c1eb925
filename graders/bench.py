"""Measure the grader itself: what crossing the wall costs, and how long a student waits.

Every figure is a ratio, or a cost for one call, byte or run, and each comparison is made within one
run, its sides taking turns, because a machine's speed changes with its load. The raw samples are
kept as JSON; ``content/measurements/README.md`` describes the format.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from graders.manifest import Manifest, find_lab, lab_directories
from graders.oracle.grade import ROOT, GradeError
from graders.oracle.proxy import Connection, Student
from graders.oracle.stage import make_stage
from graders.oracle.workers import ForkServer, InlineWorker, Worker, spawn_request
from graders.worker.limits import Limits

SCHEMA = 1
LEVELS = ("none", "process", "sandbox")
_MIB = 2**20
_PACKAGE = "bench_probe"
_RUN_LIMIT_S = 900.0
_RESULT_LINE = re.compile(r"\w+: \d+ of \d+ tests passed")

# What the worker runs. `read` looks at every byte, so that no transfer is counted before it is
# done; `kept` gives back a tensor made beforehand, so that making it is not counted.
_PROBE = """
import torch

def add(a, b):
    return a + b

def same(x):
    return x

def read(x):
    return int(x.view(torch.int64).sum())

made = {}

def make(n):
    made[n] = torch.arange(n, dtype=torch.int64)

def kept(n):
    return made[n]
"""


@dataclass(frozen=True)
class Target:
    """What a figure should come to."""

    bound: Literal["at most", "at least"]
    value: float


@dataclass
class Figure:
    """One measured figure; ``value`` is the samples' median unless ``note`` says otherwise."""

    id: str
    what: str
    unit: str  # "ms", "s", "GB/s", "GiB", "a minute", "ratio", or empty for a count
    value: float
    samples: list[float]
    target: Target | None = None
    extra: dict[str, float] = field(default_factory=dict)  # such as p95, in the same unit
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        if self.target.bound == "at most":
            return self.value <= self.target.value
        return self.value >= self.target.value


@dataclass(frozen=True)
class Missing:
    """A figure that could not be measured, and why."""

    what: str
    why: str


class Unmeasured(RuntimeError):
    """This figure cannot be had here; the message says why and what mends it."""


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    quick: bool = False
    labs: tuple[str, ...] = ()

    @property
    def rounds(self) -> int:
        """Turns of each side of a comparison of small costs."""
        return 3 if self.quick else 10

    @property
    def calls(self) -> int:
        """Calls in one turn."""
        return 50 if self.quick else 200

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tensor sizes in MiB."""
        return (1, 16) if self.quick else (1, 16, 256)

    @property
    def repeats(self) -> int:
        """Runs of each side of a comparison of whole programs."""
        return 1 if self.quick else 3


Step = Callable[[], list[Figure]]


def main(
    json_file: Path | None = None,
    *,
    quick: bool = False,
    labs: Sequence[str] = (),
    parts_of_class: Sequence[str] | None = None,
) -> int:
    """Measure, print the table, write the JSON; 0 unless a figure could not be measured.

    ``parts_of_class``: measure the grading of a class instead, these parts of it or all of them.
    """
    if parts_of_class is None:
        steps = _steps(quick, labs)
    else:
        from graders.classroom.bench import steps as all_parts

        parts = all_parts(quick=quick)
        if unknown := set(parts_of_class) - set(parts):
            raise GradeError(f"--part {min(unknown)}: there are {', '.join(parts)}")
        steps = [(f"class: {name}", parts[name]) for name in parts_of_class or parts]
    path = json_file or _default_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    load_before = os.getloadavg()[0]
    for figures, missing in _measure(steps):
        document = {
            "schema": SCHEMA,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "quick": quick,
            "machine": machine(),
            "load_1min": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
            "nice": os.nice(0),
            "versions": versions(),
            "figures": [_plain(figure) for figure in figures],
            "not_measured": [asdict(gap) for gap in missing],
        }
        path.write_text(to_json(document), encoding="utf-8")
    _console().print(table(figures, missing))
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    print(f"Raw samples written to {shown}")
    return 1 if missing else 0


def _steps(quick: bool, labs: Sequence[str]) -> list[tuple[str, Step]]:
    names = [find_lab(ROOT, lab).name for lab in labs]
    plan = Plan(quick, tuple(names or [path.name.split("_")[0] for path in lab_directories(ROOT)]))
    steps: list[tuple[str, Step]] = [
        ("fork server", lambda: fork_server(plan)),
        ("calls and tensors", lambda: crossing(plan)),
    ]
    for lab in plan.labs[:1] if plan.quick else plan.labs:
        steps.append((f"{lab}: wall time", functools.partial(wall_time, plan, lab)))
        steps.append((f"{lab}: memory", functools.partial(memory, plan, lab)))
    first = plan.labs[0]
    steps.append((f"{first}: result after a save", lambda: after_save(plan, first)))
    if not plan.quick:  # a whole second run is longer than all of a quick bench
        steps.append((f"nox -s {first}", lambda: second_run(plan, first)))
    return steps


def _measure(
    steps: Sequence[tuple[str, Step]],
) -> Iterator[tuple[list[Figure], list[Missing]]]:
    """All figures so far, after each step: what ends a long run takes none of them along."""
    figures: list[Figure] = []
    missing: list[Missing] = []
    if problem := _sandbox_problem():
        missing.append(Missing("the sandbox", problem))
    with _progress(len(steps)) as begin:
        for what, step in steps:
            begin(what)
            try:
                figures += step()
            except Unmeasured as error:
                missing.append(Missing(what, str(error)))
            yield figures, missing


# -- one call, one tensor --------------------------------------------------------------------------


def fork_server(plan: Plan) -> list[Figure]:
    """From starting the fork server, which imports torch, to the first answer of a worker."""
    samples = []
    with _probe_stage() as (stage, folder):
        for _ in range(plan.repeats):
            server = ForkServer(ROOT, ("torch",))
            started = time.perf_counter()
            try:
                worker = server.spawn(
                    spawn_request(stage, _PACKAGE, "process", "cpu", "", Limits())
                )
                _student(worker).probe.add(1, 2)
                samples.append(time.perf_counter() - started)
                worker.close()
            finally:
                server.close()
        del folder
    return [sampled("start.fork_server", "fork server: import torch, fork, answer", "s", samples)]


def crossing(plan: Plan) -> list[Figure]:
    """Starting a worker, small calls and tensors, at every level by turns."""
    figures: list[Figure] = []
    with _probe_stage() as (stage, folder):
        server = ForkServer(ROOT, ("torch",))
        try:

            def start(level: str) -> Worker:
                if level == "none":
                    return InlineWorker(_PACKAGE, folder, "cpu")
                return server.spawn(spawn_request(stage, _PACKAGE, level, "cpu", "", Limits()))

            start("process").close()  # the fork server is ready now
            levels = [level for level in LEVELS if level != "sandbox" or not _sandbox_problem()]
            figures += _starts(plan.rounds, [level for level in levels if level != "none"], start)
            workers = {level: start(level) for level in levels}
            try:
                students = {level: _student(worker) for level, worker in workers.items()}
                figures += _calls(plan, students)
                figures += _transfers(plan, students["process"])
            finally:
                for worker in workers.values():
                    worker.close()
        finally:
            server.close()
    return figures


def sandbox_start(rounds: int) -> list[Figure]:
    """What the sandbox adds to the start of a worker, the two levels by turns."""
    if problem := _sandbox_problem():
        raise Unmeasured(problem)
    with _probe_stage() as (stage, _):
        server = ForkServer(ROOT, ("torch",))
        try:

            def start(level: str) -> Worker:
                return server.spawn(spawn_request(stage, _PACKAGE, level, "cpu", "", Limits()))

            start("process").close()  # the fork server is ready now
            figures = _starts(rounds, ["process", "sandbox"], start)
        finally:
            server.close()
    pairs = zip(figures[1].samples, figures[0].samples, strict=True)
    more = sampled(
        "start.more", "start of a worker, sandbox over process", "ms", [a - b for a, b in pairs],
        Target("at most", 50.0), p95=True,
    )  # fmt: skip
    more.note = "the samples are the differences of neighbouring starts"
    return [*figures, more]


def _starts(rounds: int, levels: list[str], start: Callable[[str], Worker]) -> list[Figure]:
    samples: dict[str, list[float]] = {level: [] for level in levels}
    for _ in range(rounds):
        for level in levels:
            began = time.perf_counter()
            worker = start(level)
            _student(worker).probe.add(1, 2)
            samples[level].append((time.perf_counter() - began) * 1e3)
            worker.close()
    return [
        sampled(
            f"start.{level}", f"start a worker and get an answer, {level}", "ms", values, p95=True
        )
        for level, values in samples.items()
    ]


def _calls(plan: Plan, students: dict[str, Student]) -> list[Figure]:
    module = types.ModuleType("probe")
    exec(_PROBE, module.__dict__)
    small = torch.arange(16, dtype=torch.float32)
    figures = []
    for name, what, function, arguments in (
        ("ints", "call with 2 ints", "add", (1, 2)),
        ("tensor", "call with a tensor of 16", "same", (small,)),
    ):
        sides: dict[str, Callable[..., Any]] = {"plain": getattr(module, function)}
        sides |= {level: getattr(s.probe, function) for level, s in students.items()}
        samples = _by_turns(
            plan, {side: functools.partial(f, *arguments) for side, f in sides.items()}
        )
        for side, values in samples.items():
            target = Target("at most", 0.3) if side in ("process", "sandbox") else None
            label = "plain function" if side == "plain" else side
            figures.append(
                sampled(f"call.{name}.{side}", f"{what}, {label}", "ms", values, target, p95=True)
            )
    return figures


def _by_turns(plan: Plan, sides: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Milliseconds of every call, the sides taking turns in blocks."""
    samples: dict[str, list[float]] = {side: [] for side in sides}
    for function in sides.values():
        function()
    for _ in range(plan.rounds):
        for side, function in sides.items():
            times = [0] * (plan.calls + 1)
            times[0] = time.perf_counter_ns()
            for number in range(1, plan.calls + 1):
                function()
                times[number] = time.perf_counter_ns()
            samples[side] += [(b - a) / 1e6 for a, b in zip(times, times[1:], strict=False)]
    return samples


def _transfers(plan: Plan, student: Student) -> list[Figure]:
    """GB/s (10^9 bytes) of large tensors, every byte read by the one who gets it.

    The way there has the worker's look for changed arguments in it. memcpy copies into memory that
    is in use already: the fastest there is.
    """
    figures = []
    for mib in plan.sizes:
        sent = torch.arange(mib * _MIB // 8, dtype=torch.int64)
        copy = torch.empty_like(sent).zero_()
        student.probe.make(len(sent))
        total = int(sent.sum())
        sides: dict[str, Callable[[], Any]] = {
            "memcpy": functools.partial(copy.copy_, sent),
            "there": functools.partial(student.probe.read, sent),
            "back": functools.partial(_fetch, student, len(sent)),
        }
        samples: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(plan.rounds if mib > 1 else 3 * plan.rounds):
            for side, function in sides.items():
                began = time.perf_counter()
                value = function()
                samples[side].append(sent.nbytes / (time.perf_counter() - began) / 1e9)
                if side != "memcpy" and value != total:
                    raise RuntimeError(f"a tensor of {mib} MiB changed on its way {side}")
        copied = statistics.median(samples["memcpy"])
        for side, values in samples.items():
            target = Target("at least", 2.0) if mib == 256 and side != "memcpy" else None
            what = {"memcpy": "memcpy", "there": "tensor to the worker", "back": "tensor back"}[
                side
            ]
            figure = sampled(f"transfer.{mib}.{side}", f"{mib} MiB: {what}", "GB/s", values, target)
            if side != "memcpy":
                figure.extra["of_memcpy"] = rounded(figure.value / copied)
            figures.append(figure)
    return figures


def _fetch(student: Student, length: int) -> int:
    return int(student.probe.kept(length).sum())


@contextlib.contextmanager
def _probe_stage() -> Iterator[tuple[Any, Path]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "probe.py").write_text(_PROBE, encoding="utf-8")
        stage = make_stage(ROOT, _PACKAGE, folder)
        try:
            yield stage, folder
        finally:
            stage.close()


def _student(worker: Worker) -> Student:
    worker.budget_s = _RUN_LIMIT_S
    return Student(Connection(lambda: worker))


@functools.cache
def _sandbox_problem() -> str:
    from graders.isolation import sandbox

    try:
        sandbox.check_available()
    except sandbox.SandboxUnavailable as error:
        return str(error)
    return ""


# -- whole runs ------------------------------------------------------------------------------------


def _grade_command(plan: Plan, lab: str, target: str, *options: str) -> list[str]:
    command = [sys.executable, "-u", "-m", "graders", "grade", lab, "--target", target]
    command += ["--device", "cpu", *options]
    return [*command, "--task", _first_task(find_lab(ROOT, lab))] if plan.quick else command


def _first_task(manifest: Manifest) -> str:
    return next(task.id for task in manifest.tasks if task.tier == "cpu")


def _run(command: list[str]) -> float:
    """Seconds of one whole run, which must earn everything."""
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=_RUN_LIMIT_S,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise Unmeasured(f"the solution did not earn everything: {_last_lines(done.stdout)}")
    return seconds


def _last_lines(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "no output"


def wall_time(plan: Plan, lab: str) -> list[Figure]:
    """A graded lab against the same tests in one process, start-up included, by turns."""
    _need_solution(lab)
    samples: dict[str, list[float]] = {level: [] for level in ("process", "none")}
    for _ in range(plan.repeats):
        for level, values in samples.items():
            values.append(_run(_grade_command(plan, lab, "solution", "--isolation", level)))
    what = f"{lab}{' (first task)' if plan.quick else ''}"
    graded = sampled(
        f"wall.{lab}.process", f"{what}: graded, start to end", "s", samples["process"]
    )
    plain = sampled(f"wall.{lab}.none", f"{what}: same tests in process", "s", samples["none"])
    pairs = [a / b for a, b in zip(samples["process"], samples["none"], strict=True)]
    ratio = sampled(
        f"wall.{lab}.ratio", f"{what}: graded over in process", "ratio", pairs,
        Target("at most", 1.5),
    )  # fmt: skip
    ratio.value = rounded(
        statistics.median(samples["process"]) / statistics.median(samples["none"])
    )
    ratio.note = "the ratio of the two medians; the samples are the ratios of neighbouring runs"
    return [graded, plain, ratio]


def memory(plan: Plan, lab: str) -> list[Figure]:
    """The peak memory of a graded run: oracle, fork server, supervisor and worker together.

    PSS counts a page shared by n processes as 1/n in each, so that their sum counts it once. Where
    only USS is known (not on Linux), shared pages are left out.
    """
    _need_solution(lab)
    command = _grade_command(plan, lab, "solution")
    started = time.monotonic()
    process = psutil.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    samples, kind = [], "pss"
    try:
        while process.poll() is None:
            used, kind = tree_bytes(process)
            if used:  # a process that just ended has none
                samples.append(used / 2**30)
            time.sleep(0.05)
            if time.monotonic() - started > _RUN_LIMIT_S:
                raise Unmeasured("the run took too long")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise Unmeasured("the solution did not earn everything while its memory was watched")
    figure = sampled(
        f"memory.{lab}", f"{lab}: peak memory of all processes ({kind.upper()})", "GiB", samples,
        Target("at most", 1.5),
    )  # fmt: skip
    figure.value = rounded(max(samples))
    figure.note = f"the largest sum of {kind.upper()} over the process tree; a sample each 50 ms"
    return [figure]


def tree_bytes(process: psutil.Process) -> tuple[int, str]:
    total, kind = 0, "pss"
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            # a process that just ended, or the sandbox's init, which nobody may look into
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                full = one.memory_full_info()
                if not hasattr(full, "pss"):
                    kind = "uss"
                total += getattr(full, kind)
    return total, kind


def _need_solution(lab: str) -> None:
    if not (ROOT / "solutions" / find_lab(ROOT, lab).package).is_dir():
        raise Unmeasured("this tree holds no solutions: it is a student's release")


class _Stream:
    """A command's output, line by line as it comes, with the time of each line."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, **options,
        )  # fmt: skip
        self.lines: list[bytes] = []
        # Killed from outside, so that a silent program cannot hold the bench.
        self._alarm = threading.Timer(_RUN_LIMIT_S, self.process.kill)
        self._alarm.start()

    def until(self, wanted: Callable[[str], object]) -> float:
        """The time of the first line that is wanted. Raises Unmeasured at the output's end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if wanted(line.decode(errors="replace")):
                return time.perf_counter()
        raise Unmeasured(f"the output ended early: {_last_lines(b''.join(self.lines))}")

    def rest(self) -> float:
        """Read on to the end; the time of it. Raises Unmeasured if the run failed."""
        with contextlib.suppress(Unmeasured):
            self.until(lambda _: False)
        code = self.process.wait()
        ended = time.perf_counter()
        if code != 0:
            raise Unmeasured(f"ended with {code}: {_last_lines(b''.join(self.lines))}")
        return ended

    def close(self) -> None:
        """End the program."""
        self._alarm.cancel()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def after_save(plan: Plan, lab: str) -> list[Figure]:
    """From a save to the first task's result with ``--watch``, the grader being warm."""
    _need_solution(lab)
    manifest = find_lab(ROOT, lab)
    samples = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / manifest.package
        shutil.copytree(
            ROOT / "solutions" / manifest.package, folder,
            ignore=shutil.ignore_patterns("__pycache__"),
        )  # fmt: skip
        task = _first_task(manifest)
        module = next(t.module for t in manifest.tasks if t.id == task)
        command = [sys.executable, "-u", "-m", "graders", "grade", lab, "--target", str(folder)]
        stream = _Stream([*command, "--device", "cpu", "--task", task, "--watch"])
        try:
            stream.until(lambda line: line.startswith("watching"))
            time.sleep(1.0)  # the watcher says so just before it begins
            for _ in range(max(2, plan.repeats)):
                saved = time.perf_counter()
                with (folder / f"{module}.py").open("a", encoding="utf-8") as file:
                    file.write("\n")
                samples.append(stream.until(_RESULT_LINE.match) - saved)
                stream.until(lambda line: line.startswith("CPU tier"))
                time.sleep(1.0)
        finally:
            stream.close()
    return [sampled("save.first_result", f"{lab}: result after a save (--watch)", "s", samples)]


def second_run(plan: Plan, lab: str) -> list[Figure]:
    """``python3 noxfile.py -s lab01 -- --target solution`` where the environment exists already."""
    _need_solution(lab)
    python = _python_for_nox(lab)
    command = [python, "-u", "noxfile.py", "-s", lab, "--", "--target", "solution"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # Inside `nox -s bench` these would make the inner run another than a student's.
    for variable in ("VIRTUAL_ENV", "NOX_CURRENT_SESSION", "PYTHONPATH"):
        environment.pop(variable, None)
    first, total = [], []
    for _ in range(plan.repeats):
        stream = _Stream(command, env=environment)
        try:
            first.append(stream.until(_RESULT_LINE.match) - stream.started)
            total.append(stream.rest() - stream.started)
        finally:
            stream.close()
    return [
        sampled(
            f"nox.{lab}.first", f"second nox -s {lab}: first result", "s", first,
            Target("at most", 6.0),
        ),
        sampled(
            f"nox.{lab}.total", f"second nox -s {lab}: whole run", "s", total,
            Target("at most", 30.0),
        ),
    ]  # fmt: skip


def _python_for_nox(lab: str) -> str:
    """The Python that a student would use; raises Unmeasured rather than install anything."""
    stamp = ROOT / ".nox" / lab / "inferlab-stamp"
    build = f"not measured: no environment; build it with `python3 noxfile.py -s {lab}`"
    if not stamp.exists():
        raise Unmeasured(build)
    code = f"import noxfile; print(noxfile._recipe({lab!r}))"
    asked = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if asked.returncode != 0:
        raise Unmeasured("nox is not installed here; use `python3 noxfile.py -s bench`")
    if asked.stdout.strip() != stamp.read_text():
        raise Unmeasured(f"{build} (the one there is of another recipe)")
    base = str(getattr(sys, "_base_executable", sys.executable))
    bootstrap = ROOT / ".nox" / ".bootstrap" / "inferlab-stamp"
    if bootstrap.exists() and bootstrap.read_text().endswith(sys.version):
        return base
    return sys.executable  # has nox, as the line above showed


# -- figures, table, JSON --------------------------------------------------------------------------


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def sampled(
    id: str,
    what: str,
    unit: str,
    samples: Sequence[float],
    target: Target | None = None,
    *,
    p95: bool = False,
) -> Figure:
    """The median of the samples; with ``p95`` the value that 95 % of them do not exceed."""
    figure = Figure(
        id, what, unit, rounded(statistics.median(samples)), [rounded(s) for s in samples], target
    )
    if p95:
        figure.extra["p95"] = rounded(sorted(samples)[math.ceil(0.95 * len(samples)) - 1])
    return figure


def _plain(figure: Figure) -> dict[str, Any]:
    return {**asdict(figure), "met": figure.met}


def machine() -> dict[str, Any]:
    """What the figures depend on; neither the host's name nor any path."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python and the packages that matter for speed."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "numpy", "msgspec", "pytest", "nox", "nbgrader"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def to_json(document: dict[str, Any]) -> str:
    """Indented JSON with each list of numbers on one line."""
    text = json.dumps(document, indent=1, allow_nan=False)
    return re.sub(r"\[\s+([-\d.e+,\s]+?)\s+\]", _one_line, text) + "\n"


def _one_line(match: re.Match[str]) -> str:
    return f"[{', '.join(match.group(1).replace(',', ' ').split())}]"


def _default_path() -> Path:
    now = datetime.datetime.now(datetime.UTC)
    return ROOT / "results" / f"bench-{now:%Y-%m-%dT%H%M%S}.json"


def show(value: float, unit: str) -> str:
    """A figure for people: ``0.11 ms``, ``2.4 GB/s``, ``1.16`` for a ratio or a count."""
    if unit == "ms" and value < 0.001:
        value, unit = value * 1e3, "µs"
    number = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return number if unit in ("ratio", "") else f"{number} {unit}"


def _measured(figure: Figure) -> str:
    text = show(figure.value, figure.unit)
    if "p95" in figure.extra:
        text += f" (p95 {show(figure.extra['p95'], figure.unit)})"
    if "of_memcpy" in figure.extra:
        text += f" ({figure.extra['of_memcpy']:.2f} of memcpy)"
    return text


def table(figures: Sequence[Figure], missing: Sequence[Missing]) -> Table:
    """What, measured, target, and whether it is met."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    drawn.add_column("what", overflow="fold", min_width=30)
    drawn.add_column("measured", overflow="fold")
    drawn.add_column("target", no_wrap=True)
    drawn.add_column("", no_wrap=True)
    for figure in figures:
        target = figure.target
        drawn.add_row(
            figure.what,
            _measured(figure),
            f"{target.bound} {show(target.value, figure.unit)}" if target else "",
            {True: Text("ok", "green"), False: Text("MISSED", "bold red"), None: Text()}[
                figure.met
            ],
        )
    for gap in missing:
        drawn.add_row(gap.what, Text(gap.why, "yellow"), "", Text("not measured", "yellow"))
    return drawn


def _console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # In a pipe rich assumes 80 columns, which would fold the table.
    return Console(stderr=stderr, width=None if stream.isatty() else 120, highlight=False)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """One live line on a terminal, a plain line for each step in a pipe; on standard error."""
    console = _console(stderr=True)
    count, started = 0, time.monotonic()
    live = Live(console=console, transient=True) if console.is_terminal else None

    def begin(what: str) -> None:
        nonlocal count
        count += 1
        line = f"{count}/{total}  {what}  {time.monotonic() - started:.0f} s"
        if live is not None:
            live.update(Spinner("dots", text=Text(line, no_wrap=True, overflow="ellipsis")))
        else:
            console.print(Text(line))

    with live or contextlib.nullcontext():
        yield begin
