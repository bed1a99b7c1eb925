"""Which files a release holds: read from the course's last commit, chosen by a list of what may go.

What is not named here stays at home. A new folder of the grader is therefore missing in a release
until somebody adds it, which a test notices at once; the other way round it would be published.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from graders.manifest import Manifest, find_lab, lab_directories

ROOT_FILES = frozenset([".gitignore", "LICENSE", "conftest.py", "noxfile.py"])
GRADER_MODULES = frozenset(
    ["__init__", "__main__", "cli", "manifest", "plugin", "proofs", "record", "scoring", "sync"]
)
GRADER_PACKAGES = frozenset(["isolation", "oracle", "report", "wire", "worker"])
# Without git nothing says which files belong to the course; these never do.
_LITTER = frozenset([".git", ".nox", ".venv", "venv", "__pycache__", "results", "node_modules"])


class ReleaseError(RuntimeError):
    """No release can be made: the message names the thing, the cause and the mend."""


class File(msgspec.Struct, frozen=True):
    """One file of a tree."""

    data: bytes
    executable: bool = False


Tree = dict[str, File]  # by path below the root, with slashes


@dataclass(frozen=True)
class Source:
    """The course to release from. Without git there is no commit, and the date is a fixed one."""

    root: Path
    files: Tree
    commit: str
    date: int  # seconds since 1970, UTC


def git(root: Path, *words: str, data: bytes | None = None) -> bytes:
    """What git prints. Raises ReleaseError with what it says on standard error.

    Settings of the user and of the machine are left out: the same course gives the same release.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment = {
        **kept,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
        # Another user's checkout is only read here, and its hooks are not run.
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_CONFIG_KEY_1": "core.hooksPath",
        "GIT_CONFIG_VALUE_1": os.devnull,
    }
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], input=data, env=environment, capture_output=True
        )
    except FileNotFoundError:
        raise ReleaseError("git is not on this machine: install it") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise ReleaseError(f"git {words[0]} in {root} failed: {said}")
    return done.stdout


def has_git(root: Path) -> bool:
    """Whether git is here and the course is a repository of its own."""
    try:
        top = git(root, "rev-parse", "--show-toplevel").decode().rstrip("\n")
    except ReleaseError:
        return False
    return Path(top).resolve() == root.resolve()


def read_source(root: Path) -> Source:
    """The course as its last commit has it; as it lies there where there is no git.

    Raises ReleaseError if anything is changed and not committed: a release says which commit it was
    made from, and making it again must give the same.
    """
    if not has_git(root):
        return Source(root, read_folder(root), "", int(os.environ.get("SOURCE_DATE_EPOCH", 0)))
    status = git(root, "status", "--porcelain", "-z", "--untracked-files=all").decode()
    if changed := [entry[3:] for entry in status.split("\0") if entry]:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ReleaseError(
            f"the tree holds what is not committed: {', '.join(changed[:5])}{more}. A release is "
            "made from a commit, so that it can be made again: commit, stash or remove these"
        )
    commit = git(root, "rev-parse", "HEAD").decode().strip()
    date = int(git(root, "show", "-s", "--format=%ct", "HEAD").decode())
    listed: list[tuple[str, str, str]] = []  # mode, object, path
    for entry in git(root, "ls-tree", "-r", "-z", "HEAD").decode().split("\0"):
        if entry:
            about, _, path = entry.partition("\t")
            mode, kind, number = about.split(" ")
            if kind != "blob" or mode == "120000":
                raise ReleaseError(
                    f"{path} is a {'link' if kind == 'blob' else 'submodule'}: a release holds "
                    "files only. Put the file itself there"
                )
            listed.append((mode, number, path))
    blobs = cat_file(root, [number for _, number, _ in listed])
    files = {
        path: File(blob, mode == "100755")
        for (mode, _, path), blob in zip(listed, blobs, strict=True)
    }
    return Source(root, files, commit, date)


def cat_file(root: Path, numbers: Sequence[str]) -> list[bytes]:
    """The contents of these objects, read by one process."""
    answer = git(root, "cat-file", "--batch", data="".join(f"{n}\n" for n in numbers).encode())
    found, at = [], 0
    for number in numbers:
        end = answer.index(b"\n", at)
        header = answer[at:end].split(b" ")
        if len(header) != 3:
            raise ReleaseError(f"git has no object {number} in {root}: run `git fsck` there")
        size = int(header[2])
        found.append(answer[end + 1 : end + 1 + size])
        at = end + 1 + size + 1
    return found


def read_folder(root: Path, below: str = "") -> Tree:
    """The files as they lie in a folder, without litter; ``below`` goes before their paths."""
    files: Tree = {}
    for current, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in _LITTER and not f.endswith("_cache"))
        for name in sorted(names):
            path = Path(current) / name
            if path.is_symlink() or not path.is_file() or name.endswith(".pyc"):
                continue
            files[below + path.relative_to(root).as_posix()] = File(
                path.read_bytes(), os.access(path, os.X_OK)
            )
    return files


def choose_labs(root: Path, names: Sequence[str]) -> list[Manifest]:
    """The manifests of these labs (all when there are none), by number, each once.

    Raises LabNotFound or ManifestError.
    """
    wanted = [name.strip() for name in names if name.strip()]
    found = wanted or [folder.name for folder in lab_directories(root)]
    by_number = {m.number: m for m in (find_lab(root, name) for name in found)}
    if not by_number:
        raise ReleaseError(f"{root} holds no lab: there is nothing to release")
    return [by_number[number] for number in sorted(by_number)]


