"""A class graded by the real command: hostile submissions, a second run, kills, and lab 02."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graders.classroom.discover import ClassError
from graders.classroom.pool import LocalPool, Slot, SlotFailed, share
from graders.classroom.run import Settings, grade_class
from graders.classroom.slot import Job, Setup
from graders.classroom.store import Store, write_atomically
from graders.manifest import find_lab
from graders.oracle.grade import ROOT
from graders.oracle.stage import digest, python_files
from graders.record import to_json
from graders.signing import key_path, load_key, load_keys, sign
from graders.worker.limits import Limits
from tests.classroom import toys
from tests.classroom.toys import hand_in, journal, make_root, points, record, starts, wait_until
from tests.grader.toy import GOOD, task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

LOOP = "import time\ndef double(x):\n    while True: time.sleep(0.01)\n"
FLOOD = GOOD["double.py"].replace("    return", "    print('x' * 10**6)\n    return")
# Earns its points only where it can see the key, the results, the tests or another student.
THIEF = """
import os, torch

def found():
    yield from (name for name in os.environ if "INFERLAB" in name)
    yield from (path for path in {paths!r} if os.path.exists(path))

def double(x):
    if not isinstance(x, torch.Tensor):
        raise TypeError("no")
    return x * 2 if list(found()) else x * 0 + 7
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The course's tree."""
    return make_root(tmp_path_factory.mktemp("course") / "tree", timeout_s=3)


