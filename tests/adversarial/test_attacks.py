"""Every attack is stopped where it must be; and the judge sees those that are not."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graders.adversarial import protections, run
from graders.adversarial.attack import KINDS, Attack, families
from graders.adversarial.judge import Judge, Verdict, look_at_record
from graders.adversarial.protections import AttackError
from graders.isolation import sandbox
from graders.oracle.grade import ROOT
from graders.record import Record, TaskResult, TestResult

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

FAMILIES = families() if sys.platform == "linux" else []
ATTACKS = [attack for family in FAMILIES for attack in family.attacks]
BITING = [attack for attack in ATTACKS if attack.bites is not None]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graders", "attacks", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1500,
    )


# -- they are stopped


@pytest.fixture(scope="module", params=["sandbox", "process"])
def verdicts(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The command's JSON for one level."""
    if request.param == "sandbox":
        try:
            sandbox.check_available()
        except sandbox.SandboxUnavailable as error:
            pytest.skip(f"NO SANDBOX HERE: {error}")
    without = [f"--without={name}" for name in protections.missing()]
    done = command("--isolation", request.param, "--json", *without)
    assert done.returncode in (0, 1), done.stderr
    data = json.loads(done.stdout)
    return {"level": request.param, "rows": {row["attack"]: row for row in data["verdicts"]}} | data


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
def test_an_attack_is_stopped(verdicts: dict[str, Any], attack: Attack) -> None:
    if verdicts["level"] not in attack.levels:
        assert attack.id in verdicts["not_stopped_here"]  # shown, and counted as nothing
        assert attack.id not in verdicts["rows"]
        return
    row = verdicts["rows"][attack.id]
    assert (row["stopped"], row["findings"]) == (True, [])
    assert row["earned"] == pytest.approx(sum(attack.earns.values()))


# -- and would be seen if they were not


@pytest.fixture(scope="module")
def bites() -> Iterator[dict[str, Verdict]]:
    """Each attack that has a level to bite at, there."""
    found: dict[str, Verdict] = {}
    for level in dict.fromkeys(attack.bites[0] for attack in BITING if attack.bites):
        chosen = [a for a in BITING if a.bites is not None and a.bites[0] == level]
        trusting = level == "trusting"
        with Judge("process" if trusting else level, trusting=trusting) as judge:
            found |= {v.attack.id: v for v in run.judge_all(judge, chosen, 2)}
    yield found


@pytest.mark.parametrize("attack", BITING, ids=lambda attack: attack.id)
def test_without_its_wall_an_attack_bites_and_is_seen(
    bites: dict[str, Verdict], attack: Attack
) -> None:
    """At a level that lacks the wall, or before an oracle that trusts."""
    assert attack.bites is not None
    if platform.machine() != "x86_64" and "syscall(" in attack.code:
        pytest.skip("its system calls have the numbers of x86_64")
    if attack.bites[1] in ("secret", "killed", "failed") and os.geteuid() != 0:
        pytest.skip("Yama may keep an ordinary user's processes apart")
    kinds = {finding.kind for finding in bites[attack.id].findings}
    assert attack.bites[1] in kinds, bites[attack.id].findings


def test_every_kind_of_finding_has_been_seen() -> None:
    """Each has an attack that bites, or a test below."""
    planted = {attack.bites[1] for attack in BITING if attack.bites}
    below = {"honest", "record", "rendered", "memory", "time"}
    assert planted | below == set(KINDS)


def record(stdout: str = "attack ran", earned: float = 20.0, **fields: Any) -> Record:
    """What an attack's record looks like, with one thing wrong."""
    test = TestResult("hidden::t", "honest", "hidden", outcome="passed", stdout=stdout)
    for name, value in fields.items():
        setattr(test, name, value)
    task = TaskResult("honest", "honest", "cpu", 20.0, earned, 0.0, "partial", [test])
    return Record(lab="lab93", title="t", target="t", hidden_present=True, tasks=[task])


@pytest.mark.parametrize(
    "wrong,kind",
    [
        (record(), None),
        (record(earned=15.0), "honest"),
        (record(earned=20.5), "record"),
        (record(earned=float("nan")), "record"),
        (record(duration_s=float("inf")), "record"),
        (record(traceback="x" * 2**22), "record"),
        (record(stdout="attack ran\nLOOT here: canary-1"), "secret"),
        (record(stdout=""), "failed"),
        (record(notes=["attack ran"]), "rendered"),
    ],
)
def test_a_record_that_is_wrong_is_seen(wrong: Record, kind: str | None) -> None:
    found = {f.kind for f in look_at_record(wrong, ATTACKS[0], "canary-1")}
    assert found == set() if kind is None else kind in found


