"""The command line as a student meets it: options, messages, exit codes, pipes, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from graders import cli, proofs
from graders.oracle.grade import Grader, Options
from graders.worker.limits import descendants

from .terminal import Terminal

GRADE = [sys.executable, "-m", "graders", "grade", "lab90", "--device", "cpu"]


def run(
    tree: Path, *arguments: str, command: list[str] = GRADE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """One command in a process of its own, standard input closed."""
    return subprocess.run(
        [*command, *arguments],
        cwd=tree,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """``cli.main`` handles SIGTERM; what was there before comes back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def here(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """``cli.main`` in this process works on the toy tree; temporary folders can be counted."""
    monkeypatch.setattr(cli, "ROOT", tree)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tree
    assert list((tmp_path / "temporary").iterdir()) == [], "a temporary folder was left behind"


def main(*arguments: str) -> int:
    return cli.main(["grade", *arguments])


# -- errors: the thing, the cause and the mend, in one line and status 2 ---------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lab77"], "there is no lab 'lab77'. The labs there are:\n  lab90"),
        (["lab90", "--task", "treble"], "no task 'treble'; its tasks are double, count, fast"),
        (["lab90", "--target", "nowhere"], "no submission at nowhere: there is no such folder"),
        (["lab90", "--target", "FILE"], "it is a file. Give the folder"),
        (["lab90", "--target", "EMPTY"], "holds no Python file. Give the folder"),
        (["lab90", "--html", "nowhere/a.html"], "--html nowhere/a.html cannot be written (No such"),
        (["lab90", "--json", "nowhere/a.json"], "--json nowhere/a.json cannot be written (No such"),
        (["lab90", "--html", "EMPTY"], "cannot be written (Is a directory): name a file"),
        (["lab90", "--pdb"], "--pdb needs a terminal"),
    ],
)
def test_an_error_is_one_clear_line(
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    (tmp_path / "FILE").write_text("")
    (tmp_path / "EMPTY").mkdir()
    assert main(*arguments) == 2
    out, err = capfd.readouterr()
    assert err.startswith("error: ") and says in err
    assert "Traceback" not in err and out == ""


def test_cuda_without_a_gpu_is_an_error(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main("lab90", "--device", "cuda") == 2
    assert "torch sees no CUDA device; use --device auto or cpu" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["grade"], ["grade", "lab90", "--isolation", "box"]])
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_known_before_grading(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "Grader", None)  # grading would be a TypeError
    assert main("lab90", "--json", str(tmp_path / "no" / "a.json")) == 2
    with pytest.raises(TypeError):
        main("lab90", "--json", str(tmp_path / "a.json"))
    assert not (tmp_path / "a.json").exists()


# -- what comes out --------------------------------------------------------------------------------


def test_the_solution_earns_status_0_and_both_reports(tree: Path, tmp_path: Path) -> None:
    page, data = tmp_path / "r.html", tmp_path / "r.json"
    done = run(
        tree, "--target", "solution", "--html", str(page), "--json", str(data), "--seed", "7"
    )
    assert done.returncode == 0, done.stderr
    assert "CPU tier  100/100" in done.stdout
    assert "seed 7" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr, "colour is for terminals"
    assert "not attempted (no GPU)" in done.stdout
    assert "fast: not attempted (no GPU)\n" in done.stderr, "nothing passed or failed there"
    record = json.loads(data.read_text())
    assert (record["lab"], record["seed"]) == ("lab90", 7)
    assert page.read_text().startswith("<!doctype html>") or "<html" in page.read_text()
    assert f"report written to {page}" in done.stderr