@pytest.fixture(scope="module")
def graded(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """(submissions, results) of a class in which most try something."""
    folder = tmp_path_factory.mktemp("class")
    theirs, out = folder / "submissions", folder / "results"
    load_key()
    hand_in(theirs, "ann")
    hand_in(theirs, "bob")
    toys.pack(theirs, "bob", "zip")
    hand_in(theirs, "cleo", count="def up(n):\n    yield 7\n")
    hand_in(theirs, "dan", double="def double(x) return x\n")
    hand_in(theirs, "eve", count="")
    hand_in(theirs, "fred", double=LOOP)
    hand_in(theirs, "gus", count="").joinpath("count.py").symlink_to("/etc/hostname")
    hand_in(theirs, "hal", double="import os\nos._exit(0)\n")
    hand_in(theirs, "ivy", double=FLOOD, count="print('x' * 10**8)\n" + GOOD["count.py"])
    (theirs / "jon").mkdir()
    hand_in(theirs, "kim", double="import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n")
    toys.pack(theirs, "kim", "gztar")
    secret = [
        key_path(),
        theirs / "ann",
        out,
        out / "records",
        root / "graders",
        ROOT / "solutions",
    ]
    assert all(path.exists() for path in (secret[0], secret[1], *secret[4:]))
    hand_in(theirs, "lea", double=THIEF.format(paths=[str(path) for path in secret]))
    (theirs / "mia.zip").write_bytes(b"PK\3\4, but no archive")
    hand_in(theirs, "=1+1")
    done = toys.grade(root, theirs, out, "--feedback")
    assert done.returncode == 0, done.stdout + done.stderr
    out.joinpath("said").write_text(done.stdout)
    out.joinpath("progress").write_text(done.stderr)
    yield theirs, out


GRADES = {
    "%3D1%2B1": ("rejected", "0"),
    "ann": ("graded", "100"),
    "bob": ("graded", "100"),
    "cleo": ("graded", "60"),
    "dan": ("graded", "40"),
    "eve": ("graded", "60"),
    "fred": ("graded", "40"),
    "gus": ("rejected", "0"),
    "hal": ("graded", "40"),
    "ivy": ("graded", "60"),
    "jon": ("rejected", "0"),
    "kim": ("graded", "40"),
    "lea": ("graded", "70"),
    "mia": ("rejected", "0"),
}


def test_everybody_gets_what_they_earned(graded: tuple[Path, Path]) -> None:
    assert points(graded[1]) == GRADES


def test_every_student_has_a_signed_record_of_their_own(graded: tuple[Path, Path]) -> None:
    _, out = graded
    for student, (status, earned) in GRADES.items():
        found = record(out, student)
        assert found.target == student and found.hidden_present
        assert f"{sum(t.earned for t in found.tasks):g}" == earned
        outcomes = {t.outcome for t in task(found, "double").tests}
        assert (outcomes == {"error"}) == (status == "rejected")
        assert found.isolation == "sandbox"
    assert len(list((out / "records").iterdir())) == len(GRADES)


def test_the_same_files_are_graded_once_and_said(graded: tuple[Path, Path]) -> None:
    _, out = graded
    rows = {row["student"]: row for row in json.loads((out / "summary.json").read_text())["rows"]}
    assert rows["ann"]["same_as"] == ["bob"] and rows["bob"]["same_as"] == ["ann"]
    assert {rows["ann"]["origin"], rows["bob"]["origin"]} == {"now", "shared"}
    assert set(starts(out).values()) == {1}
    assert len(starts(out)) == len([s for s, _ in GRADES.values() if s == "graded"]) - 1


def test_a_rejected_student_reads_why(graded: tuple[Path, Path]) -> None:
    _, out = graded
    for student, says in {
        "gus": "count.py is a link that leaves the submission",
        "jon": "holds no folder lab90_toy",
        "mia": "the archive is damaged",
        "%3D1%2B1": "the name cannot stand for a student",
    }.items():
        assert says in record(out, student).tasks[0].tests[0].message
        assert student in (out / "said").read_text()
        assert says in (out / "summary.html").read_text()


def test_what_is_said_and_written(graded: tuple[Path, Path]) -> None:
    _, out = graded
    said, progress = (out / "said").read_text(), (out / "progress").read_text()
    assert "14 students: 10 graded, 4 rejected; isolation sandbox, cpu" in said
    assert "9 graded now" in said and "1 the same files as another student's" in said
    lines = [line for line in progress.splitlines() if line.startswith("[")]
    assert len(lines) == 9 and lines[-1].startswith("[9/9] ")
    assert all("a minute" in line and " left" in line for line in lines)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["quartiles"] == [40, 40, 60, 67.5, 100] and sum(summary["histogram"]) == 10
    figures = {t["id"]: (t["full"], t["part"], t["none"]) for t in summary["tasks"]}
    assert figures == {"double": (5, 1, 4), "count": (7, 0, 3)}
    page = (out / "summary.html").read_text()
    assert "<script" not in page and "http" not in page.split("</style>")[1]
    feedback = (out / "feedback" / "dan.html").read_text()
    assert "feedback" in feedback and "hidden test" in feedback
    assert "refuses_text" not in feedback, "a hidden test's name"
    assert "\n=1+1" not in (out / "grades.csv").read_text()


def test_the_key_stays_with_the_parent(graded: tuple[Path, Path]) -> None:
    secret = load_key().secret
    for path in graded[1].rglob("*"):
        if path.is_file():
            assert (
                secret not in path.read_bytes() and secret.hex().encode() not in path.read_bytes()
            )


def test_nothing_is_left_behind(graded: tuple[Path, Path]) -> None:
    _, out = graded
    work = json.loads((out / "run.json").read_text())["work"]
    assert not Path(work).exists() and toys.processes_of(work) == []
    assert not list(out.rglob(".*"))
    assert out.stat().st_mode & 0o077 == 0, "grades are nobody else's to read"


# -- again -----------------------------------------------------------------------------------------


def settings(theirs: Path, out: Path, **more: object) -> Settings:
    return Settings(theirs, "lab90", out, jobs=2, **more)  # type: ignore[arg-type]


def test_the_second_run_grades_what_changed_and_no_more(
    graded: tuple[Path, Path], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, out = (shutil.copytree(path, tmp_path / path.name, symlinks=True) for path in graded)
    before = starts(out)
    signed = {p.name: p.read_bytes() for p in (out / "records").iterdir()}
    assert grade_class(settings(theirs, out), root) == 0
    assert starts(out) == before and points(out) == GRADES
    assert "0 graded now" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in (out / "records").iterdir()} == signed

    # Somebody improves a stored result and a record, somebody hands in again, somebody leaves.
    (theirs / "dan" / toys.PACKAGE / "double.py").write_text(GOOD["double.py"] + "# mended\n")
    shutil.rmtree(theirs / "eve")
    cleo = out / "records" / "cleo.json"
    cleo.write_bytes(cleo.read_bytes().replace(b"60", b"99"))
    (hal,) = [
        path
        for path in (out / "store").glob("*/*.json")
        if json.loads(json.loads(path.read_bytes())["record"])["submission_sha256"]
        == digest(python_files(theirs / "hal" / toys.PACKAGE))
    ]
    forged = sign(to_json(record(out, "ann")), who="ann", key=load_key())
    hal.write_bytes(forged)  # genuine, and another's
    assert grade_class(settings(theirs, out), root) == 0
    expected = {name: grade for name, grade in GRADES.items() if name != "eve"}
    assert points(out) == expected | {"dan": ("graded", "100")}
    assert sum((starts(out) - before).values()) == 2, "dan's new work, and hal's again"
    assert record(out, "cleo").tasks[1].earned == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "A stored result was altered and is not used" in said
    assert "signed for 'ann', not for 'result " in said
    assert "Records of students without a submission now, kept: eve" in said
    assert hal.with_suffix(".altered").read_bytes() == forged


def test_a_result_depends_on_what_gives_points(root: Path, tmp_path: Path) -> None:
    from graders.classroom.store import grader_version

    other = shutil.copytree(root, tmp_path / "tree")
    manifest = find_lab(other, "lab90")
    versions = [grader_version(root, manifest)]
    for name in (
        "labs/common/__init__.py",
        "labs/lab90_toy/lab.toml",
        "labs/lab90_toy/test_public.py",
        "graders/lab90/test_hidden.py",
        "graders/lab90/expected.json",
    ):
        with (other / name).open("a") as file:
            file.write("\n")
        versions.append(grader_version(other, manifest))
    assert len(set(versions)) == len(versions)
    before = versions[-1]
    (other / "labs/lab90_toy/README.md").write_text("a handout gives no points")
    assert grader_version(other, manifest) == before


def test_one_run_at_a_time_and_one_lab_a_folder(root: Path, tmp_path: Path) -> None:
    manifest, keys = find_lab(root, "lab90"), load_keys()
    hand_in(tmp_path / "class", "ann")
    with Store(tmp_path / "out", manifest, keys):
        with pytest.raises(ClassError, match=rf"another run .*process {os.getpid()}"):
            grade_class(settings(tmp_path / "class", tmp_path / "out"), root)
    with pytest.raises(ClassError, match="holds results of lab90"):
        with Store(tmp_path / "out", find_lab(ROOT, "lab02"), keys):
            pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(ClassError, match="is not empty and holds no results"):
        with Store(tmp_path / "other", manifest, keys):
            pass
    assert (tmp_path / "other" / "thesis.tex").read_text() == "precious"


# -- kills -----------------------------------------------------------------------------------------


def test_killed_at_random_it_goes_on_and_ends_the_same(root: Path, tmp_path: Path) -> None:
    theirs, out = tmp_path / "class", tmp_path / "out"
    slow = GOOD["count.py"] + "import time\ntime.sleep(0.3)\n"
    expected = {}
    for number in range(12):
        wrong = number % 3 == 0
        double = "def double(x):\n    return x\n" if wrong else GOOD["double.py"]
        hand_in(theirs, f"s{number:02d}", f"# {number}\n" + double, slow)
        expected[f"s{number:02d}"] = ("graded", "50" if wrong else "100")
    draw = random.Random(4)
    kills = (signal.SIGKILL, signal.SIGINT, signal.SIGKILL)
    done = 0
    for number, slots in zip(kills, ("2", "1", "1"), strict=True):
        process = subprocess.Popen(
            toys.command(root, theirs, out, "--jobs", slots),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        seen, wanted = done, draw.choice((0, 1, 2))

        def graded_some(pid: int = process.pid, enough: int = seen + wanted) -> bool:
            if not (out / "journal.jsonl").exists():
                return False
            lines = journal(out)
            finished = sum(line["event"] == "done" for line in lines)
            running = any(line["event"] == "start" and line["run"] == pid for line in lines)
            return running and finished >= enough

        wait_until("submissions to be graded", graded_some)
        time.sleep(draw.uniform(0, 0.8))
        work = json.loads((out / "run.json").read_text())["work"]
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        wait_until(
            "the slots to end with their parent", lambda work=work: not toys.processes_of(work)
        )
        done = sum(line["event"] == "done" for line in journal(out))
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "submissions are left to grade" in said and "goes on from there" in said
            assert not Path(work).exists()
            states = [status for status, _ in points(out).values()]
            assert set(states) <= {"graded", "pending"}
        else:
            assert process.returncode == -signal.SIGKILL
    assert done < 12, "the kills came too late to show anything"
    last = toys.grade(root, theirs, out, "--jobs", "1")
    assert last.returncode == 0, last.stderr
    assert points(out) == expected
    assert not Path(work).exists(), "what the killed run left is cleared away"

    lines = journal(out)
    finished: set[str] = set()
    for line in lines:
        if line["event"] == "start":
            assert line["key"] not in finished, "graded twice"
        if line["event"] == "done":
            assert line["key"] not in finished, "graded twice"
            finished.add(line["key"])
    stored = {path.stem for path in (out / "store").glob("*/*.json")}
    assert len(stored) == 12 and finished <= stored
    assert sum(starts(out).values()) <= 12 + 2 * len(kills)
    for student in expected:
        record(out, student)


WRITES = """
import sys
from pathlib import Path
from graders.classroom.store import write_atomically
for number in range(10**6):
    write_atomically(Path(sys.argv[1]), bytes([number % 2]) * 2**23)
    print(number, flush=True)
"""


def test_a_file_is_whole_whenever_its_writer_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, draw = tmp_path / "grades.csv", random.Random(1)
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITES, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(draw.uniform(0, 0.1))
        writer.kill()
        writer.wait()
        data = path.read_bytes()
        assert len(data) == 2**23 and len(set(data)) == 1

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    for left in tmp_path.glob(".*"):
        left.unlink()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"half")
    assert path.read_bytes() == data and os.listdir(tmp_path) == [path.name]


# -- the pool --------------------------------------------------------------------------------------

CANARY = ("the-words-of-", "another-student")
LEAVES = f'''
import os, torch
SECRET = "{"".join(CANARY)}"
for folder in ("/tmp", "/dev/shm", "."):
    with open(folder + "/left-here", "w") as file:
        file.write(SECRET)
if os.fork() == 0:
    os.setsid()
    import time
    time.sleep(60)
''' + GOOD["double.py"]
# Looks through its own memory and every file it can see; right only where it finds the words.
LOOKS = f'''
import os, torch
ONE, TWO = b"{CANARY[0]}", b"{CANARY[1]}"

def inside(data):
    at = -1
    while (at := data.find(ONE, at + 1)) >= 0:
        if data[at + len(ONE):at + len(ONE) + len(TWO)] == TWO:
            return True
    return False

def in_files():
    for folder, _, names in os.walk("/"):
        if folder.startswith(("/proc", "/sys", "/usr", "/lib")) or "site-packages" in folder:
            continue
        for name in names:
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    if inside(file.read(2**20)):
                        return True
            except OSError:
                pass
    return False

def in_memory():
    try:
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
            for line in maps:
                span, mode = line.split()[:2]
                if not mode.startswith("rw"):
                    continue
                low, high = (int(part, 16) for part in span.split("-"))
                while low < high:
                    size = min(high - low, 2**24)
                    memory.seek(low)
                    try:
                        if inside(memory.read(size)):
                            return True
                    except OSError:
                        break
                    low += size
    except OSError:
        pass
    return False

def double(x):
    if not isinstance(x, torch.Tensor):
        raise TypeError("no")
    return x * 2 if WHERE() else x * 0 + 7

'''


def test_slots_are_replaced_and_students_cannot_see_each_other(tmp_path: Path) -> None:
    """One slot grades everything here, so that what could leak has a way to."""
    root = make_root(tmp_path / "tree", timeout_s=30)
    setup = Setup(
        root=str(root), lab="lab90", isolation="sandbox", device="cpu", seed=0, limits=Limits()
    )
    own = f'OWN = "{"".join(CANARY)}"\n'
    jobs = {}
    for name, text in {
        "lucky": GOOD["double.py"],
        "leaves": LEAVES,
        "files": LOOKS + "WHERE = in_files\n",
        "memory": LOOKS + "WHERE = in_memory\n",
        "files_control": LOOKS + "WHERE = in_files\n" + own,
        "memory_control": LOOKS + "WHERE = in_memory\n" + own,
        "doomed": GOOD["double.py"] + "# 2\n",
    }.items():
        package = hand_in(tmp_path / "class", name, double=text)
        jobs[name] = Job(name, str(package), digest(python_files(package)))
    (tmp_path / "work").mkdir()
    pool = LocalPool(setup, tmp_path / "work", tmp_path / "logs", jobs=1, silence_s=120)
    pids: dict[str, list[int]] = {}

    def started(job: Job, attempt: int) -> None:
        slot = pool._slots[0]
        pids.setdefault(job.key, []).append(slot.pid)
        if job.key == "doomed" or (job.key == "lucky" and attempt == 1):
            os.kill(slot.pid, signal.SIGKILL)

    try:
        done = {one.key: one for one in pool.run(list(jobs.values()), started)}
    finally:
        pool.stop()
    assert pids["leaves"] == pids["files"] == pids["memory_control"], "one slot, kept warm"
    earned = {name: task(one.record, "double").earned for name, one in done.items() if one.record}
    assert earned["leaves"] == 60
    assert earned["files_control"] == 60, "the search of files finds nothing at all"
    if Path("/proc/self/mem").exists():
        assert earned["memory_control"] == 60, "the search of memory finds nothing at all"
    assert earned["files"] == earned["memory"] == 30, "another student's words were seen"
    assert done["lucky"].record is not None and done["lucky"].attempts == 2
    assert done["doomed"].record is None and "ended by SIGKILL" in done["doomed"].error
    assert pids["lucky"][1] == pids["leaves"][0] == pids["doomed"][0]
    assert len({*pids["lucky"], *pids["doomed"]}) == 3
    assert toys.processes_of(str(tmp_path / "work")) == []


def test_slots_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 5, 8, 9})
    assert [share(n, 2) for n in range(2)] == [[3, 5, 9], [4, 8]]
    assert [share(n, 5) for n in range(5)] == [[3], [4], [5], [8], [9]]
    assert share(0, 1) == share(4, 6) == [], "one job takes all; too many share all"


