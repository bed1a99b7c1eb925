"""Grades attacks as a class is graded, and tells what each of them reached."""

from __future__ import annotations

import ctypes
import io
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from graders.classroom.pool import Slot, SlotFailed
from graders.classroom.slot import Job, Setup
from graders.oracle.stage import digest, python_files
from graders.record import Record, from_json, to_json
from graders.worker.limits import Limits, descendants

from .attack import Attack
from .canaries import Canaries, DiskWatch, end, family, works_in
from .course import LAB, Course

# A record holds 64 KiB of a test's output, which JSON may have to write sixfold.
MAX_RECORD_BYTES = 2**19  # for each test
MAX_ORACLE_BYTES = 3 * 2**30
MAX_SECONDS = 60.0
# Small, so that whoever wants more than its share meets the limit soon.
LIMITS = Limits(
    memory_bytes=3 * 2**28,
    processes=64,
    open_files=256,
    file_bytes=2**28,
    shm_bytes=2**26,
    tmp_bytes=2**26,
)
_PR_SET_CHILD_SUBREAPER = 36
# What moves a cursor, colours, or turns the reading direction round.
_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")
# The marks that attacks print to get into a page.
_ALIVE = re.compile(r"<(script|img|svg|iframe)\b.{0,40}canary", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """One thing that an attack reached: a kind of ``attack.KINDS``, and words."""

    kind: str
    text: str


@dataclass
class Verdict:
    """What an attack came to at one level. It was stopped if there are no findings."""

    attack: Attack
    level: str
    findings: list[Finding] = field(default_factory=list)
    earned: float = 0.0
    seconds: float = 0.0

    @property
    def stopped(self) -> bool:
        """Whether it reached nothing."""
        return not self.findings


class Judge:
    """Grades in warm slots, as many at once as there are threads that ask.

    Every attack is followed in the same slot by a neighbour, an honest submission whose record must
    be the one it had before any attack; with ``neighbour_every`` 4, after each fourth attack only.
    """

    def __init__(self, level: str, *, trusting: bool = False, neighbour_every: int = 1) -> None:
        self.level, self._every = level, neighbour_every
        self._folder = Path(tempfile.mkdtemp(prefix="inferlab-attacks-"))
        (self._folder / "course").mkdir()
        self._folder.chmod(0o755)
        self.course = Course(self._folder / "course", trusting=trusting)
        self._lock = threading.Lock()
        self._mine = set(family(os.getpid()))  # processes that belong here
        self._local = threading.local()
        self._slots: dict[Slot, Path] = {}  # with the folder each works in
        self._count = 0
        os.environ["INFERLAB_CANARY"] = self.course.token  # in the oracle's environment
        # What escapes its supervisor becomes a child of this process, and is seen.
        _adopt_orphans(True)

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            slot.kill()
        end([pid for pid in family(os.getpid()) if pid not in self._mine])
        _adopt_orphans(False)
        os.environ.pop("INFERLAB_CANARY", None)
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- slots -------------------------------------------------------------------------------------

    def _slot(self) -> Slot:
        """This thread's slot; a new one if the last was lost."""
        slot: Slot | None = getattr(self._local, "slot", None)
        if slot is not None:
            return slot
        with self._lock:
            self._count += 1
            self._local.work = self._folder / f"work-{self._count}"
        self._local.work.mkdir()
        self._local.work.chmod(0o755)
        setup = Setup(
            root=str(self.course.root), lab=LAB, isolation=self.level, device="cpu", seed=1,
            limits=LIMITS,
        )  # fmt: skip
        log = self._folder / "slot.log"
        with self._lock:  # a process that is just starting must not be taken for an escaped one
            slot = Slot(setup, self._local.work, log, None, silence_s=MAX_SECONDS)
            self._slots[slot] = self._local.work
            self._mine |= {slot.pid, *descendants(slot.pid)}
        self._local.slot, self._local.undisturbed, self._local.judged = slot, None, 0
        return slot

    def _drop(self) -> None:
        slot = self._local.slot
        self._local.slot = None
        slot.kill()
        del self._slots[slot]

    def _grade(self, slot: Slot, folder: Path) -> tuple[Record, int]:
        return slot.grade(Job(folder.name, str(folder), digest(python_files(folder))))

    def _neighbour(self, slot: Slot) -> dict[str, object]:
        """What an honest submission gets in this slot: everything that must not change."""
        folder = self._new_folder()
        try:
            record, _ = self._grade(slot, self.course.hand_in(folder, None, {}))
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)
        return {
            task.id: (task.earned, [(t.id, t.outcome, t.stdout, t.message) for t in task.tests])
            for task in record.tasks
        }

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder)) / "submission"

    # -- one attack --------------------------------------------------------------------------------

    def judge(self, attack: Attack) -> Verdict:
        """Grade one attack and look at everything it might have reached."""
        verdict = Verdict(attack, self.level)
        slot = self._slot()
        if self._local.undisturbed is None:
            self._local.undisturbed = self._neighbour(slot)
        canaries = Canaries(self.course, slot.pid)
        with self._lock:
            self._mine.add(canaries.bystander)
        folder = self._new_folder()
        started = time.monotonic()
        try:
            self.course.hand_in(folder, attack, canaries.target())
            with DiskWatch(self._local.work) as disk:
                self._grade_attack(verdict, slot, folder)
            verdict.seconds = time.monotonic() - started
            if verdict.seconds > MAX_SECONDS:
                verdict.findings.append(Finding("time", f"took {verdict.seconds:.0f} s"))
            self._look_at_processes(verdict)
            self._local.judged += 1
            if self._local.slot is not None and self._local.judged % self._every == 0:
                self._look_at_neighbour(verdict, slot)
            if self._local.slot is not None and self.level == "none":
                self._drop()  # what the attack patched there stays patched
            verdict.findings += [Finding(*f) for f in canaries.reached() + disk.reached()]
        finally:
            canaries.close()
            end(self._strays())
            shutil.rmtree(folder.parent, ignore_errors=True)
        return verdict

    def _grade_attack(self, verdict: Verdict, slot: Slot, folder: Path) -> None:
        try:
            record, resident = self._grade(slot, folder)
        except SlotFailed as error:
            verdict.findings.append(Finding("failed", f"the grader gave no record: {error}"))
            self._drop()
            return
        verdict.earned = sum(task.earned for task in record.tasks)
        verdict.findings += look_at_record(record, verdict.attack, self.course.token)
        if resident > MAX_ORACLE_BYTES:
            text = f"the oracle took {resident / 2**30:.1f} GiB"
            verdict.findings.append(Finding("memory", text))
            self._drop()

    def _look_at_neighbour(self, verdict: Verdict, slot: Slot) -> None:
        try:
            now, before = self._neighbour(slot), self._local.undisturbed
            for task in (task for task in now if now[task] != before[task]):
                text = f"the next one's {task} was {before[task]} and is {now[task]}"
                verdict.findings.append(Finding("neighbour", text))
        except SlotFailed as error:
            verdict.findings.append(Finding("neighbour", f"the next one was not graded: {error}"))
            self._drop()

    def _strays(self) -> list[int]:
        """What lives on below this thread's slot, or below no slot at all, and is nobody's."""
        slot = self._local.slot
        deadline, found = time.monotonic() + 2.0, None
        while True:
            with self._lock:  # nobody starts a slot meanwhile
                others = {s.pid: f"{work}/" for s, work in self._slots.items() if s is not slot}
                seen = {
                    pid
                    for pid in family(os.getpid(), leaving_out=list(others))
                    if pid not in self._mine and not works_in(pid, others.values())
                }
            # A process whose supervisor just left is nobody's for a moment: look more than once.
            found = seen if found is None else found & seen
            if not found or time.monotonic() > deadline:
                return sorted(found)
            time.sleep(0.05)

    def _look_at_processes(self, verdict: Verdict) -> None:
        if strays := self._strays():
            verdict.findings.append(Finding("outlived", f"{len(strays)} processes live on"))