@pytest.mark.parametrize("where", ["terminal", "page"])
def test_a_report_that_lets_text_act_is_seen(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "terminal":
        monkeypatch.setattr("graders.report.terminal.clean", lambda text: text)
        bad = record(outcome="failed", message="\x1b[2J", earned=0.0)
    else:
        monkeypatch.setattr("graders.report.html.render_html", lambda *_: "<script>canary()")
        bad = record()
    assert "rendered" in {f.kind for f in look_at_record(bad, ATTACKS[0], "canary-1")}


def test_time_and_memory_of_the_oracle_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graders.adversarial.judge.MAX_ORACLE_BYTES", 1)
    monkeypatch.setattr("graders.adversarial.judge.MAX_SECONDS", 60.0)
    with Judge("process") as judge:
        verdict = judge.judge(ATTACKS[0])
        assert "memory" in {f.kind for f in verdict.findings}
        judge._slot()  # started before the clock is made impossible
        monkeypatch.setattr("graders.adversarial.judge.MAX_SECONDS", 0.0)
        assert "time" in {f.kind for f in judge.judge(ATTACKS[0]).findings}


# -- the command


def test_the_table_shows_what_is_not_stopped_and_fails_for_what_gets_through() -> None:
    done = command("--isolation", "process", "--family", "13", "--name", "tcp")
    assert done.returncode == 0, done.stderr
    assert "0 attacks at level process" in done.stdout
    assert done.stdout.count(run.NOT_STOPPED) == 2


def test_what_gets_through_makes_the_command_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    escaped = [a for a in ATTACKS if a.id == "13/tcp"]
    assert escaped

    def declared_at_process(*_: object) -> list[Any]:
        return [run.Family(13, "t", "a", (Attack(**{**vars(escaped[0]), "levels": ("process",)}),))]

    monkeypatch.setattr(run, "families", declared_at_process)
    code = run.main("process", None, listing=False, as_json=False, without=[])
    assert code == 1
    assert "GOT THROUGH" in capsys.readouterr().out


@pytest.mark.parametrize("name", protections.PROTECTIONS)
def test_a_missing_protection_is_named_and_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(protections, "missing", lambda: {name: "not in this kernel"})
    with pytest.raises(AttackError, match=f"does not give {name}: not in this kernel"):
        protections.require("sandbox", [])
    if name == "landlock":  # the sandbox stands on its other walls
        assert protections.require("sandbox", [name]) == [name]
    else:
        with pytest.raises(AttackError, match="no sandbox here"):
            protections.require("sandbox", [name])
    assert protections.require("process", []) == []


def test_landlock_is_really_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graders.isolation.syscalls.landlock_rights", lambda: 0)
    assert "landlock" in protections.missing()


def test_unknown_names_are_errors() -> None:
    with pytest.raises(AttackError, match="no such protection"):
        protections.require("sandbox", ["magic"])
    for options in ({"family": 99}, {"family": None, "name": "no such attack"}):
        with pytest.raises(AttackError):
            run.main("process", listing=True, as_json=False, without=[], **options)  # type: ignore[arg-type]


# -- the suite


def test_there_are_all_families_and_every_attack_is_well_formed() -> None:
    assert [family.number for family in FAMILIES] == list(range(1, 25))
    assert all(len(family.attacks) >= 3 and family.title and family.answer for family in FAMILIES)
    for attack in ATTACKS:
        compile(attack.module(), attack.id, "exec")
        assert "sandbox" in attack.levels, f"{attack.id}: nothing stops it"
        assert attack.bites is None or attack.bites[0] not in attack.levels
        assert "process" in attack.levels or attack.bites or attack.tries, attack.id


def test_the_threat_model_says_what_the_suite_does() -> None:
    """`python -c "from graders.adversarial.run import *; print(markdown(families()))"`."""
    page = Path(ROOT, "content", "threat_model.md").read_text(encoding="utf-8")
    assert run.markdown(FAMILIES) in page
    assert len(page.splitlines()) < 200
