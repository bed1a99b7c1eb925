"""Whatever must not be in a release is found, wherever and however it was brought in.

Each test brings one thing into a clean release and names the kind of finding and the place. Without
it nothing is found, so what is found is that thing.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import marshal
import os
import py_compile
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from graders import release as releases
from graders.release import LeakError, check, release
from tests.release.conftest import NOTEBOOK, Made, commit_all, git

SOLUTION_LINE = 'raise TypeError("x must be a tensor")'  # a line inside a solution of the toy lab
SHORT_LINE = "return x * 2"


@pytest.fixture
def student(toy: Made, tmp_path: Path) -> Path:
    """A copy of the clean release."""
    return Path(shutil.copytree(toy.repository, tmp_path / "student"))


def found(place: Path, toy: Made) -> list[tuple[str, str]]:
    """(kind, where) of all findings, but for the second commit that planting makes."""
    report = check(place, toy.course)
    return [(f.kind, f.where) for f in report.findings if "commits, and not one root" not in f.what]


def test_a_clean_release_holds_nothing(toy: Made) -> None:
    for place in (toy.repository, toy.archive):
        report = check(place, toy.course)
        assert report.findings == [] and report.sought > 20
    files = len(git(toy.repository, "ls-files").splitlines())
    assert files == toy.said.files < report.objects + 1
    # All objects were looked into: files, trees and the commit.
    listed = git(toy.repository, "cat-file", "--batch-check", "--batch-all-objects").splitlines()
    assert check(toy.repository, toy.course).objects == len(listed) > 40


# -- texts, in files of every kind -----------------------------------------------------------------


def notebook(output: str) -> bytes:
    cell = {
        "cell_type": "code", "execution_count": 1, "id": "c", "metadata": {}, "source": ["x\n"],
        "outputs": [{"output_type": "stream", "name": "stdout", "text": [output]}],
    }  # fmt: skip
    return json.dumps({**NOTEBOOK, "cells": [*NOTEBOOK["cells"], cell]}).encode()  # type: ignore[misc]


def in_html(line: str) -> bytes:
    data = {"text/html": f"<pre>{line.replace(chr(34), '&quot;')}</pre>"}
    cell = {"outputs": [{"output_type": "display_data", "data": data}], "source": []}
    return json.dumps({"cells": [cell]}).encode()


def tar_of(name: str, data: bytes, mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def zip_of(name: str, data: bytes, before: bytes = b"") -> bytes:
    out = io.BytesIO(before)
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return out.getvalue()


LINE = f"    {SOLUTION_LINE}\n".encode()
TEXTS: dict[str, tuple[str, bytes]] = {
    "handout": ("line", b"# Help\n\n" + LINE),
    "short": ("line", f"        {SHORT_LINE}".encode()),
    "respaced": ("line", b'raise   TypeError("x must\tbe a tensor")\r\n'),
    "quoted": ("line", f"> {SOLUTION_LINE}".encode()),
    "commented": ("line", f"# {SOLUTION_LINE}".encode()),
    "diff": ("line", f"+        {SOLUTION_LINE}".encode()),
    "session": ("line", f">>> {SHORT_LINE}".encode()),
    "inside a sentence": ("part", f"One may write `{SOLUTION_LINE}` there.".encode()),
    "after a line number": ("part", f"12: {SOLUTION_LINE}".encode()),
    "broken by a comment sign": ("part", b'# see raise TypeError("x\n#   must be a tensor")\n'),
    "notebook output": ("line", notebook(f"    {SOLUTION_LINE}\n")),
    "notebook output of many": ("line", notebook(f"a\n    {SOLUTION_LINE}\nb")),
    "notebook page": ("part", in_html(SOLUTION_LINE)),
    "utf-16": ("line", ("\ufeff" + LINE.decode()).encode("utf-16-le")),
    "big end first": ("line", LINE.decode().encode("utf-16-be")),
    "with a mark": ("line", b"\xef\xbb\xbf" + LINE),
    "latin": ("line", b"# \xe9t\xe9\n" + LINE),
    "between binary": ("part", bytes(range(256)) * 40 + LINE.strip() + bytes(range(256))),
    "gzip": ("line", gzip.compress(LINE)),
    "bzip2": ("line", bz2.compress(LINE)),
    "xz": ("line", lzma.compress(LINE)),
    "tar": ("line", tar_of("notes.txt", LINE, "w")),
    "tar.gz": ("line", tar_of("notes.txt", LINE)),
    "zip": ("line", zip_of("notes.txt", LINE)),
    "zip behind a picture": ("line", zip_of("notes.txt", LINE, b"\x89PNG\r\n" + bytes(300))),
    "zip in a tar.gz in a zip": ("line", zip_of("a", tar_of("b", zip_of("c", LINE)))),
    "rows of common lines": ("lines in a row", b"PLACEHOLDER"),
    "hidden test": ("name", b"def test_double_refuses_text(student):\n    pass\n"),
    "hidden id": ("name", b'{"tests": {"hidden::test_double_refuses_text": 1}}'),
    "hidden docstring": ("part", b'"""Text is refused with a TypeError."""'),
    "hidden docstring, wrapped": ("part", b"Say:\n  Text is refused\n  with a TypeError.\n"),
    "mutant": ("line", b"        return x * 3\n"),
    "alternative": ("line", b"    total.add_(x)\n"),
    "alternative in a row": ("lines in a row", b""),
    "reference": ("line", b"    return torch.stack([x.double(), x.double()]).sum(dim=0)"),
}
REGION = b"""
    if not isinstance(x, torch.Tensor):
        raise TypeError("x must be a tensor")

    return x * 2