def shared_references(files: Tree, labs: Iterable[Manifest]) -> set[str]:
    """Paths below ``graders/labNN/`` that a lab's public tests or plots import, directly or not.

    The rest of these folders is for hidden tests alone. Raises ReleaseError if a public test
    imports a hidden one.
    """
    found: set[str] = set()
    for lab in labs:
        folder, hidden = f"labs/{lab.package}", f"graders/{lab.name}"
        todo = [f"{folder}/test_public.py", f"{folder}/plots.py"]
        if b".harness" in files.get(todo[0], File(b"")).data:
            todo.append(f"{hidden}/harness.py")
            found.add(todo[-1])
        while todo:
            path = todo.pop()
            if path not in files:
                continue
            for module in _imports(files[path].data, path):
                for place in (f"{module}.py", f"{module}/__init__.py"):
                    if not place.startswith(f"{hidden}/") or place not in files or place in found:
                        continue
                    if place.rpartition("/")[2].startswith("test_") or "/alternatives/" in place:
                        raise ReleaseError(f"{path} imports {place}, which no student may have")
                    found.add(place)
                    todo.append(place)
        if found:
            found |= {p for p in (f"{hidden}/__init__.py",) if p in files}
    return found


def _imports(source: bytes, path: str) -> set[str]:
    """Paths, without ``.py``, of what a module imports."""
    found: set[str] = set()
    package = path.split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.replace(".", "/") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *((node.module or "").split(".") if node.module else [])]
            found.add("/".join(base))
            found |= {"/".join([*base, alias.name]) for alias in node.names}
    return found


def of_grader(path: str) -> bool:
    """Whether a path belongs to the grader that students get."""
    head, _, rest = path.partition("/")
    if head != "graders":
        return False
    if "/" in rest:
        return rest.partition("/")[0] in GRADER_PACKAGES
    return rest.removesuffix(".py") in GRADER_MODULES


def student_files(source: Source, labs: Sequence[Manifest]) -> Tree:
    """What students of these labs get, but for the documents that are written for them."""
    files = source.files
    groups = released_groups(files, labs)
    prefixes = ("labs/common/", *(f"labs/{lab.package}/" for lab in labs))
    single = {"labs/__init__.py", *shared_references(files, labs)}
    single |= {f"constraints/{group}.txt" for group in groups}

    def goes(path: str) -> bool:
        if path in ROOT_FILES or path in single or path.startswith(prefixes):
            return True
        return of_grader(path)

    chosen = {path: file for path, file in files.items() if goes(path)}
    if missing := sorted(ROOT_FILES - chosen.keys()):
        raise ReleaseError(f"the course has no {missing[0]}, and a release needs one")
    chosen["pyproject.toml"] = File(student_pyproject(files, groups))
    return chosen


# -- pyproject.toml --------------------------------------------------------------------------------


def released_groups(files: Tree, labs: Sequence[Manifest]) -> list[str]:
    """The dependency groups of these labs, those that they include, the grader's and Jupyter's."""
    groups = _pyproject(files)["dependency-groups"]
    todo, found = ["grader", *(lab.name for lab in labs)], []
    todo += [group for group in ("notebook",) if group in groups]
    while todo:
        name = todo.pop(0)
        if name in found:
            continue
        if name not in groups:
            raise ReleaseError(f"pyproject.toml has no dependency group {name!r}: add it")
        found.append(name)
        todo += [part["include-group"] for part in groups[name] if isinstance(part, dict)]
    return [name for name in groups if name in found]


def _pyproject(files: Tree) -> dict:  # type: ignore[type-arg]
    if "pyproject.toml" not in files:
        raise ReleaseError("the course has no pyproject.toml, and a release needs one")
    try:
        return tomllib.loads(files["pyproject.toml"].data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ReleaseError(f"pyproject.toml: {error}") from None


def student_pyproject(files: Tree, groups: Sequence[str]) -> bytes:
    """The course's file with these groups alone, comments kept, and pytest pointed at the labs."""
    whole = _pyproject(files)
    kept: list[str] = []
    above: list[str] = []  # comments and empty lines belong to what follows them
    table, group = "", ""
    for line in files["pyproject.toml"].data.decode("utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            above.append(line)
            continue
        if heading := re.match(r"\[([^\[\]]+)\]\s*(#.*)?$", line):
            table, group = heading[1], ""
        elif table == "dependency-groups" and (key := re.match(r'"?([\w.-]+)"?\s*=', line)):
            group = key[1]
        if not group or group in groups:
            kept += [*above, re.sub(r"^testpaths\s*=.*", 'testpaths = ["labs"]', line)]
        above = []
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"
    # Cut by lines, so that the comments stay; a file laid out differently must not slip through.
    wanted = {**whole, "dependency-groups": {g: whole["dependency-groups"][g] for g in groups}}
    got = tomllib.loads(text)
    for side in (wanted, got):
        side.get("tool", {}).get("pytest", {}).get("ini_options", {}).pop("testpaths", None)
    if got != wanted:
        raise ReleaseError(
            "the groups cannot be cut out of pyproject.toml: begin each group on a line of its own"
        )
    return text.encode()
