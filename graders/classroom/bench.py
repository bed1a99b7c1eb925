"""Measure the grading of a class: submissions a minute, memory over time, what warm slots save.

    python -m graders.classroom.bench --students 300 --cold 10 --json FILE

The class is made up from the lab's solution, stubs and mutants, with broken and hostile ones among
them, the same for the same seed. Needs the solutions. Figures are worth something on an idle
machine only; the load before and after is in the JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graders.classroom.run import ROOT, Settings, cores, grade_class
from graders.manifest import Manifest, find_lab
from graders.oracle.stage import python_files

# What is appended to a module, and how it behaves then.
_HOSTILE = {
    "exits": "\nimport os\nos._exit(0)\n",
    "kills its parent": "\nimport os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n",
    "floods": "\nprint('x' * 10**8)\n",
    "forks": "\nimport os\nwhile True:\n    os.fork()\n",
    "fills memory": "\nhog = [bytearray(2**24) for _ in range(10**6)]\n",
    "leaves processes": (
        "\nimport os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
    ),
    "patches": "\nimport builtins\nbuiltins.isinstance = lambda *a: True\n",
}


def make_class(folder: Path, manifest: Manifest, students: int, seed: int) -> Counter[str]:
    """Write a class; returns how many of each kind. No two submissions are the same."""
    from graders.proofs import load_mutants

    solution = python_files(ROOT / "solutions" / manifest.package)
    stubs = python_files(ROOT / "labs" / manifest.package)
    modules = sorted({task.module + ".py" for task in manifest.tasks})
    mutants = load_mutants(manifest.name)
    draw = random.Random(seed)
    kinds: Counter[str] = Counter()
    for number in range(students):
        files = dict(solution)
        kind = draw.choices(
            ("correct", "half done", "mutant", "broken", "hostile"), (35, 35, 15, 10, 5)
        )[0]
        module = draw.choice(modules)
        if kind == "half done":
            for name in draw.sample(modules, draw.randint(1, len(modules) - 1)):
                files[name] = stubs[name]
        elif kind == "mutant":
            mutant = draw.choice(mutants)
            text = files[mutant.module].decode()
            files[mutant.module] = text.replace(mutant.find, mutant.replace).encode()
        elif kind == "broken":
            if draw.random() < 0.5:
                files[module] += b"\ndef broken(:\n"
            else:
                del files[module]
        elif kind == "hostile":
            files[module] += draw.choice(list(_HOSTILE.values())).encode()
        kinds[kind] += 1
        package = folder / f"s{number:04d}" / manifest.package
        package.mkdir(parents=True)
        for name, data in files.items():
            (package / name).write_bytes(data + f"\n# {number}\n".encode())
    return kinds


def measure(settings: Settings) -> dict[str, Any]:
    """Grade, and read from the journal when each submission was done and how large its slot was."""
    began = time.time()
    with contextlib.redirect_stdout(io.StringIO()):
        status = grade_class(settings)
    seconds = time.time() - began
    lines = [json.loads(x) for x in (settings.out / "journal.jsonl").read_text().splitlines()]
    done = [line for line in lines if line["event"] == "done"]
    summary = json.loads((settings.out / "summary.json").read_text())
    resident = [line["resident_bytes"] for line in done]
    third = max(1, len(resident) // 3)
    return {
        "status": status,
        "students": summary["students"],
        "graded": summary["graded"],
        "failed": summary["failed"],
        "graded_now": summary["graded_now"],
        "seconds": seconds,
        "per_minute": 60 * len(done) / seconds,
        "seconds_each": [line["seconds"] for line in done],
        "median_seconds_each": statistics.median(line["seconds"] for line in done),
        "peak_resident_bytes": resident,
        "first_third_median_bytes": statistics.median(resident[:third]),
        "last_third_median_bytes": statistics.median(resident[-third:]),
        "histogram": summary["histogram"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a class, grade it with warm slots and a part of it with a new slot for each."""
    parser = argparse.ArgumentParser(prog="python -m graders.classroom.bench", description=__doc__)
    parser.add_argument("--lab", default="lab02")
    parser.add_argument("--students", type=int, default=300)
    parser.add_argument("--cold", type=int, default=10, help="so many with a new process for each")
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--isolation", default="sandbox", choices=["process", "sandbox"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    manifest = find_lab(ROOT, options.lab)
    with tempfile.TemporaryDirectory(prefix="inferlab-bench-") as top:
        os.environ["INFERLAB_KEY"] = f"{top}/key.json"
        result: dict[str, Any] = {
            "schema": 1,
            "lab": manifest.name,
            "seed": options.seed,
            "jobs": options.jobs,
            "cores": cores(),
            "isolation": options.isolation,
            "python": platform.python_version(),
            "load_before": os.getloadavg(),
        }
        for name, students, per_slot in (
            ("cold", options.cold, 1),
            ("warm", options.students, 10**6),
        ):
            folder = Path(top) / name
            kinds = make_class(folder / "class", manifest, students, options.seed)
            settings = Settings(
                folder / "class", manifest.name, folder / "out", jobs=options.jobs,
                isolation=options.isolation, per_slot=per_slot,
            )  # fmt: skip
            result[name] = {"kinds": dict(kinds), **measure(settings)}
        result["load_after"] = os.getloadavg()
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name in ("cold", "warm"):
        one = result[name]
        print(
            f"{name}: {one['students']} submissions, {one['per_minute']:.1f} a minute, "
            f"{one['median_seconds_each']:.2f} s each (median), failed {one['failed']}; a slot's "
            f"peak memory {one['first_third_median_bytes'] / 2**20:.0f} MiB in the first third, "
            f"{one['last_third_median_bytes'] / 2**20:.0f} MiB in the last"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
