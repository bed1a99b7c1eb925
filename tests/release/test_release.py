"""What is written: the right files, twice the same, and refusals that leave nothing behind."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tomllib
from pathlib import Path

import pytest

from graders import cli
from graders import release as releases
from graders.manifest import LabNotFound
from graders.release import ReleaseError, check, release
from graders.release.tree import read_source
from tests.release.conftest import PYPROJECT, Made, commit_all, git


@pytest.fixture
def in_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the lists of tests to be right: collecting them takes seconds."""
    monkeypatch.setattr(releases, "check_in_sync", lambda *_: None)


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {m.name: opened.extractfile(m).read() for m in opened}  # type: ignore[union-attr]


def test_the_files_are_those_and_no_others(toy: Made) -> None:
    files = git(toy.repository, "ls-files").splitlines()
    graders = {path.split("/")[1] for path in files if path.startswith("graders/")}
    assert graders == {
        "__init__.py", "__main__.py", "cli.py", "manifest.py", "plugin.py", "proofs.py",
        "record.py", "scoring.py", "sync.py", "isolation", "oracle", "report", "wire", "worker",
    }  # fmt: skip
    assert {path for path in files if not path.startswith("graders/")} == {
        ".gitignore", "AGENTS.md", "LICENSE", "README.md", "conftest.py", "noxfile.py",
        "pyproject.toml", "constraints/grader.txt", "constraints/lab90.txt", "labs/__init__.py",
        "labs/common/__init__.py",
        *(f"labs/lab90_toy/{name}" for name in (
            "README.md", "__init__.py", "count.py", "double.py", "expected.json", "lab.toml",
            "lab90.ipynb", "test_public.py",
        )),
    }  # fmt: skip
    for path in ("labs/lab90_toy/double.py", "labs/lab90_toy/test_public.py", "noxfile.py"):
        assert (toy.repository / path).read_bytes() == (toy.course / path).read_bytes()


def test_there_is_one_root_commit_and_nothing_else(toy: Made) -> None:
    repository = toy.repository
    assert git(repository, "rev-list", "--all", "--count") == "1"
    assert git(repository, "rev-parse", "HEAD") == toy.said.commit
    assert git(repository, "status", "--porcelain", "--ignored") == ""
    assert git(repository, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert git(repository, "fsck", "--strict", "--unreachable") == ""
    # Who and when do not tell who made it, and where; the message names the commit it is from.
    assert git(repository, "show", "-s", "--format=%an %ae %at %ct") == (
        "Inferlab inferlab@example.invalid 1767323045 1767323045"
    )
    assert toy.said.source[:12] in git(repository, "show", "-s", "--format=%B")
    assert not (repository / ".git" / "hooks").exists()
    assert str(toy.course) not in (repository / ".git" / "config").read_text()


def test_the_archive_holds_the_same_files(toy: Made) -> None:
    held = members(toy.archive)
    assert held == {
        f"inferlab/{path}": (toy.repository / path).read_bytes()
        for path in git(toy.repository, "ls-files").splitlines()
    }
    with tarfile.open(toy.archive) as opened:
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in opened} == {
            (0, 0, "", "", 1767323045)
        }


