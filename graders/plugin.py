"""The pytest plugin: fixtures and the mark ``task``.

The fixtures are ``student``, ``check``, ``device``, ``given_dir``, ``rng_seed``, ``note`` and
``run_cache``.
Used in two ways: by ``python -m graders``, which hands over a ``Run``, and by a plain
``pytest labs/lab01_token_generation``, where the run is made from the command line's options.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from graders import record
from graders.oracle.checks import Check, CheckFailed, show
from graders.oracle.proxy import BadAnswer, Connection, Imports, Student, StudentError
from graders.oracle.stage import Stage
from graders.oracle.workers import Worker, WorkerLost

RUN = pytest.StashKey["Run"]()
NOTES = pytest.StashKey["Notes"]()
DEFAULT_TIMEOUT_S = 60.0
# A task that hangs in one test mostly hangs in all of them: after so many, less time for the rest.
PATIENCE, IMPATIENT_SHARE, IMPATIENT_LEAST_S = 3, 0.2, 2.0


@dataclass
class Notes:
    """What a test measured: lines for the reader, and figures by the measurement's name."""

    lines: list[str] = field(default_factory=list)
    figures: dict[str, dict[str, record.Figure]] = field(default_factory=dict)


@dataclass
class Outcome:
    """What one test came to; the fields of a record's test result."""

    id: str
    task: str
    visibility: record.Visibility
    outcome: record.Outcome = "missing"
    invariant: str = ""
    message: str = ""
    given: str = ""
    expected: str = ""
    got: str = ""
    traceback: str = ""
    stdout: str = ""
    duration_s: float = 0.0
    notes: list[str] = field(default_factory=list)
    measurements: dict[str, dict[str, record.Figure]] = field(default_factory=dict)


@dataclass
class Run:
    """One grading run of one submission: how to get a worker, and what came out."""

    stage: Stage
    new_worker: Callable[[str], Worker]  # by device
    task_order: list[str]
    lab_dir: Path | None = None  # of a plain pytest run, which may go over several labs
    timeouts: dict[str, float] = field(default_factory=dict)
    gpu_tasks: frozenset[str] = frozenset()
    gpu_device: str | None = None
    only: tuple[str, ...] = ()
    stop_after_first_failure: bool = False
    collect_only: bool = False
    seed: int = 0
    on_result: Callable[[Outcome], None] | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    collected: list[tuple[str, str, float, str]] = field(
        default_factory=list
    )  # id, task, weight, visibility
    collection_errors: list[str] = field(default_factory=list)
    # What several tests of a run share: a model on the device, a measurement. Ends with the run.
    cache: dict[str, Any] = field(default_factory=dict)
    imports: Imports = field(default_factory=Imports)
    _worker: Worker | None = None
    _worker_task: str = ""
    _failed_tasks: set[str] = field(default_factory=set)
    _hangs: dict[str, int] = field(default_factory=dict)

    def device_of(self, task: str) -> str | None:
        """The device a task runs on; None when it needs a GPU and there is none."""
        return self.gpu_device if task in self.gpu_tasks else "cpu"

    def worker(self, task: str) -> Worker:
        """The task's worker: a fresh fork for each task, and again after one died."""
        dead = self._worker is None or self._worker.closed
        if dead or self._worker_task != task:
            self.close_worker()
            self._worker, self._worker_task = self.new_worker(self.device_of(task) or "cpu"), task
        assert self._worker is not None
        return self._worker

    def budget_s(self, task: str) -> float:
        """Seconds for the task's next test: its time limit, and less once it hung in several."""
        limit = self.timeouts.get(task, DEFAULT_TIMEOUT_S)
        if self._hangs.get(task, 0) < PATIENCE:
            return limit
        return min(limit, max(limit * IMPATIENT_SHARE, IMPATIENT_LEAST_S))

    def close_worker(self) -> None:
        """Kill the present worker, if any."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of a plain pytest run over a lab's folder."""
    group = parser.getgroup("inferlab")
    group.addoption("--isolation", default="process", choices=["none", "process", "sandbox"])
    group.addoption("--device", default="auto", choices=["auto", "cpu", "cuda"])


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers", "task(id, weight=1): the lab task this test gives points for"
    )


