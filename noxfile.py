"""Every command of the course. Needs nothing but Python 3.11+: `python3 noxfile.py -s lab01`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BOOTSTRAP = ROOT / ".nox" / ".bootstrap"
BOOTSTRAP_PINS = ("nox[uv]==2026.10.20", "uv==0.13.9")


def _bootstrap() -> str:
    """Return a Python that has nox, making a private environment for it the first time."""
    if importlib.util.find_spec("nox") is not None:
        return sys.executable
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            "This Python cannot make virtual environments: venv or ensurepip is missing.\n"
            "On Debian or Ubuntu: apt install python3-venv. Elsewhere: install nox yourself."
        )
    python = BOOTSTRAP / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = BOOTSTRAP / "inferlab-stamp"
    wanted = "\n".join((*BOOTSTRAP_PINS, sys.version))
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    print("First run: setting up nox in .nox/.bootstrap ...", file=sys.stderr, flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(BOOTSTRAP)],
        [str(python), "-m", "pip", "install", "--quiet", *BOOTSTRAP_PINS],
    ):
        if subprocess.run(command).returncode != 0:
            sys.exit("Could not set up nox (see above). Is there a network or PIP_FIND_LINKS?")
    stamp.write_text(wanted)
    return str(python)


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - the reader may well start it with an older one
        sys.exit(f"Inferlab needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    command = [_bootstrap(), "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), *sys.argv[1:]]
    code = subprocess.run(command).returncode
    if code == 3:  # nox was asked for something that there is not
        print("`python3 noxfile.py --list` shows the sessions there are.", file=sys.stderr)
    sys.exit(code)

import tomllib  # noqa: E402 - after the version check above

import nox  # noqa: E402 - absent until the bootstrap has run

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True

# One variable serves both installers: uv does not read pip's.
for _pip, _uv in (
    ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
    ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
    ("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL"),
    ("PIP_CERT", "SSL_CERT_FILE"),
):
    if os.environ.get(_pip):
        os.environ.setdefault(_uv, os.environ[_pip])
if os.environ.get("UV_EXTRA_INDEX_URL"):
    # pip looks at all indexes and takes the best version; uv would stop at the first.
    os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS: dict[str, list[str]] = {
    name: list(dict.fromkeys(nox.project.dependency_groups(PYPROJECT, name)))
    for name in PYPROJECT["dependency-groups"]
}


_Body = Callable[[nox.Session], None]


def _recipe(*groups: str) -> str:
    """Hash of what an environment is made of: the groups' requirements and their constraints."""
    text = "\n".join(pin for group in groups for pin in GROUPS[group])
    for path in _constraints(*groups)[1::2]:
        text += "\n" + Path(path).read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def _install(session: nox.Session, *groups: str) -> None:
    """Install the groups unless the environment's stamp says that they are already there."""
    stamp = Path(session.virtualenv.location) / "inferlab-stamp"
    recipe = _recipe(*groups)
    if stamp.exists() and stamp.read_text() == recipe:
        return
    session.install(*(pin for group in groups for pin in GROUPS[group]), *_constraints(*groups))
    stamp.write_text(recipe)


def _constraints(*groups: str) -> list[str]:
    paths = [ROOT / "constraints" / f"{group}.txt" for group in groups]
    return [word for path in paths if path.exists() for word in ("-c", str(path))]


# Groups that cannot live with others, and the packages that a source build of theirs imports.
BESIDE = {"lab03-gptq": ("torch", "numpy", "setuptools"), "lab03-llmcompressor": ()}


def _beside(session: nox.Session, group: str) -> str:
    """The Python of `.nox/<group>`, an environment beside the session's own, made if need be."""
    folder = ROOT / ".nox" / group
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp, recipe = folder / "inferlab-stamp", _recipe(group)
    if python.exists() and stamp.exists() and stamp.read_text() == recipe:
        return str(python)
    session.log(f"Setting up .nox/{group}: packages that cannot live with the others ...")
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if uv := shutil.which("uv", path=places):
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(folder)]
        install = [str(python), "-m", "pip", "install", "--quiet"]
    session.run(*make, external=True)
    install += _constraints(group)
    if first := [pin for pin in GROUPS[group] if pin.split("==")[0] in BESIDE[group]]:
        session.run(*install, *first, external=True)
        install.append("--no-build-isolation")
    # auto-gptq from source: without its CUDA kernels.
    session.run(*install, *GROUPS[group], external=True, env={"BUILD_CUDA_EXT": "0"})
    stamp.write_text(recipe)
    return str(python)


# What a lab's session builds beside its own environment: the group, what tells the grader, a name.
COMPANIONS = {"lab03": ("lab03-gptq", "INFERLAB_AUTOGPTQ_PYTHON", "auto-gptq")}


def _companion(session: nox.Session, lab: str) -> dict[str, str]:
    """Environment variables for grading `lab`; empty if it has no companion, or it fails."""
    group, variable, library = COMPANIONS.get(lab, ("", "", ""))
    if group not in GROUPS or variable in os.environ:
        return {}
    try:
        return {variable: _beside(session, group)}
    except nox.command.CommandFailed:
        session.warn(f"{library} could not be installed (see above): graded without it.")
        return {}


def _define_lab(number: int, title: str) -> None:
    """Define the session labNN."""
    name = f"lab{number:02d}"
    if name not in GROUPS:
        raise SystemExit(f"pyproject.toml has no dependency group {name!r} for its lab.toml")

    def lab(session: nox.Session) -> None:
        _install(session, name)
        env = _companion(session, name)
        session.run("python", "-m", "graders", "grade", name, *session.posargs, env=env)

    lab.__doc__ = f"Grade lab {number:02d}: {title}."
    nox.session(name=name)(lab)