def test_the_same_commit_gives_the_same_release(
    toy: Made, tmp_path: Path, in_sync: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another clone, under another umask, with other settings and another clock."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(toy.course), str(clone))
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[user]\nname = Somebody\nemail = s@example.org\n[core]\nautocrlf = true\n"
        "[commit]\ngpgsign = true\n[init]\ndefaultBranch = other\n"
    )
    for name, value in {
        "HOME": str(home), "TZ": "Asia/Tokyo", "GIT_AUTHOR_NAME": "X", "GIT_DIR": "/nowhere",
        "GIT_COMMITTER_DATE": "1999-01-01T00:00:00",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    before = os.umask(0o077)
    try:
        said = release(clone, tmp_path / "again", archive=tmp_path / "again.tar.gz")
    finally:
        os.umask(before)
    monkeypatch.delenv("GIT_DIR")
    assert said.commit == toy.said.commit
    assert gzip.decompress((tmp_path / "again.tar.gz").read_bytes()) == gzip.decompress(
        toy.archive.read_bytes()
    )
    assert (tmp_path / "again.tar.gz").read_bytes() == toy.archive.read_bytes()


def test_pyproject_keeps_the_groups_of_the_labs(toy: Made) -> None:
    text = (toy.repository / "pyproject.toml").read_text()
    got, whole = tomllib.loads(text), tomllib.loads(PYPROJECT)
    assert got["dependency-groups"] == {
        name: whole["dependency-groups"][name] for name in ("grader", "lab90")
    }
    assert got["project"] == whole["project"]
    assert "# What the grader needs." in text and "whoever writes the course" not in text
    assert got["tool"]["pytest"]["ini_options"]["testpaths"] == ["labs"]


def test_an_unusual_pyproject_is_refused_and_not_half_cut(
    own_course: Path, tmp_path: Path, in_sync: None
) -> None:
    text = (
        PYPROJECT.replace("[dependency-groups]\n", "")
        .replace(
            "# What the grader needs.\ngrader =", '[dependency-groups]\n  tests = ["a"]\n  grader ='
        )
        .replace('tests = [{ include-group = "lab90" }, "ruff==0.17.6"]\n', "")
    )
    (own_course / "pyproject.toml").write_text(text)
    commit_all(own_course)
    with pytest.raises(ReleaseError, match="begin each group on a line of its own"):
        release(own_course, tmp_path / "r")


def test_what_public_tests_import_goes_with_them(
    own_course: Path, tmp_path: Path, in_sync: None
) -> None:
    public = own_course / "labs" / "lab90_toy" / "test_public.py"
    public.write_text("from graders.lab90 import reference\n" + public.read_text())
    commit_all(own_course)
    release(own_course, tmp_path / "r")
    assert {path.name for path in (tmp_path / "r" / "graders" / "lab90").iterdir()} == {
        "__init__.py", "reference.py",
    }  # fmt: skip
    public.write_text("from graders.lab90.test_hidden import HIDDEN\n" + public.read_text())
    commit_all(own_course)
    with pytest.raises(ReleaseError, match="imports graders/lab90/test_hidden.py"):
        release(own_course, tmp_path / "again")


def test_some_labs_alone(real: Made, tmp_path: Path, in_sync: None) -> None:
    said = release(real.course, tmp_path / "r", labs=["2", "lab02"])
    assert said.labs == ("lab02",)
    root = tmp_path / "r"
    labs = {path.name for path in (root / "labs").iterdir()}
    assert labs == {"__init__.py", "common", "lab02_capacity"}
    groups = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]
    assert list(groups) == ["grader", "lab02", "notebook"]
    pins = {path.name for path in (root / "constraints").iterdir()}
    assert pins == {"grader.txt", "lab02.txt", "notebook.txt"}
    assert "lab01" not in (root / "README.md").read_text() + (root / "AGENTS.md").read_text()


def test_a_complete_release_holds_everything_but_the_history(
    toy: Made, tmp_path: Path, in_sync: None
) -> None:
    said = release(toy.course, tmp_path / "r", complete=True)
    files = set(git(tmp_path / "r", "ls-files").splitlines())
    assert files == {*git(toy.course, "ls-files").splitlines(), "AGENTS.md"}
    assert said.files == len(files)
    assert git(tmp_path / "r", "rev-list", "--all", "--count") == "1"
    assert "solutions/" in (tmp_path / "r" / "AGENTS.md").read_text()
    assert check(tmp_path / "r", toy.course, complete=True).findings == []
    # Looked at as a student's it is full of findings: the check is no formality.
    kinds = {finding.kind for finding in check(tmp_path / "r", toy.course).findings}
    assert kinds == {"path", "line", "part", "name", "lines in a row"}
    commit_all(tmp_path / "r")
    assert [f.kind for f in check(tmp_path / "r", toy.course, complete=True).findings] == [
        "history"
    ]


# -- refusals --------------------------------------------------------------------------------------


def test_a_place_that_is_taken_is_refused(toy: Made, tmp_path: Path) -> None:
    full, file, link = tmp_path / "full", tmp_path / "file.tar.gz", tmp_path / "link"
    full.mkdir()
    (full / "mine.txt").write_text("work")
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for arguments, says in (
        ((full, None), "full is not empty, and nothing there is overwritten"),
        ((file, None), "is no folder"),
        ((link, None), "is no folder"),
        ((tmp_path / "no" / "such", None), "no is no folder: make it first"),
        ((None, file), "is there already"),
        ((None, tmp_path / "a.zip"), "does not end in .tar.gz"),
        ((None, tmp_path / "no" / "a.tar.gz"), "no is no folder: make it first"),
        ((None, None), "say where to"),
        ((toy.course / "out", None), "lies inside the course"),
        ((None, toy.course / "out.tar.gz"), "lies inside the course"),
    ):
        with pytest.raises(ReleaseError, match=says):
            release(toy.course, arguments[0], archive=arguments[1])
    assert (full / "mine.txt").read_text() == "work" and file.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.tar.gz", "full", "link"]


def test_an_empty_folder_and_one_that_git_ignores_will_do(
    own_course: Path, tmp_path: Path, in_sync: None
) -> None:
    (tmp_path / "empty").mkdir()
    release(own_course, tmp_path / "empty")
    (own_course / "results").mkdir()
    release(own_course, own_course / "results" / "r", archive=own_course / "results" / "r.tgz")
    assert git(own_course, "status", "--porcelain") == ""