def test_id(item: pytest.Item) -> str:
    """A test's identity in records: visibility and name, independent of where the file lies."""
    return f"{visibility(item)}::{item.name}"


def visibility(item: pytest.Item) -> record.Visibility:
    """``public`` for test_public.py, ``hidden`` for the rest."""
    return "public" if item.path.name == "test_public.py" else "hidden"


def _task(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("task")
    return str(mark.args[0]) if mark and mark.args else None


def _run_of(config: pytest.Config) -> Run | None:
    return config.stash.get(RUN, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order by task, give each test its weight, deselect other tasks."""
    run = _run_of(config)
    if run is None:
        return
    functions: dict[tuple[str, str], int] = {}
    for item in items:
        key = (str(item.path), getattr(item, "originalname", item.name))
        functions[key] = functions.get(key, 0) + 1
    for item in items:
        task = _task(item)
        if task is None:
            run.collection_errors.append(f"{test_id(item)} has no mark task(...)")
            continue
        mark = item.get_closest_marker("task")
        assert mark is not None
        # A parametrized function counts once; its cases share its weight.
        count = functions[(str(item.path), getattr(item, "originalname", item.name))]
        run.collected.append(
            (test_id(item), task, float(mark.kwargs.get("weight", 1)) / count, visibility(item))
        )
    order = {task: number for number, task in enumerate(run.task_order)}
    items.sort(
        key=lambda item: (order.get(_task(item) or "", len(order)), visibility(item) != "public")
    )
    if run.only:
        items[:] = [item for item in items if _task(item) in run.only]
    if run.collect_only:
        items.clear()


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Keep collection errors: an unreadable test file is the grader's fault, said loudly."""
    if report.failed and _CURRENT is not None:
        _CURRENT.collection_errors.append(str(report.longrepr))


_CURRENT: Run | None = None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note the run, for hooks that are given no config."""
    global _CURRENT
    _CURRENT = _run_of(session.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Kill the last worker, and let go of what the tests shared."""
    run = _run_of(session.config)
    if run is not None:
        run.close_worker()
        run.cache.clear()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what cannot or need not run."""
    run = _run_of(item.config)
    task = _task(item)
    if run is None or task is None:
        return
    if run.device_of(task) is None:
        pytest.skip("not attempted (no GPU)")
    if run.stop_after_first_failure and task in run._failed_tasks:
        pytest.skip("an earlier test of this task failed")


@pytest.fixture
def inferlab_run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """The grading run; made on the spot for a plain pytest run."""
    run = _run_of(request.config)
    folder = request.node.path.parent
    if run is None or (run.lab_dir is not None and run.lab_dir != folder):  # pytest labs/: the next
        from graders.oracle.grade import run_for_plain_pytest

        run = run_for_plain_pytest(folder, request.config)
        request.config.stash[RUN] = run
        request.config.add_cleanup(run.close_worker)
    yield run


@pytest.fixture
def device(request: pytest.FixtureRequest, inferlab_run: Run) -> str:
    """The device the submission's tensors live on: ``cpu`` or ``cuda``."""
    found = inferlab_run.device_of(_task(request.node) or "")
    if found is None:
        pytest.skip("not attempted (no GPU)")
    return found


@pytest.fixture
def student(request: pytest.FixtureRequest, inferlab_run: Run, device: str) -> Student:
    """The submission's package."""
    task = _task(request.node) or "-"
    worker = inferlab_run.worker(task)
    worker.budget_s = inferlab_run.budget_s(task)
    worker.output.take()

    def current() -> Worker:
        if worker.closed:
            raise WorkerLost("the submission's process is gone")
        return worker

    return Student(Connection(current, inferlab_run.imports))


@pytest.fixture
def check(device: str) -> Check:
    """Comparisons that cannot be fooled by clever objects."""
    return Check(device)


@pytest.fixture
def given_dir(inferlab_run: Run, request: pytest.FixtureRequest) -> Path:
    """A folder the test writes and the submission reads."""
    name = f"{zlib.crc32(request.node.nodeid.encode()):08x}"
    folder = inferlab_run.stage.given / name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    return folder


@pytest.fixture
def rng_seed(request: pytest.FixtureRequest, inferlab_run: Run) -> int:
    """A seed of this test's own, the same for every submission of a run."""
    return (zlib.crc32(test_id(request.node).encode()) ^ inferlab_run.seed) & 0x7FFFFFFF


@pytest.fixture
def run_cache(inferlab_run: Run) -> dict[str, Any]:
    """What tests of one run share, by name. For the oracle's own things: it outlives workers."""
    return inferlab_run.cache


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``note(text, name=..., **figures)``: say what was measured, also when the test passes.

    ``text`` is one line for the report; ``figures`` go to the record's measurements under ``name``
    (the task's id when left out). Both must be the oracle's own words and numbers, and free of
    hidden inputs: the author of a submission gets to read them.
    """
    notes = request.node.stash.setdefault(NOTES, Notes())
    task = _task(request.node) or "-"

    def add(text: str, name: str = "", **figures: record.Figure) -> None:
        notes.lines.append(text)
        if figures:
            notes.figures.setdefault(name or task, {}).update(figures)

    return add


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn what happened into an outcome."""
    report: pytest.TestReport = yield  # type: ignore[assignment, misc]
    run, task = _run_of(item.config), _task(item)
    if run is None or task is None or (call.when != "call" and call.excinfo is None):
        return report  # type: ignore[return-value]
    outcome = Outcome(
        test_id(item), task, visibility(item), invariant=_invariant(item), duration_s=call.duration
    )
    notes = item.stash.get(NOTES, Notes())
    outcome.notes, outcome.measurements = notes.lines, notes.figures
    worker = run._worker
    if worker is not None:
        outcome.stdout = worker.output.take()
        if worker.timed_out:
            run._hangs[task] = run._hangs.get(task, 0) + 1
            worker.timed_out = False
    if call.excinfo is None:
        outcome.outcome = "passed"
    else:
        _describe(outcome, call.excinfo.value)
        if outcome.outcome != "not_attempted":
            run._failed_tasks.add(task)
    _add(run, outcome)
    return report  # type: ignore[return-value]


def _add(run: Run, outcome: Outcome) -> None:
    for number, earlier in enumerate(run.outcomes):
        if earlier.id == outcome.id:  # a failing teardown after a passing call
            run.outcomes[number] = outcome
            return
    run.outcomes.append(outcome)
    if run.on_result is not None:
        run.on_result(outcome)


def _invariant(item: pytest.Item) -> str:
    text = (getattr(item, "obj", None).__doc__ or item.name.replace("_", " ")).strip()
    return " ".join(text.split("\n\n")[0].split())


def _describe(outcome: Outcome, error: BaseException) -> None:
    """Fill in how the test failed; hypothesis wraps nothing, so types are looked at directly."""
    outcome.outcome = "failed"
    if isinstance(error, pytest.skip.Exception):
        outcome.outcome, outcome.message = "not_attempted", str(error)
    elif isinstance(error, CheckFailed):
        outcome.message, outcome.given = error.message, error.given
        outcome.expected, outcome.got = error.expected, error.got
    elif isinstance(error, StudentError):
        outcome.traceback = error.student_traceback
        outcome.message = "not written yet" if "NotImplementedError" in error.types else str(error)
    elif isinstance(error, BadAnswer | WorkerLost | AssertionError):
        outcome.message = str(error) or "the assertion does not hold"
    else:
        # Most often the submission returned another type than the test went on to use.
        outcome.message = (
            f"the answer could not be used: {type(error).__name__}: {show(str(error))}"
        )
        outcome.outcome = "failed"


def now() -> float:
    """Wall clock, for the run's record."""
    return time.time()
