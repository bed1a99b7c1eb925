"""The scaffold: groups pinned, constraints clean, workflows valid, one session per lab."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PIN = re.compile(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[0-9][A-Za-z0-9.]*")


def test_both_workflows_exist() -> None:
    assert [path.name for path in WORKFLOWS] == ["cpu.yml", "solutions.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_matches_the_schema(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    done = subprocess.run(
        [*command, "vendor.github-workflows", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("group", GROUPS)
def test_group_is_pinned(group: str) -> None:
    for requirement in GROUPS[group]:
        if isinstance(requirement, str):
            assert PIN.fullmatch(requirement), f"{requirement} is not pinned exactly"


@pytest.mark.parametrize("group", GROUPS)
def test_constraints_are_complete_and_name_no_host(group: str) -> None:
    text = (ROOT / "constraints" / f"{group}.txt").read_text(encoding="utf-8")
    assert "://" not in text and "--" not in text and "/opt" not in text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    names = {line.split("==")[0].lower() for line in lines}
    for line in lines:
        assert PIN.fullmatch(line.split(" ;")[0]), line
    for requirement in GROUPS[group]:
        if isinstance(requirement, str):
            assert requirement.split("==")[0].split("[")[0].lower() in names


def test_every_lab_has_a_group() -> None:
    for path in ROOT.glob("labs/lab[0-9][0-9]_*/lab.toml"):
        assert path.parent.name[:5] in GROUPS


def test_conftest_registers_the_plugin_only() -> None:
    text = (ROOT / "conftest.py").read_text(encoding="utf-8")
    assert "pytest_plugins" in text and "def " not in text
