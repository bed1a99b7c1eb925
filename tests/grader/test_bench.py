"""The bench, run for real: every figure is there, finite and positive. No time is asserted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graders import bench, cli
from graders.oracle.grade import ROOT

LAB = cli.all_labs()[0]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One quick run and its JSON."""
    path = tmp_path_factory.mktemp("bench") / "new" / "bench.json"
    command = [sys.executable, "-m", "graders", "bench", "--quick", "--json", str(path), LAB]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400), path


@pytest.fixture(scope="module")
def document(ran: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, Any]:
    done, path = ran
    assert path.exists(), done.stdout + done.stderr
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_it_ends_well_and_prints_a_table(ran, document: dict[str, Any]) -> None:
    done, path = ran
    assert done.returncode == (1 if document["not_measured"] else 0), done.stdout + done.stderr
    for figure in document["figures"]:
        assert figure["what"] in done.stdout
    assert "measured" in done.stdout and "target" in done.stdout
    assert path.name in done.stdout
    assert "\x1b" not in done.stdout + done.stderr, "colour in a pipe"
    assert "calls and tensors" in done.stderr, "no progress"


def test_every_figure_is_there(document: dict[str, Any]) -> None:
    levels = ["none", "process"]
    gaps = {gap["what"]: gap["why"] for gap in document["not_measured"]}
    if "the sandbox" not in gaps:
        levels.append("sandbox")
    assert set(gaps) <= {"the sandbox"}, gaps
    wanted = {
        "start.fork_server",
        *(f"start.{level}" for level in levels if level != "none"),
        *(f"call.{what}.{side}" for what in ("ints", "tensor") for side in ["plain", *levels]),
        *(f"transfer.{n}.{way}" for n in (1, 16) for way in ("memcpy", "there", "back")),
        *(f"wall.{LAB}.{side}" for side in ("process", "none", "ratio")),
        f"memory.{LAB}",
        "save.first_result",
    }
    ids = [figure["id"] for figure in document["figures"]]
    assert sorted(ids) == sorted(wanted)


def test_every_figure_is_finite_and_positive(document: dict[str, Any]) -> None:
    for figure in document["figures"]:
        numbers = [figure["value"], *figure["samples"], *figure["extra"].values()]
        assert figure["samples"], figure["id"]
        assert all(math.isfinite(n) and n > 0 for n in numbers), figure
        assert min(figure["samples"]) <= figure["value"] <= max(figure["samples"]), figure["id"]
        assert (figure["met"] is None) == (figure["target"] is None)
        assert figure["unit"] in ("ms", "s", "GB/s", "GiB", "ratio")


def test_nothing_names_this_machine(document: dict[str, Any]) -> None:
    import socket

    text = json.dumps(document)
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text
    assert "hostname" not in text and (len(host := socket.gethostname()) < 5 or host not in text)
    assert document["machine"]["cores"] >= 1 and document["machine"]["ram_gib"] > 0
    assert document["quick"] is True


def test_a_missed_target_is_shown_as_such() -> None:
    def figure(value: float, bound: Any) -> bench.Figure:
        return bench.Figure("x", "x", "s", value, [value], bench.Target(bound, 2.0))

    assert [figure(v, "at most").met for v in (1.0, 2.0, 2.1)] == [True, True, False]
    assert [figure(v, "at least").met for v in (1.0, 2.0, 2.1)] == [False, True, True]
    drawn = bench.table([figure(3.0, "at most")], [bench.Missing("nox", "no environment")])
    cells = [[str(cell) for cell in column.cells] for column in drawn.columns]
    assert cells[1] == ["3 s", "no environment"] and cells[3] == ["MISSED", "not measured"]


def test_no_environment_is_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    with pytest.raises(bench.Unmeasured, match="no environment"):
        bench._python_for_nox(LAB)


def test_lists_of_numbers_stay_on_one_line() -> None:
    document = {"a": [1.5, -2e-05, 3], "b": [], "c": [{"d": [0.1]}], "e": ["[1,\n 2]"]}
    text = bench.to_json(document)
    assert json.loads(text) == document
    assert '"a": [1.5, -2e-05, 3]' in text