def test_unknown_labs_are_refused_by_name(toy: Made, tmp_path: Path) -> None:
    with pytest.raises(LabNotFound, match="there is no lab '77'"):
        release(toy.course, tmp_path / "r", labs=["90", "77"])
    with pytest.raises(ReleaseError, match="leave out --labs, or leave out --complete"):
        release(toy.course, tmp_path / "r", labs=["90"], complete=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["labs/lab90_toy/count.py", "labs/lab90_toy/new.md"])
def test_what_is_not_committed_is_refused(own_course: Path, tmp_path: Path, path: str) -> None:
    with (own_course / path).open("a") as file:
        file.write("# more\n")
    with pytest.raises(ReleaseError, match=f"not committed: {path}"):
        release(own_course, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_stubs_and_lists_out_of_sync_are_refused(own_course: Path, tmp_path: Path) -> None:
    stub = own_course / "labs" / "lab90_toy" / "count.py"
    text = stub.read_text()
    stub.write_text(text.replace("0, 1, ...", "0, 1 and so on"))
    commit_all(own_course)
    with pytest.raises(ReleaseError, match=r"not in sync .*labs/lab90_toy/count\.py.* -s sync"):
        release(own_course, tmp_path / "r")
    stub.write_text(text)
    listed = own_course / "labs" / "lab90_toy" / "expected.json"
    listed.write_text(listed.read_text().replace("test_count", "test_counts"))
    commit_all(own_course)
    with pytest.raises(ReleaseError, match=r"not in sync .*labs/lab90_toy/expected\.json"):
        release(own_course, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_link_in_the_course_is_refused(own_course: Path, tmp_path: Path, in_sync: None) -> None:
    (own_course / "labs" / "lab90_toy" / "data").symlink_to("/etc")
    commit_all(own_course)
    with pytest.raises(ReleaseError, match="labs/lab90_toy/data is a link"):
        release(own_course, tmp_path / "r")


def test_without_git_there_is_an_archive_alone(
    toy: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_sync: None
) -> None:
    course = tmp_path / "unpacked"
    shutil.copytree(toy.course, course, ignore=shutil.ignore_patterns(".git"))
    (course / "labs" / "__pycache__").mkdir(exist_ok=True)
    (course / "labs" / "__pycache__" / "a.pyc").write_bytes(b"x")
    # A course that came as an archive, with git at hand: both are possible, with a fixed date.
    said = release(course, tmp_path / "r", archive=tmp_path / "r.tar.gz")
    assert said.commit and not said.source
    assert members(tmp_path / "r.tar.gz") == members(toy.archive)
    # No git at all.
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(ReleaseError, match="git is not on this machine"):
        release(course, tmp_path / "r2")
    release(course, None, archive=tmp_path / "r2.tar.gz")
    assert members(tmp_path / "r2.tar.gz") == members(toy.archive)
    assert (tmp_path / "r2.tar.gz").read_bytes() == (tmp_path / "r.tar.gz").read_bytes()


# -- the command -----------------------------------------------------------------------------------


def test_the_command_writes_checks_and_says_so(
    toy: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    in_sync: None,
) -> None:
    monkeypatch.setattr(cli, "ROOT", toy.course)
    assert cli.main(["release", str(tmp_path / "r"), "--labs", "90"]) == 0
    out, err = capfd.readouterr()
    assert toy.said.commit[:12] in out and "no solution, hidden test, mutant or history" in out
    assert err == ""
    assert cli.main(["release", "--check", str(tmp_path / "r")]) == 0
    assert "nothing found" in capfd.readouterr().out
    (tmp_path / "r" / "oops.md").write_text("return x * 2\n")
    assert cli.main(["release", "--check", str(tmp_path / "r")]) == 1
    out = capfd.readouterr().out
    assert "line: oops.md: 'return x * 2' is line 11 of solutions/lab90_toy/double.py" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say where to"),
        (["x", "--check", "y"], "--check only looks"),
        (["--check", "."], "failed"),
        (["--check", "file"], "is no release's archive"),
        (["r", "--labs", "77"], "there is no lab '77'"),
    ],
)
def test_an_error_of_the_command_is_one_line(
    toy: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.setattr(cli, "ROOT", toy.course)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no archive")
    assert cli.main(["release", *arguments]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("error: ") and says in err and "Traceback" not in err
    assert out == ""


def test_reading_the_course_changes_nothing(toy: Made) -> None:
    index = toy.course / ".git" / "index"
    before = index.stat().st_mtime_ns
    read_source(toy.course)
    assert index.stat().st_mtime_ns == before
