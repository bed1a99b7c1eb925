"""The command line: grade a lab, prove a lab, keep the tree in sync, release it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from graders.manifest import LabNotFound, ManifestError, find_lab
from graders.oracle.grade import ROOT, GradeError, Grader, Options
from graders.oracle.stage import StageError
from graders.oracle.workers import WorkerLost
from graders.plugin import Outcome
from graders.proofs import all_labs, mutants, prove
from graders.record import Record, everything_earned, to_json
from graders.report.terminal import clean
from graders.scoring import ExpectedTest, ScoringError, expected_json, make_expected
from graders.sync import SyncError, sync

# What is said in one line and with status 2: the message names thing, cause and mend.
_ERRORS = (
    GradeError,
    LabNotFound,
    ManifestError,
    ScoringError,
    StageError,
    SyncError,
    WorkerLost,
)
# The same for errors of what is imported only when it is used, and is not in a student's release.
_LATE_ERRORS = frozenset(
    ["SandboxUnavailable", "ClassError", "SigningError", "ReleaseError", "AttackError"]
)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="python -m graders",
        description=(
            "Grade labs. Students use `python3 noxfile.py -s lab01`, which calls `grade lab01` "
            "with what stands after `--`."
        ),
    )
    verbs = top.add_subparsers(dest="verb", required=True)
    grade = verbs.add_parser(
        "grade", help="grade one lab and say why", description="Grade one lab and say why."
    )
    grade.add_argument("lab", help="lab01, 01 or 1")
    grade.add_argument(
        "--target",
        default="labs",
        help="labs (yours, the default), solution, or a folder with the modules",
    )
    grade.add_argument("--task", help="grade one task alone")
    grade.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda"],
        help="auto: GPU tasks where there is a GPU; cuda: an error without one; cpu: never",
    )
    grade.add_argument(
        "--isolation", default="process", choices=["none", "process", "sandbox"],
        help="none: in this process, for a debugger; process: the default; "
        "sandbox: for other people's code (Linux)",
    )  # fmt: skip
    grade.add_argument(
        "--hint",
        action="store_true",
        help="show the next hint of the first task that is not complete",
    )
    grade.add_argument("--watch", action="store_true", help="grade again whenever you save")
    grade.add_argument(
        "--pdb",
        action="store_true",
        help="stop in the debugger where your code raises (isolation none)",
    )
    grade.add_argument("--html", metavar="FILE", type=Path, help="write the report as a page")
    grade.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="the record as JSON (- or no FILE: standard output)",
    )
    grade.add_argument(
        "--seed",
        type=int,
        default=0,
        help="another draw of the random inputs (printed in the report)",
    )
    for name, text in (
        ("solutions", "prove that stubs earn 0, solutions everything, alternatives everything"),
        ("mutants", "print the kill matrix: which wrong solutions the tests catch"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("labs", nargs="*", help="lab01 …; all when left out")
        verb.add_argument("--jobs", type=int, default=2, help="grade so many at once")
        if name == "solutions":
            verb.add_argument(
                "--device",
                default="cpu",
                choices=["auto", "cpu", "cuda"],
                help="cuda: the GPU tier too, an error without a GPU; auto: where there is one",
            )
    sync = verbs.add_parser(
        "sync", help="write stubs and lists of expected tests from the solutions and tests"
    )
    sync.add_argument("--check", action="store_true", help="only say what differs")
    sync.add_argument(
        "--force", action="store_true", help="overwrite stubs that differ from the last commit"
    )
    bench = verbs.add_parser(
        "bench",
        help="measure the grader itself; ratios of one run",
        description=(
            "Measure the grader itself: what one call and one tensor cost on their way to the "
            "submission's process, how much longer a graded lab takes than the same tests in one "
            "process, how soon the first result stands there, and how much memory it all takes. "
            "Both sides of a comparison take turns in one run. A missed target is printed as "
            "MISSED and is no error; the exit status is 1 only if something could not be measured."
        ),
        epilog="For figures to keep, leave the machine alone meanwhile: the load is in the JSON.",
    )
    bench.add_argument("labs", nargs="*", help="lab01 …; all when left out")
    bench.add_argument(
        "--json", type=Path, metavar="FILE", help="the raw samples (default: a file in results/)"
    )
    bench.add_argument(
        "--quick",
        action="store_true",
        help="about 20 s: fewer calls, no 256 MiB, the first task of one lab, no second nox run "
        "(with --class two minutes: a class of 9, two kills)",
    )
    bench.add_argument(
        "--class", action="store_true", dest="whole_class",
        help="measure the grading of a class instead, about half an hour: submissions a minute "
        "beside nbgrader's, the sandbox's share of a start, 300 made-up submissions and the memory "
        "they take, a run that is killed ten times",
    )  # fmt: skip
    bench.add_argument(
        "--part", action="append", default=[], metavar="PART",
        help="with --class, this part alone: throughput, start, students or kills; may be repeated",
    )  # fmt: skip
    _add_class_verbs(verbs)
    _add_release_verb(verbs)
    _add_attacks_verb(verbs)
    return top


def _add_class_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What an instructor does with the work of many."""
    text = "grade a class: every submission in a folder, each once, in a sandbox"
    verb = verbs.add_parser(
        "class",
        help=text,
        description=(
            "Grade a class: every submission in a folder, each once, in a sandbox. A run that "
            "was stopped or killed goes on where it was when the same command is given again. The "
            "exit status is 0 when every student has a result, 1 when the grader failed on one."
        ),
    )
    verb.add_argument(
        "submissions",
        type=Path,
        help="holds <student>/, <student>.zip or .tar.gz, a platform's export, or nbgrader's "
        "submitted/<student>/<lab>/",
    )
    verb.add_argument("--lab", required=True, help="lab01, 01 or 1")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    verb.add_argument("--jobs", type=int, default=0, help="grade so many at once (default: cores)")
    verb.add_argument(
        "--isolation", default="sandbox", choices=["process", "sandbox"],
        help="process: only where you would run this code yourself",
    )  # fmt: skip
    verb.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda"],
        help="auto: GPU tasks where there is a GPU; cuda: an error without one; cpu: never",
    )  # fmt: skip
    verb.add_argument("--gpus", default="all", help="all, or numbers: 0,1")
    verb.add_argument(
        "--per-gpu", type=int, default=1, help="jobs that share a GPU (more than 1: slower timings)"
    )
    verb.add_argument("--executor", default="local", choices=["local", "ray"])
    verb.add_argument("--address", default="", help="of the Ray cluster (ray only; default: here)")
    verb.add_argument("--seed", type=int, default=0, help="another draw of the random inputs")
    verb.add_argument(
        "--feedback", action="store_true", help="also write a page for each student: feedback/"
    )
    verb.add_argument(
        "--jobs-per-process", type=int, default=200, metavar="N",
        help="replace a grading process after N submissions",
    )  # fmt: skip
    verb.add_argument(
        "--export", choices=["jplag", "dolos"],
        help="grade nothing: write the class's code to --out for a tool that finds similar code",
    )  # fmt: skip
    text = "whose a signed record is, when it was signed, with which key, and whether altered"
    verb = verbs.add_parser("verify", help=text, description=f"Say {text}.")
    verb.add_argument("records", nargs="+", type=Path, metavar="RECORD")
    text = "show the signing keys"
    verb = verbs.add_parser("key", help=text, description=f"{text.capitalize()}; they are secret.")
    verb.add_argument(
        "--rotate", action="store_true", help="sign with a new key; old ones still verify"
    )


