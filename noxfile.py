# /// script
# dependencies = ["nox[uv]==2026.10.20"]
# ///
"""Sessions of the course. `python3 noxfile.py -s lab01` works on a machine with nothing but Python 3.11+.

`nox -s lab01 -- --help` tells what a session takes after the two dashes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent
NOX = "nox[uv]==2026.10.20"


def _bootstrap() -> None:
    """Make a private environment with nox and start again in it."""
    home = ROOT / ".nox" / "bootstrap"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = home / ".complete"
    if sys.version_info < (3, 11):
        sys.exit(f"Inferlab needs Python 3.11 or later; this is {sys.version.split()[0]}.")
    if not stamp.exists() or stamp.read_text() != NOX:
        print("First start: making an environment for nox in .nox/bootstrap …", flush=True)
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=False)
        if made.returncode:
            sys.exit("Python's venv is missing: on Debian and Ubuntu, `apt install python3-venv`, then again.")
        installed = subprocess.run([str(python), "-m", "pip", "install", "-q", NOX], check=False)
        if installed.returncode:
            sys.exit("nox could not be installed (see pip's message above): check the network, then again.")
        stamp.write_text(NOX)
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    arguments = [str(python), "-m", "nox", "-f", str(ROOT / "noxfile.py"), *sys.argv[1:]]
    sys.exit(subprocess.run(arguments, env={**os.environ, "PATH": path}, check=False).returncode)


try:
    import nox
except ImportError:
    _bootstrap()

for _pip, _uv in (("PIP_FIND_LINKS", "UV_FIND_LINKS"), ("PIP_EXTRA_INDEX_URL", "UV_INDEX")):
    if _pip in os.environ:  # one variable names the extra source, whichever installer is at work
        os.environ.setdefault(_uv, os.environ[_pip])

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lab01"]


def _install(session: nox.Session, group: str) -> None:
    """Install a dependency group once; a stamp makes every later run start at once."""
    constraints = ROOT / "constraints" / f"{group}.txt"
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    wanted = nox.project.dependency_groups({"dependency-groups": groups}, group)
    text = "\n".join(wanted) + (constraints.read_text() if constraints.exists() else "")
    digest = hashlib.sha256(text.encode()).hexdigest()
    stamp = Path(session.virtualenv.location) / f".inferlab-{group}"
    if stamp.exists() and stamp.read_text() == digest:
        return
    session.install(*wanted, *(["--constraint", str(constraints)] if constraints.exists() else []))
    stamp.write_text(digest)


def _lab_session(name: str, title: str) -> None:
    @nox.session(name=name, venv_location=str(ROOT / ".nox" / "labs"))
    def lab(session: nox.Session) -> None:
        _install(session, name)
        session.run("python", "-m", "graders", "grade", name, *session.posargs, success_codes=[0])

    lab.__doc__ = title


for _file in sorted(ROOT.glob("labs/lab*/lab.toml")):
    _manifest = tomllib.loads(_file.read_text(encoding="utf-8"))
    _lab_session(f"lab{_manifest['number']:02d}", f"Grade your lab {_manifest['number']:02d}: {_manifest['title']}")


@nox.session
def tests(session: nox.Session) -> None:
    """Pass every test of the grader, the library and the labs."""
    _install(session, "tests")
    session.run("python", "-m", "pytest", *(session.posargs or ["tests"]))


def _graders(session: nox.Session, *arguments: str) -> None:
    _install(session, "tests")
    session.run("python", "-m", "graders", *arguments, *session.posargs)


@nox.session(venv_location=str(ROOT / ".nox" / "tests"))
def solutions(session: nox.Session) -> None:
    """Prove that stubs earn 0 and that solutions and alternatives earn everything."""
    _graders(session, "solutions")


@nox.session(venv_location=str(ROOT / ".nox" / "tests"))
def mutants(session: nox.Session) -> None:
    """Print the kill matrix: which wrong solutions the tests catch."""
    _graders(session, "mutants")


@nox.session(venv_location=str(ROOT / ".nox" / "tests"))
def sync(session: nox.Session) -> None:
    """Write stubs and lists of expected tests from the solutions and tests."""
    _graders(session, "sync")


@nox.session(venv_location=str(ROOT / ".nox" / "tests"))
def lint(session: nox.Session) -> None:
    """Check style and types."""
    _install(session, "tests")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(venv_location=str(ROOT / ".nox" / "tests"))
def lock(session: nox.Session) -> None:
    """Refresh the transitive pins in constraints/."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    (ROOT / "constraints").mkdir(exist_ok=True)
    for group in groups:
        session.run(
            "uv", "pip", "compile", "--quiet", "--universal", "--no-header", "--no-annotate",
            "--no-emit-index-url", "--no-emit-find-links", "--group", group,
            "-o", f"constraints/{group}.txt", "pyproject.toml", external=True,
        )  # fmt: skip


if __name__ == "__main__":
    nox.main()
