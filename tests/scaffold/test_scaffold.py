"""The scaffold: groups pinned, constraints clean, workflows valid, one session per lab."""

from __future__ import annotations

import json
import os
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
            pin, _, _ = requirement.partition(";")  # a platform may stand behind it
            assert PIN.fullmatch(pin.strip()), f"{requirement} is not pinned exactly"


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


# -- noxfile.py as somebody types it

NOXFILE = ROOT / "noxfile.py"
WITHOUT = """
import importlib.util, runpy, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {missing!r} else real(name, *rest)
sys.argv = ["noxfile.py", *sys.argv[2:]]
runpy.run_path({noxfile!r}, run_name={name!r})
"""


def noxfile(
    *arguments: str, missing: tuple[str, ...] = (), name: str = "__main__", **environment: str
) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(missing=missing, noxfile=str(NOXFILE), name=name)
    if name != "__main__":
        code += "import os, json\nprint(json.dumps(dict(os.environ)))\n"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "SSL_"))}
    return subprocess.run(
        [sys.executable, "-c", code, "--", *arguments],
        env={**clean, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
    )


def test_the_list_reads_like_a_table_of_contents() -> None:
    done = noxfile("--list")
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^[*-] (\S+) -> (.+)$", done.stdout, re.M)
    names = [name for name, _ in lines]
    labs = sorted(path.parent.name[:5] for path in ROOT.glob("labs/lab[0-9][0-9]_*/lab.toml"))
    assert names[: len(labs)] == labs
    rest = [n for n in names[len(labs) :] if n in KNOWN]
    assert rest == KNOWN
    assert all(text.endswith(".") and len(text) < 90 for _, text in lines)


KNOWN = ["tests", "solutions", "mutants", "sync", "bench", "release", "lint", "lock"]


def test_every_command_that_is_named_somewhere_is_a_session() -> None:
    """In handouts, messages and comments. A name that ends in ``-`` is completed by the program."""
    names = re.findall(r"^[*-] (\S+) -> ", noxfile("--list").stdout, re.M)
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("", "labs", "solutions", "graders", "content", "tests", "constraints")
        for path in (ROOT / folder).glob("**/*" if folder else "*")
        if path.suffix in {".py", ".md", ".txt", ".toml", ".ipynb"} and path.is_file()
        for name in re.findall(r"nox(?:file\.py)? -s ([a-z0-9][a-z0-9-]*)", path.read_text("utf-8"))
        if name not in names and not (name.endswith("-") and any(n.startswith(name) for n in names))
    ]
    assert not missing


def test_a_session_that_is_none_says_where_they_are_listed() -> None:
    done = noxfile("-s", "lab77")
    assert done.returncode == 3
    assert "lab77" in done.stderr and "noxfile.py --list" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("lacking", ["venv", "ensurepip"])
def test_a_python_without_venv_says_how_to_mend_it(lacking: str) -> None:
    done = noxfile("--list", missing=("nox", lacking))
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_variable_serves_both_installers() -> None:
    given = {
        "PIP_EXTRA_INDEX_URL": "https://extra.example/simple",
        "PIP_INDEX_URL": "https://main.example/simple",
        "PIP_FIND_LINKS": "wheels",
        "PIP_CERT": "ca.pem",
    }
    seen = json.loads(noxfile(name="noxfile", **given).stdout)
    assert seen["UV_EXTRA_INDEX_URL"] == seen["PIP_EXTRA_INDEX_URL"] == given["PIP_EXTRA_INDEX_URL"]
    assert seen["UV_DEFAULT_INDEX"] == given["PIP_INDEX_URL"]
    assert seen["UV_FIND_LINKS"] == given["PIP_FIND_LINKS"]
    assert seen["SSL_CERT_FILE"] == given["PIP_CERT"]
    assert seen["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    own = json.loads(noxfile(name="noxfile", **given, UV_EXTRA_INDEX_URL="https://own").stdout)
    assert own["UV_EXTRA_INDEX_URL"] == "https://own", "what is set for uv itself stays"
    assert "UV_INDEX_STRATEGY" not in json.loads(noxfile(name="noxfile").stdout)