def _adopt_orphans(yes: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def look_at_record(record: Record, attack: Attack, token: str) -> list[Finding]:
    """What a record says that it should not: points, secrets, size, whether it can be shown."""
    found = []
    for task in record.tasks:
        deserved = attack.earns.get(task.id, 0.0)
        if task.earned > deserved + 1e-9:
            text = f"{task.id}: {task.earned:g} points, {deserved:g} deserved"
            found.append(Finding("points", text))
        elif task.earned < deserved - 1e-9:
            text = f"{task.id}: {task.earned:g} of {deserved:g} honest points"
            found.append(Finding("honest", text))
    try:
        data = to_json(record)
        json.loads(data, parse_constant=_no_constant)
        from_json(data)
    except ValueError as error:
        return [*found, Finding("record", f"is no valid record: {error}")]
    tests = [test for task in record.tasks for test in task.tests]
    if len(data) > MAX_RECORD_BYTES * len(tests):
        found.append(Finding("record", f"is {len(data) / 2**20:.0f} MiB"))
    if token.encode() in data:
        found.append(Finding("secret", "; ".join(_loot(record))[:200] or "in the record"))
    if attack.runs and not any("attack ran" in test.stdout for test in tests):
        found.append(Finding("failed", "the attack was never reached: it proves nothing"))
    return found + look_at_reports(record)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _loot(record: Record) -> list[str]:
    tests = [test for task in record.tasks for test in task.tests]
    return [
        line.split(": canary")[0] for t in tests for line in t.stdout.splitlines() if "LOOT" in line
    ]


def look_at_reports(record: Record) -> list[Finding]:
    """Whether the record can be shown: nothing in it acts on a terminal, a browser or a sheet."""
    from graders.report.html import render_html
    from graders.report.terminal import make_console, print_report

    found = []
    stream = io.StringIO()
    print_report(record, make_console(stream, width=100))
    if control := _CONTROL.search(stream.getvalue()):
        found.append(Finding("rendered", f"{control[0]!r} reaches the terminal"))
    if _ALIVE.search(render_html(record)):
        found.append(Finding("rendered", "HTML of the submission is in the page"))
    if "attack ran" in render_html(record, "feedback"):  # hidden inputs would go the same way
        found.append(Finding("rendered", "its own words are in the feedback"))
    return found