def _add_release_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What an instructor hands out."""
    release = verbs.add_parser(
        "release",
        help="write the tree that students get, and prove what is not in it",
        description=(
            "Write the student tree from the last commit: a repository with one root commit, an "
            "archive, or both. Each object is then looked into for solutions, hidden tests and "
            "mutants; if anything is found, nothing is written. The tree must be committed and in "
            "sync: the same commit gives the same release."
        ),
    )
    release.add_argument(
        "dest", nargs="?", type=Path, metavar="DEST", help="a folder that is new or empty"
    )
    release.add_argument(
        "--labs", default="", metavar="01,02", help="these labs; all when left out"
    )
    release.add_argument("--archive", type=Path, metavar="FILE.tar.gz", help="write an archive")
    release.add_argument(
        "--complete",
        action="store_true",
        help="for somebody who learns alone: solutions and hidden tests too, but no history",
    )
    release.add_argument(
        "--check",
        type=Path,
        metavar="RELEASE",
        help="write nothing: look into a repository or archive made earlier",
    )


def _add_attacks_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What shows that the grader holds."""
    attacks = verbs.add_parser(
        "attacks",
        help="grade submissions that attack the grader, and print what each reached",
        description=(
            "Grade submissions that attack the grader, and print what each reached. The exit "
            "status is 1 if anything got through. What a level does not stop is not run there, "
            "and is shown as such."
        ),
    )
    attacks.add_argument(
        "--isolation", default="sandbox", choices=["process", "sandbox"],
        help="the level to attack (default: sandbox)",
    )  # fmt: skip
    attacks.add_argument("--family", type=int, help="the number of one family; all when left out")
    attacks.add_argument("--name", default="", help="only attacks whose name holds this")
    attacks.add_argument("--list", action="store_true", help="only say what there is")
    attacks.add_argument("--json", action="store_true", help="the verdicts as JSON")
    attacks.add_argument("--jobs", type=int, default=2, help="grade so many at once")
    attacks.add_argument(
        "--without", action="append", default=[], metavar="NAME",
        help="go on although this machine does not give this protection",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status is 0 only if everything attempted was earned.

    1: something attempted was not earned (or a proof failed); 2: an error that is said on standard
    error; 130 and 143: ended by Ctrl-C or by SIGTERM, with nothing left behind.
    """
    options = parser().parse_args(arguments)
    ended_by: list[int] = []

    def end(number: int, _: object) -> None:
        ended_by.append(number)
        raise KeyboardInterrupt  # the one way out that every layer cleans up after

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
    try:
        match options.verb:
            case "grade":
                return _grade(options)
            case "solutions":
                return prove(options.labs, options.jobs, options.device)
            case "mutants":
                return mutants(options.labs, options.jobs)
            case "class":
                return _class(options)
            case "verify":
                return _verify(options.records)
            case "key":
                return _key(options.rotate)
            case "sync":
                return _sync(options.check, options.force)
            case "release":
                return _release(options)
            case "attacks":
                from graders.adversarial.run import main as attacks

                return attacks(
                    options.isolation, options.family, name=options.name, listing=options.list,
                    as_json=options.json, without=options.without, jobs=options.jobs,
                )  # fmt: skip
            case _:
                from graders.bench import main as bench

                parts = options.part if options.whole_class or options.part else None
                return bench(
                    options.json, quick=options.quick, labs=options.labs, parts_of_class=parts
                )
    except _ERRORS as error:
        return _say(error)
    except (RuntimeError, ValueError) as error:
        if _LATE_ERRORS & {kind.__name__ for kind in type(error).__mro__}:
            return _say(error)
        raise
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("graders."):
            raise
        return _say(
            GradeError(
                f"this tree holds no {error.name}: it is a student's release, which leaves out "
                f"what `{options.verb}` needs. It is a command for the course itself"
            )
        )
    except BrokenPipeError:
        _mute(sys.stdout)
        return 1
    except KeyboardInterrupt:
        return 128 + (ended_by or [signal.SIGINT])[0]


def _say(error: Exception) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(f"error: {error}", file=sys.stderr, flush=True)
    return 2


def _mute(stream: TextIO) -> None:
    """Send what is still to come to nowhere: the reader of the pipe has gone."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


@contextlib.contextmanager
def _for_a_reader(stream: TextIO) -> Iterator[None]:
    """Printing for somebody who may stop reading, as `head` does: no reason to stop the rest."""
    try:
        yield
        stream.flush()
    except BrokenPipeError:
        _mute(stream)


# -- grade -----------------------------------------------------------------------------------------


def _grade(arguments: argparse.Namespace) -> int:
    for option in ("html", "json"):
        place = getattr(arguments, option)
        if place and place != "-":
            _check_writable(f"--{option}", Path(place))
    if arguments.pdb and not sys.stdin.isatty():
        raise GradeError(
            "--pdb needs a terminal to ask you at, and standard input is none: "
            "run it in a terminal, without a pipe"
        )
    options = Options(
        isolation="none" if arguments.pdb else arguments.isolation,
        device=arguments.device,
        only=(arguments.task,) if arguments.task else (),
        pdb=arguments.pdb,
        seed=arguments.seed,
        plots=arguments.html is not None,
    )
    with Grader(arguments.lab, options, ROOT) as grader:
        if not arguments.watch:
            return _grade_once(grader, arguments)
        return _watch(grader, arguments)


def _grade_once(grader: Grader, arguments: argparse.Namespace) -> int:
    """Grade, report, and say what the exit status should be."""
    from graders.report.terminal import Progress, print_report

    wanted = [
        test
        for test in grader.expected().tests.values()
        if test.task in (grader.options.only or (test.task,))
        and grader.manifest.task(test.task).tier == "cpu"
    ]
    # The live line and a debugger cannot share a terminal.
    with contextlib.nullcontext() if arguments.pdb else Progress(len(wanted)) as progress:

        def show(outcome: Outcome) -> None:
            if progress is None:
                return
            if outcome.outcome == "not_attempted":
                progress.not_attempted(outcome.task, outcome.message)
            else:
                progress.task(outcome.task)
                progress.test(outcome.outcome == "passed")

        record = grader.run(arguments.target, on_result=show)
    with _for_a_reader(sys.stdout):
        if arguments.json == "-":
            sys.stdout.flush()
            sys.stdout.buffer.write(to_json(record))  # UTF-8, whatever the terminal speaks
        else:
            print_report(record)
    if arguments.json and arguments.json != "-":
        _write("--json", Path(arguments.json), to_json(record))
    if arguments.html:
        from graders.report.html import render_html

        _write("--html", arguments.html, render_html(record).encode())
        print(f"report written to {arguments.html}", file=sys.stderr)
    if arguments.hint:
        # Standard output may be JSON, for a program.
        with _for_a_reader(sys.stdout):
            print(_hint(grader, record), file=sys.stderr if arguments.json == "-" else sys.stdout)
    return 0 if everything_earned(record) else 1


def _watch(grader: Grader, arguments: argparse.Namespace) -> int:
    """Grade, and again after every save, until Ctrl-C."""
    from watchfiles import watch

    folder = grader.target(arguments.target)
    changes = watch(folder, yield_on_timeout=True, rust_timeout=500)
    next(changes)  # from here on no save is missed, not even one during the first run
    while True:
        try:
            _grade_once(grader, arguments)
        except _ERRORS as error:  # the next save may mend it
            _say(error)
        except Exception:
            traceback.print_exc()
            print("the grader failed; it goes on watching", file=sys.stderr)
        print(f"watching {arguments.target}; Ctrl-C ends", file=sys.stderr, flush=True)
        while not next(changes):
            pass


def _check_writable(option: str, path: Path) -> None:
    """Refuse a place for a report before minutes are spent on it."""
    try:
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise GradeError(_cannot_write(option, path, error)) from None


def _write(option: str, path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise GradeError(_cannot_write(option, path, error)) from None


def _cannot_write(option: str, path: Path, error: OSError) -> str:
    return (
        f"{option} {path} cannot be written ({error.strerror}): "
        "name a file in a folder that exists and that you may write to"
    )


def _hint(grader: Grader, record: Record) -> str:
    """The next hint of the first incomplete task; a file in ``.nox`` counts those shown."""
    store = grader.root / ".nox" / f"hints-{grader.number}.json"
    shown: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        read = json.loads(store.read_text(encoding="utf-8"))
        if isinstance(read, dict):
            shown = {name: level for name, level in read.items() if type(level) is int}
    for task in record.tasks:
        if task.status not in ("failed", "partial"):
            continue
        hints = next(t.hints for t in grader.manifest.tasks if t.id == task.id)
        level = min(max(shown.get(task.id, 0), 0), len(hints) - 1)
        with contextlib.suppress(OSError):  # a tree that is read only: the first hint, every time
            store.parent.mkdir(exist_ok=True)
            store.write_text(json.dumps({**shown, task.id: level + 1}), encoding="utf-8")
        return f"Hint {level + 1} of {len(hints)} for {task.title}: {hints[level]}"
    if not everything_earned(record):
        return "No hint: nothing was attempted."
    return "No hint needed: everything attempted was earned."


# -- a class ---------------------------------------------------------------------------------------


def _class(arguments: argparse.Namespace) -> int:
    from graders.classroom.discover import ClassError
    from graders.classroom.run import Settings, grade_class

    if arguments.export:
        return _export(arguments)
    for option in ("jobs", "jobs_per_process"):
        if getattr(arguments, option) < (option != "jobs"):
            raise ClassError(f"--{option.replace('_', '-')} must be a positive number")
    settings = Settings(
        submissions=arguments.submissions,
        lab=arguments.lab,
        out=arguments.out,
        jobs=arguments.jobs,
        isolation=arguments.isolation,
        device=arguments.device,
        gpus=arguments.gpus,
        per_gpu=arguments.per_gpu,
        seed=arguments.seed,
        executor=arguments.executor,
        address=arguments.address,
        feedback=arguments.feedback,
        per_slot=arguments.jobs_per_process,
    )
    return grade_class(settings, ROOT)


def _export(arguments: argparse.Namespace) -> int:
    from graders.classroom.export import export

    done = export(arguments.export, arguments.submissions, arguments.lab, arguments.out, ROOT)
    print(f"wrote the code of {len(done.students)} students to {arguments.out}")
    for student, reason in done.left_out.items():
        print(f"left out {student}: {reason}")
    print(f"to compare: {done.command}")
    return 0


def _verify(paths: Sequence[Path]) -> int:
    """Print a line a record; 1 if one cannot be believed."""
    from graders.signing import SigningError, key_path, load_keys, verify

    if not key_path().exists():  # a new one would have signed none of these
        raise SigningError(
            f"there is no signing key at {key_path()}: name the file of the key that signed "
            "in INFERLAB_KEY"
        )
    keys = load_keys()
    bad = 0
    for path in paths:
        try:
            found = verify(path.read_bytes(), keys)
            which = "the present key" if found.key_id == keys[-1].id else "an earlier key"
            print(
                f"{path}: genuine; the record of {clean(found.who)}, "
                f"signed {found.when} with {which} ({found.key_id})"
            )
        except OSError as error:
            bad += 1
            print(f"{path}: cannot be read ({error.strerror})")
        except SigningError as error:
            bad += 1
            print(f"{path}: NOT GENUINE: {clean(str(error))}")
    return 1 if bad else 0


def _key(rotating: bool) -> int:
    from graders.signing import key_path, load_keys, rotate

    if rotating:
        rotate()
    keys = load_keys()
    print(f"signing keys in {key_path()}:")
    for key in keys:
        print(f"  {key.id}  made {key.made}  {'signs' if key is keys[-1] else 'verifies only'}")
    return 0


# -- sync ------------------------------------------------------------------------------------------


def expected_lists(lab: str) -> tuple[bytes, bytes | None]:
    """The public and the hidden list of expected tests as committed, from what is collected now."""
    with Grader(lab, Options(isolation="none", device="cpu")) as grader:
        collected, hidden_present = grader.collect(), grader.hidden_present
    tests: dict[str, ExpectedTest] = {}
    for number, task, weight, visibility in collected:
        if number in tests:
            raise GradeError(f"two tests are named {number}: give one another name")
        tests[number] = ExpectedTest(task=task, weight=round(weight, 6), visibility=visibility)  # type: ignore[arg-type]
    public, hidden = make_expected(tests)
    return expected_json(public), expected_json(hidden) if hidden_present else None


def stale_lists() -> list[tuple[Path, bytes]]:
    """Lists of expected tests that differ from what the tests say, with what they should hold."""
    stale = []
    for lab in all_labs():
        manifest = find_lab(ROOT, lab)
        public, hidden = expected_lists(lab)
        folders = (
            (ROOT / "labs" / manifest.package, public),
            (ROOT / "graders" / manifest.name, hidden),
        )
        for folder, content in folders:
            path = folder / "expected.json"
            if content is not None and (not path.exists() or path.read_bytes() != content):
                stale.append((path, content))
    return stale


def _sync(check: bool, force: bool) -> int:
    if not (ROOT / "solutions").is_dir():
        raise SyncError(
            "this tree holds no solutions/: it is a student's release, whose stubs and lists of "
            "tests are in sync as they came. Nothing was written"
        )
    differing = sync(ROOT, check=check, force=force)
    for path, content in stale_lists():
        differing.append(path)
        if not check:
            path.write_bytes(content)
    for path in differing:
        print(
            ("differs: " if check else "wrote ")
            + str(path.relative_to(ROOT) if path.is_absolute() else path)
        )
    return 1 if check and differing else 0


# -- release ---------------------------------------------------------------------------------------


def _release(options: argparse.Namespace) -> int:
    from graders.release import main as release

    if options.check is not None and (options.dest or options.archive or options.labs):
        raise GradeError("--check only looks: leave out DEST, --labs and --archive")
    labs = options.labs.split(",") if options.labs else []
    return release(options.dest, labs, options.archive, options.complete, options.check, ROOT)
