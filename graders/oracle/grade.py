"""Grade one target of one lab: stage it, run the tests against it, score, make the record."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pytest

from graders.manifest import Manifest, find_lab, load_manifest
from graders.oracle.proxy import Connection, Student
from graders.oracle.stage import Stage, make_stage
from graders.oracle.workers import ForkServer, InlineWorker, Worker, spawn_request
from graders.plugin import RUN, Outcome, Run
from graders.record import Figure, Record, TestResult
from graders.scoring import Expected, load_expected, score
from graders.worker.limits import Limits

ROOT = Path(__file__).resolve().parents[2]


class GradeError(RuntimeError):
    """Grading cannot go on; the message names the thing, the cause and the mend."""


@dataclass
class Options:
    """How to grade."""

    isolation: str = "process"
    device: str = "auto"
    only: tuple[str, ...] = ()  # tasks to grade; all when empty
    stop_after_first_failure: bool = False
    pdb: bool = False
    seed: int = 0
    plots: bool = False
    limits: Limits = field(default_factory=Limits)


class Grader:
    """Grades targets of one lab; the fork server is shared by all of them."""

    def __init__(self, lab: str, options: Options, root: Path = ROOT) -> None:
        self.root, self.options = root, options
        self.manifest: Manifest = find_lab(root, lab)
        self.number = f"lab{self.manifest.number:02d}"
        self.lab_dir = root / "labs" / self.manifest.package
        self.hidden_dir = root / "graders" / self.number
        known = [task.id for task in self.manifest.tasks]
        if unknown := [task for task in options.only if task not in known]:
            raise GradeError(
                f"{self.number} has no task {unknown[0]!r}; its tasks are {', '.join(known)}"
            )
        self.server = ForkServer(ROOT, tuple(self.manifest.preload))
        if options.isolation == "sandbox":
            from graders.isolation import sandbox

            sandbox.check_available()
        if options.isolation != "none":
            self.server.start()

    def close(self) -> None:
        """End the fork server."""
        self.server.close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def hidden_present(self) -> bool:
        """Whether this tree holds the lab's hidden tests."""
        return bool(self._hidden_tests())

    def _hidden_tests(self) -> list[Path]:
        return sorted(self.hidden_dir.glob("test_*.py"))

    def target(self, name: str) -> Path:
        """The folder of a target: ``labs`` (the student's own), ``solution``, or a path."""
        if name == "labs":
            return self.lab_dir
        if name == "solution":
            folder = self.root / "solutions" / self.manifest.package
            if not folder.is_dir():
                raise GradeError(
                    f"this tree holds no solution of {self.number}: it is a student's release. "
                    "Grade your own work, without --target solution"
                )
            return folder
        folder = Path(name).expanduser().resolve()
        nested = folder / "labs" / self.manifest.package
        folder = nested if nested.is_dir() else folder
        if not folder.is_dir():
            what = "it is a file" if folder.exists() else "there is no such folder"
            raise GradeError(
                f"no submission at {name}: {what}. Give the folder that holds the lab's modules"
            )
        return folder

    def run(
        self,
        target: str = "labs",
        *,
        overlay: Path | None = None,
        on_result: Callable[[Outcome], None] | None = None,
    ) -> Record:
        """Grade ``target`` and return its record."""
        started = time.time()
        submission = self.target(target)
        modules = dict.fromkeys(task.module for task in self.manifest.tasks)
        harness = self.hidden_dir / "harness.py"
        with _readable_to_workers():
            stage = make_stage(
                self.root, self.manifest.package, submission, overlay, harness, tuple(modules)
            )
            try:
                run = self._run_tests(stage, submission, on_result)
                plots = self._plots(run) if self.options.plots else []
                return self._record(run, stage, target, started, plots)
            finally:
                stage.close()

    def collect(self) -> list[tuple[str, str, float, str]]:
        """Every test there is: id, task, weight, visibility."""
        stage = make_stage(self.root, self.manifest.package, self.lab_dir)
        try:
            return self._run_tests(stage, self.lab_dir, None, collect_only=True).collected
        finally:
            stage.close()

    def _run_tests(
        self,
        stage: Stage,
        submission: Path,
        on_result: Callable[[Outcome], None] | None,
        collect_only: bool = False,
    ) -> Run:
        options = self.options
        run = Run(
            stage=stage,
            new_worker=lambda device: self._worker(stage, submission, device),
            task_order=[task.id for task in self.manifest.tasks],
            timeouts={task.id: float(task.timeout_s) for task in self.manifest.tasks},
            gpu_tasks=frozenset(task.id for task in self.manifest.tasks if task.tier == "gpu"),
            gpu_device=_gpu_device(options.device),
            only=options.only,
            stop_after_first_failure=options.stop_after_first_failure,
            collect_only=collect_only,
            seed=options.seed,
            on_result=on_result,
        )
        # The public tests are collected from a copy outside the lab's package: otherwise pytest
        # would import the package's __init__, and the oracle never runs a line of a submission.
        source = (self.lab_dir / "test_public.py").read_bytes()
        # pytest keeps imported test modules by their path below the root: each lab and version
        # needs its own path, or a second run in one process would get the first's tests.
        tests = (
            stage.root / f"tests_{self.manifest.package}_{hashlib.sha256(source).hexdigest()[:12]}"
        )
        tests.mkdir()
        public = tests / "test_public.py"
        public.write_bytes(source)
        paths = [str(public), *map(str, self._hidden_tests())]
        (stage.root / "pytest.ini").write_text("[pytest]\n")
        arguments = [
            "-c", str(stage.root / "pytest.ini"), "--rootdir", str(stage.root), "--noconftest",
            "-p", "no:cacheprovider", "-p", "graders.plugin", "--import-mode=importlib", *paths,
        ]  # fmt: skip
        # What tests log is in no report, and keeping it takes a fifth of the oracle's time.
        arguments += ["-p", "no:terminal", "-p", "no:logging", *(["-s"] if options.pdb else [])]
        # Whatever plugins are installed here have no say in grades. The two that look for errors
        # nobody saw collect the whole heap's garbage at the end, another fifth.
        arguments += ["--disable-plugin-autoload", "-p", "_hypothesis_pytestplugin"]
        arguments += ["-p", "no:unraisableexception", "-p", "no:threadexception"]
        code = pytest.main(arguments, plugins=[_Handover(run)])
        if code == pytest.ExitCode.INTERRUPTED and not run.collection_errors:
            raise KeyboardInterrupt  # pytest kept it; half a run must not be scored
        if run.collection_errors or code in (
            pytest.ExitCode.INTERNAL_ERROR,
            pytest.ExitCode.USAGE_ERROR,
        ):
            problems = "\n".join(run.collection_errors) or f"pytest ended with {code!r}"
            raise GradeError(
                f"the tests of {self.number} cannot be read; this is the grader's fault, "
                f"not yours:\n{problems}"
            )
        return run

    def _worker(self, stage: Stage, submission: Path, device: str) -> Worker:
        package = self.manifest.package
        if self.options.isolation == "none":
            harness = self.hidden_dir / "harness.py"
            return InlineWorker(package, submission, device, harness, debug=self.options.pdb)
        shown = (
            os.path.relpath(submission, Path.cwd())
            if submission.is_relative_to(Path.cwd())
            else submission.name
        )
        return self.server.spawn(
            spawn_request(
                stage, package, self.options.isolation, device, str(shown), self.options.limits
            )
        )

    # -- after the tests ---------------------------------------------------------------------------

    def expected(self) -> Expected:
        """The committed list of tests, public and, where present, hidden."""
        hidden = self.hidden_dir / "expected.json" if self.hidden_present else None
        return load_expected(self.lab_dir / "expected.json", hidden)

    def _record(
        self, run: Run, stage: Stage, target: str, started: float, plots: list[tuple[str, str]]
    ) -> Record:
        results = [
            TestResult(
                id=o.id, task=o.task, visibility=o.visibility, outcome=o.outcome,
                invariant=o.invariant, message=o.message, given=o.given, expected=o.expected,
                got=o.got, traceback=o.traceback, stdout=o.stdout, duration_s=o.duration_s,
                notes=o.notes,
            )
            for o in run.outcomes
        ]  # fmt: skip
        tasks = score(
            self.manifest,
            self.expected(),
            results,
            hidden_present=self.hidden_present,
            gpu=run.gpu_device is not None,
            tasks=self.options.only or None,
        )
        measurements: dict[str, dict[str, Figure]] = {}
        for outcome in run.outcomes:
            for name, figures in outcome.measurements.items():
                measurements.setdefault(name, {}).update(figures)
        versions = {"python": platform.python_version()}
        for name in ("torch", "transformers", "pytest"):
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                versions[name] = "not installed"
        started_at = datetime.datetime.fromtimestamp(started, datetime.UTC)
        return Record(
            schema=1, lab=self.number, title=self.manifest.title, target=target,
            submission_sha256=stage.submission_sha256, isolation=self.options.isolation,
            seed=self.options.seed, device=run.gpu_device or "cpu", versions=versions,
            started=started_at.isoformat(timespec="seconds"), duration_s=time.time() - started,
            hidden_present=self.hidden_present, tasks=tasks, plots=plots,
            measurements=measurements,
        )  # fmt: skip

    def _plots(self, run: Run) -> list[tuple[str, str]]:
        """The manifest's plots, drawn in the oracle from the numbers the submission returns."""
        import importlib.util
        import io

        import matplotlib

        if not self.manifest.plots:
            return []
        matplotlib.use("agg")
        drawn = []
        for plot in self.manifest.plots:
            module_name, function_name = plot.call.split(":")
            spec = importlib.util.spec_from_file_location(
                f"inferlab_{module_name}", self.lab_dir / f"{module_name}.py"
            )
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            worker = run.worker("plots")
            worker.budget_s = 60.0
            try:
                figure = getattr(module, function_name)(_student(worker))
            except Exception:  # a plot of unfinished work is no reason to lose the report
                continue
            text = io.StringIO()
            figure.savefig(text, format="svg", bbox_inches="tight")
            drawn.append((plot.title, text.getvalue()[text.getvalue().index("<svg") :]))
        run.close_worker()
        return drawn