_LABS = sorted(ROOT.glob("labs/lab[0-9][0-9]_*/lab.toml"))
nox.options.sessions = [path.parent.name[:5] for path in _LABS[:1]]
for _path in _LABS:
    try:
        _title = str(tomllib.loads(_path.read_text(encoding="utf-8")).get("title", "untitled"))
    except tomllib.TOMLDecodeError:
        _title = "its lab.toml is not valid TOML"  # the grader explains; other labs still run
    _define_lab(int(_path.parent.name[3:5]), _title.rstrip("."))


@nox.session
def notebook(session: nox.Session) -> None:
    """Open a lab's notebook in Jupyter: lab01 (further words go to Jupyter: --no-browser)."""
    name, *more = session.posargs or ["lab01"]
    labs = {path.parent.name[:5]: path.parent for path in _LABS}
    if name not in labs:
        session.error(f"there is no {name}: name one of {', '.join(labs)}")
    _install(session, name, "notebook")
    session.run("jupyter", "notebook", str(labs[name] / f"{name}.ipynb"), *more)


def _course_session(name: str, group: str = "tests") -> Callable[[_Body], _Body]:
    """Define a session of the course itself; not in a student's release, which lacks its group."""
    define: Callable[[_Body], _Body] = nox.session(name=name)
    return define if group in GROUPS else lambda body: body


@_course_session("tests")
def tests(session: nox.Session) -> None:
    """Test the course itself: grader, labs, tables, scaffold."""
    _install(session, "tests")
    session.run("python", "-m", "pytest", *(session.posargs or ["tests/"]))


def _define_tool(name: str, doc: str) -> None:
    """Define a session that runs `python -m graders <name>`."""

    def tool(session: nox.Session) -> None:
        _install(session, "tests")
        session.run("python", "-m", "graders", name, *session.posargs)

    tool.__doc__ = doc
    _course_session(name)(tool)


_define_tool("solutions", "Prove the labs: stubs earn 0, solutions and alternatives everything.")
_define_tool("mutants", "Print the kill matrix: which wrong solutions each task's tests catch.")
_define_tool("sync", "Write the stubs and the lists of expected tests (--check: only compare).")
_define_tool("bench", "Measure the grader itself.")
_define_tool("attacks", "Attack the grader, and print what each attack reached.")
_define_tool("release", "Write the tree that students get, and prove what is not in it.")


@_course_session("grade")
def grade(session: nox.Session) -> None:
    """Grade a class: SUBMISSIONS --lab lab02 --out DIR. Goes on after a kill."""
    _install(session, "ray" if {"ray", "--executor=ray"} & {*session.posargs} else "tests")
    session.run("python", "-m", "graders", "class", *session.posargs)


@_course_session("course", group="nbgrader")
def course(session: nox.Session) -> None:
    """Write an nbgrader course: DEST [--labs 01,02] [--db URL]. Its nbgrader is in .nox/course."""
    _install(session, "nbgrader")
    session.run("python", "-m", "graders.nbgrader", "course", *session.posargs)


@_course_session("export", group="nbgrader")
def export(session: nox.Session) -> None:
    """Results for others: canvas, gradescope, junit, gradescope-zip; each has --help."""
    _install(session, "nbgrader")
    session.run("python", "-m", "graders.nbgrader", *session.posargs)


@_course_session("train-tiny")
def train_tiny(session: nox.Session) -> None:
    """Train the shipped tiny models again (--ship: replace them). Goes on after a kill."""
    _install(session, "tests")
    session.run("python", "-m", "labs.common.train_tiny", *session.posargs)


def _define_references(library: str, group: str) -> None:
    """Define a session that records what a library makes of lab 03's layers."""

    def references(session: nox.Session) -> None:
        command = [_beside(session, group), "-m", "graders.lab03.references.record", library]
        session.run(*command, *session.posargs, external=True)

    references.__doc__ = f"Record again what {library} makes of lab 03's layers."
    nox.session(name=f"lab03-references-{library}", venv_backend="none")(references)


if (ROOT / "graders" / "lab03" / "references").is_dir():  # a student's release has none
    _define_references("autogptq", "lab03-gptq")
    _define_references("llmcompressor", "lab03-llmcompressor")


@_course_session("lint")
def lint(session: nox.Session) -> None:
    """Check style and types, changing nothing."""
    _install(session, "tests")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy", "graders", "labs/common", "noxfile.py")


@_course_session("lock", group="lock")
def lock(session: nox.Session) -> None:
    """Refresh constraints/: the transitive pins of each group."""
    _install(session, "lock")
    for group in session.posargs or GROUPS:
        text = session.run(
            "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--upgrade",
            "--group", f"pyproject.toml:{group}",
            silent=True,
        )  # fmt: skip
        # "+cpu" is this machine's build; elsewhere the plain version must fit too.
        pins = re.findall(r"^([A-Za-z0-9._-]+==[^\s+;]+)(?:\+\S+)?( ;.*)?$", str(text), re.M)
        body = "".join(f"{pin}{marker}\n" for pin, marker in pins)
        header = f"# Transitive pins of group {group}. Refresh: python3 noxfile.py -s lock\n"
        (ROOT / "constraints" / f"{group}.txt").write_text(header + body, encoding="utf-8")