def test_json_on_standard_output_is_json_alone(
    here: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main("lab90", "--json", "--hint", "--task", "count") == 1
    out, err = capfdbinary.readouterr()
    assert [task["id"] for task in json.loads(out)["tasks"]] == ["count"]
    assert b"Hint 1 of 1" in err


def test_hints_advance_for_each_task_and_stay_at_the_last(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = here / "labs" / "lab90_toy" / "lab.toml"
    before = manifest.read_text()
    manifest.write_text(before.replace('hints = ["multiply"]', 'hints = ["grow", "times 2"]'))
    store = here / ".nox" / "hints-lab90.json"
    store.unlink(missing_ok=True)
    options = Options(device="cpu", isolation="none")
    try:
        assert main("lab90", "--hint", "--device", "cpu") == 1
        seen = [capfd.readouterr().out.splitlines()[-1]]
        with Grader("lab90", options, here) as grader:
            record = grader.run("labs")
            seen += [cli._hint(grader, record), cli._hint(grader, record)]
            other = msgspec.structs.replace(record, tasks=[t for t in record.tasks[1:]])
            seen += [cli._hint(grader, other), cli._hint(grader, record)]
            store.write_text('["no hints"]')
            seen.append(cli._hint(grader, grader.run("solution")))
    finally:
        manifest.write_text(before)
    assert seen == [
        "Hint 1 of 2 for Double a tensor: grow",
        "Hint 2 of 2 for Double a tensor: times 2",
        "Hint 2 of 2 for Double a tensor: times 2",
        "Hint 1 of 1 for Count up: yield",
        "Hint 2 of 2 for Double a tensor: times 2",
        "No hint needed: everything attempted was earned.",
    ]


def test_a_gpu_task_alone_without_a_gpu_is_no_success(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main("lab90", "--task", "fast", "--device", "cpu", "--hint") == 1
    assert capfd.readouterr().out.endswith("No hint: nothing was attempted.\n")


@pytest.mark.parametrize("both", [False, True], ids=["stdout", "both"])
def test_a_reader_that_leaves_early_costs_nothing(tree: Path, tmp_path: Path, both: bool) -> None:
    """As `| head -1` does, on one stream or both; files are written, the status is the same."""
    data = tmp_path / "r.json"
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [*GRADE, "--json", str(data), "--target", "solution", "--hint"],
        cwd=tree,
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=write if both else subprocess.PIPE,
        text=True,
    )
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert both or ("Traceback" not in err and "Broken" not in err)
    assert process.returncode == 0
    assert json.loads(data.read_text())["tasks"]


@pytest.mark.parametrize("plain", [False, True], ids=["colour", "NO_COLOR"])
def test_colour_on_a_terminal_unless_refused(tree: Path, plain: bool) -> None:
    environment = {"NO_COLOR": "1"} if plain else {}
    with Terminal([*GRADE, "--task", "count"], tree, **environment) as terminal:
        text = terminal.until_end()
        assert terminal.status == 1
    assert "CPU tier  0/40" in text
    assert ("\x1b[31m" in text) is not plain


# -- ended from outside ----------------------------------------------------------------------------


@pytest.fixture
def slow(tree: Path, tmp_path: Path) -> Iterator[Path]:
    """A submission that says when it runs and then hangs."""
    folder = tmp_path / "slow"
    folder.mkdir()
    source = "import time\nMARK = {!r}\ndef double(x):\n    open(MARK, 'w').close()\n"
    source += "    time.sleep(60)\ndef up(n): return double(n)\n"
    for name in ("double.py", "count.py"):
        (folder / name).write_text(source.format(str(tmp_path / "running")))
    yield folder


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_ended_in_the_middle_nothing_is_left(
    tree: Path, slow: Path, tmp_path: Path, number: int, status: int
) -> None:
    """A signal to the whole group, as a terminal sends it: no score, no process, no folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [*GRADE, "--target", str(slow)],
        cwd=tree,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not (tmp_path / "running").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    family = descendants(process.pid)
    assert len(family) >= 3 and list(temporary.iterdir())
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert "points" not in out and "Traceback" not in err
    assert list(temporary.iterdir()) == []
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < end
        time.sleep(0.05)


# -- watch and pdb ---------------------------------------------------------------------------------


def test_watch_grades_again_after_every_kind_of_save(tree: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(tree / "solutions" / "lab90_toy", work)
    good = (work / "count.py").read_text()
    with Terminal([*GRADE, "--watch", "--task", "count", "--target", str(work)], tree) as terminal:
        assert "CPU tier  40/40" in terminal.until("Ctrl-C ends")
        (work / "count.py").write_text("def up(n) return n\n")  # a save half-way through a thought
        text = terminal.until("Ctrl-C ends")
        assert "SyntaxError" in text and "CPU tier  0/40" in text
        (work / ".count.swp").write_text(good)  # editors that write beside it and rename
        os.replace(work / ".count.swp", work / "count.py")
        assert "CPU tier  40/40" in terminal.until("Ctrl-C ends")
        for number in range(501):  # the grader itself gives up: it says so, and goes on
            (work / f"m{number}.py").write_text("")
        assert "error: " in terminal.until("move what is not part", "Ctrl-C ends")
        for number in range(501):
            (work / f"m{number}.py").unlink()
        assert "CPU tier  40/40" in terminal.until("CPU tier  40/40", "Ctrl-C ends")
        terminal.write("\x03")
        assert "Traceback" not in terminal.until_end()
        assert terminal.status == 130


def test_pdb_stops_in_the_students_own_frame(tree: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(tree / "solutions" / "lab90_toy", work)
    (work / "double.py").write_text(
        "import torch\n\n\ndef double(x):\n    return helper(x)\n\n\ndef helper(x):\n"
        "    factor = 2\n    return torch.nn.functional.linear(x, torch.ones(3, 7)) * factor\n"
    )
    command = [*GRADE, "--pdb", "--target", str(work)]
    with Terminal(command, tree) as terminal:
        terminal.until("(Pdb) ")
        terminal.write("where\n")
        text = terminal.until("(Pdb) ")
        assert "double.py(5)double()" in text and "double.py(10)helper()" in text
        assert "servant.py" not in text
        terminal.write("p factor * 21\n")
        assert "42" in terminal.until("(Pdb) ")
        terminal.write("q\n")
        text = terminal.until_end()  # without another prompt, though more tests raise
        assert "(Pdb)" not in text
        assert "CPU tier  70/100" in text
        assert terminal.status == 1


def test_pdb_goes_on_and_does_not_stop_at_what_a_test_asks_for(tree: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(tree / "solutions" / "lab90_toy", work)
    (work / "count.py").write_text("def up(n):\n    return 1 / 0\n")
    with Terminal([*GRADE, "--pdb", "--target", str(work)], tree) as terminal:
        text = terminal.until("(Pdb) ")  # not at the TypeError that the task before is asked for
        assert "ZeroDivisionError" in text and "TypeError" not in text
        terminal.write("c\n")
        assert "CPU tier  60/100" in terminal.until_end()


# -- a student's tree ------------------------------------------------------------------------------


def test_a_release_grades_public_tests_and_says_what_is_open(release: Path) -> None:
    done = run(release)
    assert done.returncode == 1
    assert "CPU tier  0 of the 70 points that public tests carry\n" in done.stdout
    assert "Still to be graded by hidden tests: 30 of 100 points\n" in done.stdout
    for name, text in {
        "double.py": "def double(x):\n    return x * 2\n",
        "count.py": "def up(n):\n    return iter(range(n))\n",
    }.items():
        (release / "labs" / "lab90_toy" / name).write_text(text)
    done = run(release)
    assert done.returncode == 0
    assert "70 of the 70 points that public tests carry" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["grade", "lab90", "--target", "solution"], "no solution of lab90: it is a student's"),
        (["solutions"], "holds no solutions/: it is a student's release"),
        (["mutants"], "there is no graders/lab90/mutants.toml: in a student's release"),
        (["sync"], "holds no solutions/: it is a student's release"),
        (["sync", "--force"], "Nothing was written"),
    ],
)
def test_a_release_says_what_it_lacks(
    release: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.setattr(cli, "ROOT", release)
    monkeypatch.setattr(proofs, "ROOT", release)
    listed = (release / "labs" / "lab90_toy" / "expected.json").read_bytes()
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert says in err and "Traceback" not in err + out
    assert (release / "labs" / "lab90_toy" / "expected.json").read_bytes() == listed


# -- plain pytest ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "counts"),
    [
        ([], "4 failed, 1 skipped"),
        (["-x", "-k", "count or fast", "--isolation", "none"], "1 failed, 3 deselected"),
    ],
    ids=["all", "options"],
)
def test_plain_pytest_shows_the_students_side(
    tree: Path, arguments: list[str], counts: str
) -> None:
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--device", "cpu"]
    done = run(tree, "labs/lab90_toy", *arguments, command=pytest_)
    assert counts in done.stdout.splitlines()[-1]
    assert done.returncode == 1
    assert 'raise NotImplementedError("up: your code here")' in done.stdout
    assert "your traceback:" in done.stdout
    for internal in ("graders/oracle", "proxy.py", "servant.py", "msgspec"):
        assert internal not in done.stdout


def test_plain_pytest_over_two_labs_gives_each_its_own(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(tree, root, ignore=shutil.ignore_patterns("__pycache__", "solutions"))
    second = root / "labs" / "lab92_other"
    shutil.copytree(tree / "labs" / "lab90_toy", second)
    manifest = (second / "lab.toml").read_text()
    manifest = manifest.replace("number = 90", "number = 92").replace("lab90_toy", "lab92_other")
    (second / "lab.toml").write_text(manifest)
    (second / "count.py").write_text("def up(n):\n    return iter(range(n))\n")
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--device", "cpu"]
    done = run(root, "labs/", "-k", "count", command=pytest_)
    assert "1 failed, 1 passed" in done.stdout.splitlines()[-1], done.stdout
    assert "FAILED labs/lab90_toy/test_public.py::test_count" in done.stdout