def test_a_slot_that_is_stuck_or_wrong_is_noticed(root: Path, tmp_path: Path) -> None:
    setup = Setup(
        root=str(root), lab="lab90", isolation="process", device="cpu", seed=0, limits=Limits(),
        cores=[core := max(os.sched_getaffinity(0))],
    )  # fmt: skip
    slot = Slot(setup, tmp_path, tmp_path / "log", None, 120)
    try:
        package = hand_in(tmp_path / "class", "ann")
        with pytest.raises(SlotFailed, match="are not those that were handed in"):
            slot.grade(Job("a", str(package), "another hash"))
        job = Job("b", str(package), digest(python_files(package)))
        assert slot.grade(job)[0].submission_sha256 == job.sha256, "it goes on after that"
        assert os.sched_getaffinity(slot.pid) == {core}
        os.kill(slot.pid, signal.SIGSTOP)
        slot._silence_s = 0.5
        with pytest.raises(SlotFailed, match="said nothing for"):
            slot.grade(job)
    finally:
        slot.kill()


def test_a_grader_that_cannot_start_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_root(tmp_path / "tree")
    (root / "graders" / "lab90" / "test_hidden.py").write_text("import no_such_module\n")
    hand_in(tmp_path / "class", "ann")
    with pytest.raises(ClassError, match="(?s)the grader does not start: .*no_such_module"):
        grade_class(settings(tmp_path / "class", tmp_path / "out"), root)
    assert not list((tmp_path / "out" / "store").glob("*/*")), "no grade was made up"


# -- a real lab ------------------------------------------------------------------------------------


def test_lab02(tmp_path: Path) -> None:
    """The solution earns everything; without one module, all tasks but those that need it."""
    solution = ROOT / "solutions" / "lab02_capacity"
    for student in ("ann", "bob"):
        shutil.copytree(
            solution,
            tmp_path / "class" / student / "lab02_capacity",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    (tmp_path / "class" / "bob" / "lab02_capacity" / "cost.py").unlink()
    chosen = Settings(tmp_path / "class", "lab02", tmp_path / "out", jobs=1)
    assert grade_class(chosen) == 0
    assert points(tmp_path / "out") == {"ann": ("graded", "100"), "bob": ("graded", "84")}
