"""A class of the toy lab: its tree, submissions of every kind, and the command that grades them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graders.oracle.grade import ROOT
from graders.record import Record, from_json
from graders.signing import load_keys, verify
from tests.grader.toy import GOOD, Course

PACKAGE = "lab90_toy"
# What the command line does, in the toy's tree.
DRIVER = (
    "import sys; from pathlib import Path; from graders import cli; "
    "cli.ROOT = Path(sys.argv[1]); sys.exit(cli.main(sys.argv[2:]))"
)


def make_root(root: Path, timeout_s: int = 4) -> Path:
    """A tree with the toy lab."""
    Course(root)
    manifest = root / "labs" / PACKAGE / "lab.toml"
    text = manifest.read_text().replace("timeout_s = 4", f"timeout_s = {timeout_s}")
    manifest.write_text(text)
    return root


def hand_in(
    folder: Path, student: str, double: str = GOOD["double.py"], count: str = GOOD["count.py"]
) -> Path:
    """One student's package, as a folder."""
    package = folder / student / PACKAGE
    package.mkdir(parents=True)
    for name, text in (("double.py", double), ("count.py", count)):
        if text:
            (package / name).write_text(text)
    return package


def pack(folder: Path, student: str, form: str) -> None:
    """Turn a student's folder into an archive."""
    shutil.make_archive(str(folder / student), form, folder / student)
    shutil.rmtree(folder / student)


def command(root: Path, submissions: Path, out: Path, *options: str) -> list[str]:
    """The command line that grades a class of the toy lab."""
    return [
        sys.executable, "-c", DRIVER, str(root), "class", str(submissions),
        "--lab", "lab90", "--out", str(out), "--device", "cpu", "--jobs", "2", *options,
    ]  # fmt: skip


def grade(
    root: Path, submissions: Path, out: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    """Grade in a process of its own."""
    return subprocess.run(
        command(root, submissions, out, *options),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def points(out: Path) -> dict[str, tuple[str, str]]:
    """Student to (status, points), from grades.csv."""
    with (out / "grades.csv").open(newline="", encoding="utf-8") as file:
        return {row["student"]: (row["status"], row["points"]) for row in csv.DictReader(file)}


def record(out: Path, student: str) -> Record:
    """A student's record; the signature and the name in it are checked."""
    found = verify((out / "records" / f"{student}.json").read_bytes(), load_keys())
    assert found.who == student
    return from_json(found.record)


def journal(out: Path) -> list[dict[str, Any]]:
    """Every whole line of the journal."""
    lines = []
    for line in (out / "journal.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # torn by a kill
            continue
    return lines


def starts(out: Path) -> Counter[str]:
    """How often each key was started."""
    return Counter(line["key"] for line in journal(out) if line["event"] == "start")


def processes_of(work: str) -> list[int]:
    """Processes whose temporary files belong in ``work``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
                alive = b"State:\tZ" not in (entry / "status").read_bytes()
            except OSError:
                continue
            if alive and f"TMPDIR={work}".encode() in environment.split(b"\0"):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def wait_until(what: str, ready: Callable[[], bool]) -> None:
    """Poll; the deadline is only there to end a test that would hang."""
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