@contextlib.contextmanager
def _readable_to_workers() -> Iterator[None]:
    """Files that tests write for the submission must be readable to the sandbox's own uid."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


class _Handover:
    """Gives the plugin its run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[RUN] = self._run


def _student(worker: Worker) -> Student:
    return Student(Connection(lambda: worker))


def _gpu_device(choice: str) -> str | None:
    if choice == "cpu":
        return None
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if choice == "cuda":
        raise GradeError(
            "--device cuda was asked for, but torch sees no CUDA device; use --device auto or cpu"
        )
    return None


def run_for_plain_pytest(lab_dir: Path, config: pytest.Config) -> Run:
    """The run behind ``pytest labs/lab01_token_generation``."""
    manifest = load_manifest(lab_dir / "lab.toml")
    gpu_device = _gpu_device(config.getoption("device"))
    grader = Grader(
        f"lab{manifest.number:02d}",
        Options(config.getoption("isolation"), config.getoption("device")),
    )
    stage = make_stage(grader.root, manifest.package, lab_dir)
    config.add_cleanup(stage.close)
    config.add_cleanup(grader.close)
    return Run(
        stage=stage,
        new_worker=lambda device: grader._worker(stage, lab_dir, device),
        task_order=[task.id for task in manifest.tasks],
        lab_dir=lab_dir,
        timeouts={task.id: float(task.timeout_s) for task in manifest.tasks},
        gpu_tasks=frozenset(task.id for task in manifest.tasks if task.tier == "gpu"),
        gpu_device=gpu_device,
    )