"""
TEXTS["rows of common lines"] = ("lines in a row", REGION)
TEXTS["alternative in a row"] = (
    "lines in a row",
    b"total = torch.zeros_like(x)\nfor _ in range(2):\n    total.add_(x)\n",
)


@pytest.mark.parametrize("what", TEXTS)
def test_a_text_in_a_file_is_found(toy: Made, student: Path, what: str) -> None:
    kind, data = TEXTS[what]
    path = student / "labs" / "common" / "renamed.dat"
    path.write_bytes(data)
    commit_all(student)
    findings = found(student, toy)
    assert kind in {kind for kind, _ in findings}
    assert all(where.startswith("labs/common/renamed.dat") for _, where in findings)
    # The same in an archive, as the member of that name.
    archive = student.parent / "student.tar.gz"
    archive.write_bytes(tar_of("inferlab/labs/common/renamed.dat", data))
    assert kind in {kind for kind, _ in found(archive, toy)}


def test_a_mutants_name_and_texts_are_found(own_course: Path, tmp_path: Path) -> None:
    mutants = own_course / "graders" / "lab90" / "mutants.toml"
    text = mutants.read_text().replace('name = "thrice"', 'name = "doubles_too_much"')
    mutants.write_text(text.replace('"x * 3"', '"x * 2 + zero_of(x)"'))
    commit_all(own_course)
    archive = tmp_path / "s.tar.gz"
    for data, kind in (
        (b"see doubles_too_much", "name"),
        (b"x * 2 + zero_of(x)", "line"),
        (b"if so: return x * 2 + zero_of(x)", "part"),
    ):
        archive.write_bytes(tar_of("inferlab/labs/a.md", data))
        report = check(archive, own_course)
        assert kind in {f.kind for f in report.findings}
        assert all("doubles_too_much" in f.what for f in report.findings)


@pytest.mark.parametrize(
    "text",
    ["return x", "import torch", "x = 2", "def double(x):", '"""Twice x."""', "class Doubles: ..."],
)
def test_what_is_anybodys_is_not_found(toy: Made, student: Path, text: str) -> None:
    (student / "labs" / "common" / "mine.py").write_text(text + "\n")
    commit_all(student)
    assert found(student, toy) == []


def test_a_line_is_let_go_by_name_and_three_in_a_row_are_not(
    own_course: Path, toy: Made, student: Path
) -> None:
    with (own_course / "graders" / "release" / "allowed.txt").open("a") as allowed:
        allowed.write(f"{SOLUTION_LINE}\n")
    commit_all(own_course)
    handout = student / "labs" / "lab90_toy" / "README.md"
    handout.write_text(f"Write\n\n    {SOLUTION_LINE}\n")
    commit_all(student)
    assert found(student, toy) != []
    assert check(student, own_course).findings == [
        f for f in check(student, own_course).findings if f.kind == "history"
    ]
    handout.write_bytes(REGION)
    commit_all(student)
    assert "lines in a row" in {f.kind for f in check(student, own_course).findings}


# -- places other than a file of the last commit ---------------------------------------------------


def as_module(student: Path) -> None:
    """A whole solution under another name."""
    text = "def double(x):\n" + REGION.decode()
    (student / "labs" / "common" / "helpers.py").write_text(text)
    commit_all(student)


def in_history(student: Path) -> None:
    """Committed once, and removed again."""
    (student / "oops.py").write_bytes(LINE)
    commit_all(student)
    (student / "oops.py").unlink()
    commit_all(student)


def on_a_branch(student: Path) -> None:
    git(student, "switch", "--quiet", "--create", "other")
    (student / "oops.py").write_bytes(LINE)
    commit_all(student)
    git(student, "switch", "--quiet", "main")


def dangling(student: Path) -> None:
    git(student, "hash-object", "-w", "--stdin", data=LINE)


def in_a_message(student: Path) -> None:
    commit_all(student, f"Do not tell:\n\n    {SOLUTION_LINE}")


def in_a_tag(student: Path) -> None:
    git(student, "tag", "--annotate", "v1", "--message", f"now with {SOLUTION_LINE}")


def in_a_note(student: Path) -> None:
    git(student, "notes", "add", "--message", SOLUTION_LINE)


def in_the_reflog(student: Path) -> None:
    folder = student / ".git" / "logs"
    folder.mkdir(exist_ok=True)
    (folder / "HEAD").write_text(f"0 1 A <a> 1 +0000\tcommit: {SOLUTION_LINE}\n")


def ignored_by_git(student: Path) -> None:
    folder = student / "results"
    folder.mkdir()
    (folder / "notes.txt").write_bytes(LINE)


def edited_only(student: Path) -> None:
    (student / "labs" / "lab90_toy" / "count.py").write_text("    yield from range(n)\n")


PLACES: list[tuple[Callable[[Path], None], str, str]] = [
    (as_module, "line", "labs/common/helpers.py"),
    (as_module, "lines in a row", "labs/common/helpers.py"),
    (in_history, "line", "oops.py"),
    (on_a_branch, "line", "oops.py"),
    (dangling, "line", "blob "),
    (dangling, "history", "blob "),
    (in_a_message, "line", "the message of commit"),
    (in_a_tag, "part", "the message of tag"),
    (in_a_note, "line", ""),
    (in_the_reflog, "part", ".git/logs/HEAD"),
    (ignored_by_git, "line", "results/notes.txt"),
    (ignored_by_git, "not committed", "results/"),
    (edited_only, "line", "labs/lab90_toy/count.py"),
]


@pytest.mark.parametrize(
    ("plant", "kind", "where"), PLACES, ids=[f"{p.__name__}-{k}" for p, k, _ in PLACES]
)
def test_every_place_is_looked_into(
    toy: Made, student: Path, plant: Callable[[Path], None], kind: str, where: str
) -> None:
    plant(student)
    assert [w for k, w in found(student, toy) if k == kind and w.startswith(where)]


def test_packed_or_loose_bare_or_cloned_the_same_is_found(toy: Made, student: Path) -> None:
    in_history(student)
    expected = sorted(found(student, toy))
    assert expected
    git(student, "gc", "--quiet", "--prune=now")
    assert sorted(found(student, toy)) == expected
    bare = student.parent / "bare.git"
    git(student.parent, "clone", "--quiet", "--bare", str(student), str(bare))
    git(bare, "remote", "remove", "origin")
    assert sorted(found(bare, toy)) == expected


def test_a_second_commit_is_a_history(toy: Made, student: Path) -> None:
    commit_all(student, "later")
    (finding,) = check(student, toy.course).findings
    assert finding.kind == "history" and "2 commits" in finding.what


def test_ways_back_to_the_course_are_found(toy: Made, student: Path) -> None:
    git(student, "remote", "add", "origin", "https://example.org/course.git")
    assert ("history", ".git/config") in found(student, toy)
    git(student, "remote", "remove", "origin")
    info = student / ".git" / "objects" / "info"
    info.mkdir(exist_ok=True)
    (info / "alternates").write_text(str(toy.course / ".git" / "objects") + "\n")
    findings = found(student, toy)
    assert ("history", ".git/objects/info/alternates") in findings
    # Borrowed objects are objects of this repository: the course's own are found in it.
    assert {"name", "line", "lines in a row"} <= {kind for kind, _ in findings}


def test_links_are_found(toy: Made, student: Path) -> None:
    (student / "labs" / "more").symlink_to(toy.course / "solutions")
    assert ("link", "labs/more") in found(student, toy)
    commit_all(student)
    assert ("link", "labs/more") in found(student, toy)


@pytest.mark.parametrize(
    "path",
    [
        "solutions/lab90_toy/double.py",
        "graders/lab90/test_hidden.py",
        "graders/lab90/expected.json",
        "graders/hidden/graphs.py",
        "labs/common/mutants.toml",
        "tests/test_course.py",
        "content/measurements/a.json",
        "labs/alternatives/note.txt",
    ],
)
def test_a_path_tells_too(toy: Made, student: Path, path: str) -> None:
    (student / path).parent.mkdir(parents=True, exist_ok=True)
    (student / path).write_text("nothing\n")
    commit_all(student)
    assert ("path", path) in found(student, toy)


@pytest.mark.parametrize("name", ["double.pyc", "weights.bin"])
def test_compiled_code_is_found_by_its_bytes(toy: Made, student: Path, name: str) -> None:
    source = toy.course / "solutions" / "lab90_toy" / "double.py"
    py_compile.compile(str(source), cfile=str(student / "labs" / name), doraise=True)
    git(student, "add", "--force", f"labs/{name}")
    commit_all(student)
    assert ("compiled code", f"labs/{name}") in found(student, toy)
    assert marshal.loads((student / "labs" / name).read_bytes()[16:])  # it is a module indeed


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("zstandard data", b"(\xb5/\xfd" + bytes(40)),
        ("a git bundle", b"# v2 git bundle\n"),
        ("cannot be unpacked", gzip.compress(os.urandom(400))[:-9]),
        ("cannot be unpacked", zip_of("a", b"b" * 90)[:20] + zip_of("a", b"c" * 90)[24:]),
    ],
)
def test_what_cannot_be_opened_is_found(toy: Made, student: Path, what: str, data: bytes) -> None:
    (student / "labs" / "data.bin").write_bytes(data)
    commit_all(student)
    assert [f for f in check(student, toy.course).findings if f.kind == "sealed" and what in f.what]


def test_a_compressed_file_of_endless_size_ends(
    toy: Made, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graders.release.scan.MAX_BYTES", 2**20)
    (student / "labs" / "bomb.gz").write_bytes(gzip.compress(bytes(2**24)))
    commit_all(student)
    assert ("sealed", "labs/bomb.gz") in found(student, toy)


# -- brought into the course -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("labs/lab90_toy/README.md", f"Hint: {SOLUTION_LINE}\n", "part"),
        ("labs/lab90_toy/lab90.ipynb", notebook(SOLUTION_LINE).decode(), "line"),
        # In the course library a line is common property; three in a row are a solution.
        ("labs/common/helpers.py", REGION.decode(), "lines in a row"),
        ("labs/lab90_toy/more.py", REGION.decode(), "lines in a row"),
        ("graders/report/style.css", REGION.decode(), "lines in a row"),
        ("labs/lab90_toy/notes.md", "Also test_double_refuses_text.\n", "name"),
    ],
)
def test_a_release_that_would_leak_is_not_written(
    own_course: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    text: str,
    kind: str,
) -> None:
    monkeypatch.setattr(releases, "check_in_sync", lambda *_: None)
    (own_course / path).write_text(text)
    commit_all(own_course)
    out = tmp_path / "out"
    out.mkdir()
    for dest, archive in ((out / "r", None), (None, out / "r.tar.gz"), (out / "r", out / "r.tgz")):
        with pytest.raises(LeakError, match="nothing was written") as caught:
            release(own_course, dest, archive=archive)
        assert (kind, path) in {(f.kind, f.where) for f in caught.value.findings}
        assert list(out.iterdir()) == []
