"""``python -m graders attacks``: grade every attack, print what each reached."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from graders.report.terminal import make_console

from .attack import Attack, Family, families
from .judge import Judge, Verdict
from .protections import AttackError, require

NOT_STOPPED = "not stopped at this level"


def main(
    isolation: str, family: int | None, *, listing: bool, as_json: bool, without: Sequence[str],
    jobs: int = 2, name: str = "",
) -> int:  # fmt: skip
    """Run what was asked for; 1 if anything got through. Raises AttackError."""
    chosen = [f for f in families() if family in (None, f.number)]
    if not chosen:
        raise AttackError(f"there is no family {family}: they are 1 to {len(families())}")
    attacks = [a for f in chosen for a in f.attacks if name in a.name]
    if not attacks:
        raise AttackError(f"no attack's name holds {name!r}; --list shows them")
    if listing:
        _list(chosen)
        return 0
    missing = require(isolation, without)
    started = time.monotonic()
    declared = [a for a in attacks if isolation in a.levels]
    on_verdict = None if as_json else _progress
    # A process promises a neighbour less, and is asked less often.
    with Judge(isolation, neighbour_every=1 if isolation == "sandbox" else 4) as judge:
        verdicts = list(judge_all(judge, declared, jobs, on_verdict))
    verdicts.sort(key=lambda verdict: verdict.attack.id)
    open_ones = [a for a in attacks if isolation not in a.levels]
    if as_json:
        sys.stdout.buffer.write(to_json(isolation, verdicts, open_ones, missing))
    else:
        _print(chosen, isolation, verdicts, open_ones, missing, time.monotonic() - started)
    return 0 if all(v.stopped for v in verdicts) else 1


def judge_all(
    judge: Judge,
    attacks: Iterable[Attack],
    jobs: int,
    on_verdict: Callable[[Verdict], None] | None = None,
) -> Iterable[Verdict]:
    """Judge attacks, ``jobs`` at once, each beside and before somebody else."""
    todo: queue.SimpleQueue[Attack] = queue.SimpleQueue()
    done: queue.SimpleQueue[Verdict | BaseException] = queue.SimpleQueue()
    attacks = list(attacks)
    for attack in attacks:
        todo.put(attack)

    def work() -> None:
        try:
            while True:
                done.put(judge.judge(todo.get_nowait()))
        except queue.Empty:
            return
        except BaseException as error:
            done.put(error)

    for number in range(min(jobs, len(attacks))):
        threading.Thread(target=work, name=f"judge {number}", daemon=True).start()
    for _ in attacks:
        verdict = done.get()
        if isinstance(verdict, BaseException):
            raise verdict
        if on_verdict is not None:
            on_verdict(verdict)
        yield verdict


def _progress(verdict: Verdict) -> None:
    word = "stopped" if verdict.stopped else "GOT THROUGH"
    print(f"{verdict.attack.id}: {word} ({verdict.seconds:.1f} s)", file=sys.stderr, flush=True)
    for finding in verdict.findings:
        print(f"    {finding.kind}: {finding.text}", file=sys.stderr, flush=True)


def to_json(
    level: str, verdicts: Sequence[Verdict], open_ones: Sequence[Attack], missing: Sequence[str]
) -> bytes:
    """The whole run as data."""
    rows: list[dict[str, Any]] = [
        {
            "attack": v.attack.id, "level": v.level, "stopped": v.stopped, "earned": v.earned,
            "seconds": round(v.seconds, 3), "findings": [asdict(f) for f in v.findings],
        }
        for v in verdicts
    ]  # fmt: skip
    data = {
        "schema": 1, "isolation": level, "without": list(missing), "verdicts": rows,
        "not_stopped_here": [attack.id for attack in open_ones],
    }  # fmt: skip
    return msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n"


def markdown(chosen: Sequence[Family]) -> str:
    """The table of content/threat_model.md, so that it says what the suite does."""
    lines = ["| # | family | attacks | answer |", "|---|---|---|---|"]
    for family in chosen:
        at_process = sum("process" in attack.levels for attack in family.attacks)
        title = family.title.rstrip(".")
        count = f"{len(family.attacks)} ({at_process})"
        lines.append(f"| {family.number} | {title} | {count} | {family.answer} |")
    return "\n".join(lines) + "\n"


def _list(chosen: Sequence[Family]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("attack", "stopped by", "what it tries"):
        table.add_column(column, overflow="fold")
    for family in chosen:
        table.add_row(Text(f"{family.number:02d}", "bold"), "", Text(family.title, "bold"))
        for attack in family.attacks:
            levels = "process, sandbox" if "process" in attack.levels else "sandbox"
            table.add_row(f"   {attack.name}", levels, Text(attack.tries))
    make_console().print(table)


def _print(
    chosen: Sequence[Family],
    level: str,
    verdicts: Sequence[Verdict],
    open_ones: Sequence[Attack],
    missing: Sequence[str],
    seconds: float,
) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (
        ("attack", "left"), ("level", "left"), ("verdict", "left"), ("points", "right"),
        ("time", "right"),
    ):  # fmt: skip
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for family in chosen:
        table.add_row(Text(f"{family.number} {family.title}", "bold"))
        for v in (v for v in verdicts if v.attack.family == family.number):
            words = Text("stopped", "green") if v.stopped else _through(v)
            honest = sum(v.attack.earns.values())
            points, took = f"{v.earned:g} of {honest:g}", f"{v.seconds:.1f} s"
            table.add_row(f"   {v.attack.name}", level, words, points, took)
        for attack in (a for a in open_ones if a.family == family.number):
            table.add_row(f"   {attack.name}", level, Text(NOT_STOPPED, "yellow"))
    console = make_console()
    console.print(table)
    through = [v for v in verdicts if not v.stopped]
    console.print(
        f"\n{len(verdicts)} attacks at level {level} in {seconds:.0f} s: "
        f"{len(verdicts) - len(through)} stopped, {len(through)} got through"
        + (f"; {len(open_ones)} not run: this level does not stop them" if open_ones else "")
        + (f". WITHOUT {', '.join(missing)}" if missing else "")
    )


def _through(verdict: Verdict) -> Text:
    lines = "\n".join(f"{f.kind}: {f.text}" for f in verdict.findings)
    return Text(f"GOT THROUGH\n{lines}", "bold red")
