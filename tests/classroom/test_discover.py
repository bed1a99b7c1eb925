"""What counts as a submission, and what a crafted one brings about: an error of its own."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from graders.classroom import discover, export
from graders.classroom.discover import ClassError, Submission, SubmissionError, read
from graders.manifest import Manifest, find_lab
from graders.oracle.grade import ROOT

LAB = find_lab(ROOT, "lab02")
GOOD = {f"{task.module}.py": f"# {task.module}\n".encode() for task in LAB.tasks}


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return LAB


def put(folder: Path, files: dict[str, bytes] = GOOD) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def zipped(path: Path, names: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, names: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def under(folder: str) -> dict[str, bytes]:
    return {f"{folder}{name}": data for name, data in GOOD.items()}


# -- layouts ---------------------------------------------------------------------------------------

LAYOUTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "package": ("ann", lambda c: put(c / "ann" / "lab02_capacity")),
    "clone": ("ann", lambda c: put(c / "ann" / "inferlab" / "labs" / "lab02_capacity")),
    "modules": ("ann", lambda c: put(c / "ann")),
    "upper case": ("ann", lambda c: put(c / "ann" / "Lab02_Capacity")),
    "doubled": ("ann", lambda c: put(c / "ann" / "lab02_capacity" / "lab02_capacity")),
    "nbgrader": ("ann", lambda c: put(c / "submitted" / "ann" / "lab02" / "lab02_capacity")),
    "nbgrader flat": ("ann", lambda c: put(c / "submitted" / "ann" / "lab02")),
    "zip": ("ann", lambda c: zipped(c / "ann.zip", under("lab02_capacity/"))),
    "zip of modules": ("ann", lambda c: zipped(c / "ann.ZIP", under(""))),
    "zip with lab": ("ann_b", lambda c: zipped(c / "ann_b_lab02.zip", under("x/"))),
    "zip sent again": ("ann", lambda c: zipped(c / "ann-lab02_capacity-1.zip", under(""))),
    "Canvas": ("ann-71", lambda c: zipped(c / "ann_71_9034_lab02-2.zip", under(""))),
    "Canvas, late": ("ann-71", lambda c: zipped(c / "ann_LATE_71_9034_work.zip", under(""))),
    "backslashes": ("ann", lambda c: zipped(c / "ann.zip", under("lab02_capacity\\"))),
    "tar": ("ann", lambda c: tarred(c / "ann.tar", under("./lab02_capacity/"), "w")),
    "tar.gz": ("ann", lambda c: tarred(c / "ann.tar.gz", under("lab02_capacity/"))),
    "tar.bz2": ("ann", lambda c: tarred(c / "ann.tbz2", under(""), "w:bz2")),
    "tar.xz": ("ann", lambda c: tarred(c / "ann.tar.xz", under(""), "w:xz")),
    "zip in folder": (
        "ann",
        lambda c: zipped(put(c / "ann", {}) / "work.zip", under("lab02_capacity/")),
    ),
    "name of a person": ("Zoë O'Neill", lambda c: put(c / "Zoë O'Neill")),
    "mail address": ("ann.b+c@uni.example", lambda c: put(c / "ann.b+c@uni.example")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, manifest: Manifest, layout: str) -> None:
    student, make = LAYOUTS[layout]
    (tmp_path / "submitted").mkdir() if "nbgrader" in layout else None
    make(tmp_path)
    (found,) = discover.discover(tmp_path, manifest).submissions
    assert found.student == student and not found.problem
    assert read(found, manifest) == GOOD


def test_macos_leftovers_and_other_files_are_left_aside(tmp_path: Path, manifest: Manifest) -> None:
    put(tmp_path / "ann" / "lab02_capacity")
    names = under("lab02_capacity/") | {
        f"__MACOSX/lab02_capacity/._{name}": b"\0\5\26\7" for name in GOOD
    }
    zipped(tmp_path / "bob.zip", names)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "README.txt").write_bytes(b"x")
    found = discover.discover(tmp_path, manifest)
    assert [one.student for one in found.submissions] == ["ann", "bob"]
    assert found.ignored == ["README.txt"]
    assert all(read(one, manifest) == GOOD for one in found.submissions)


# -- bad ones --------------------------------------------------------------------------------------


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def zip_link(path: Path) -> None:
    info = zipfile.ZipInfo("lab02_capacity/cost.py")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")


def tar_member(path: Path, kind: bytes, target: str = "/etc/passwd") -> None:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("lab02_capacity/cost.py")
        info.type, info.linkname = kind, target
        archive.addfile(info)


def bomb_of_code(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("lab02_capacity/cost.py", "w") as file:
            for _ in range(80):
                file.write(b"#" * 2**20)


def bomb_of_tar(path: Path) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("data.bin")
        info.size = 40 * 2**20
        with open("/dev/zero", "rb") as zero:
            archive.addfile(info, zero)


def encrypted(path: Path) -> None:
    zipped(path, under(""))
    data = bytearray(path.read_bytes())
    for sign, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = -1
        while (at := data.find(sign, at + 1)) >= 0:
            data[at + offset] |= 1
    path.write_bytes(bytes(data))


def many_files(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(discover.MAX_ENTRIES + 1):
            archive.writestr(f"venv/{number}", b"")


def deep(path: Path) -> None:
    for _ in range(120):
        path = path / "lab02_x"
        path.mkdir(parents=True)
    put(path / "lab02_capacity")


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "nothing": ("ann", lambda p: p.mkdir(), "holds no folder lab02_capacity .* nothing"),
    "another lab": ("ann", lambda p: put(p / "lab01_x", {"a.py": b""}), "what it holds: lab01_x"),
    "no code": ("ann", lambda p: put(p / "lab02_capacity", {"a.txt": b""}), "holds no Python file"),
    "twice": (
        "ann",
        lambda p: (put(p / "a" / "lab02_capacity"), put(p / "b" / "lab02_capacity")),
        "is there 2 times .*keep one",
    ),
    "link to a file": (
        "ann",
        lambda p: link(put(p / "lab02_capacity", {"fit.py": b""}) / "cost.py", "/etc/passwd"),
        "cost.py is a link that leaves the submission",
    ),
    "link upwards": (
        "ann",
        lambda p: link(put(p / "lab02_capacity", {"fit.py": b""}) / "cost.py", "../../bob/x.py"),
        "a link that leaves the submission",
    ),
    "link to a folder": (
        "ann",
        lambda p: link(put(p / "lab02_capacity", {"fit.py": b""}) / "more", "/etc"),
        "a link that leaves the submission",
    ),
    "package is a link": ("ann", lambda p: link(p / "lab02_capacity", "/etc"), "is a link: put"),
    "submission is a link": ("ann", lambda p: link(p, "/etc"), "the submission is a link"),
    "too many modules": (
        "ann",
        lambda p: put(p / "lab02_capacity", {f"m{n}.py": b"" for n in range(501)}),
        "lab02_capacity holds more than 500 Python files",
    ),
    "climbing zip": ("ann.zip", lambda p: zipped(p, {"../bob/cost.py": b""}), "outside itself"),
    "absolute zip": ("ann.zip", lambda p: zipped(p, {"/etc/cost.py": b""}), "outside itself"),
    "drive in zip": ("ann.zip", lambda p: zipped(p, {"C:\\cost.py": b""}), "outside itself"),
    "link in zip": ("ann.zip", zip_link, "cost.py in the archive is a link"),
    "link in tar": ("ann.tgz", lambda p: tar_member(p, tarfile.SYMTYPE), "is a link or a device"),
    "hard link": ("ann.tgz", lambda p: tar_member(p, tarfile.LNKTYPE), "is a link or a device"),
    "device": ("ann.tgz", lambda p: tar_member(p, tarfile.CHRTYPE), "is a link or a device"),
    "bomb of code": ("ann.zip", bomb_of_code, "more than 64 MiB of code"),
    "bomb of data": ("ann.tar.gz", bomb_of_tar, "unpacks to more than 16 MiB"),
    "many files": ("ann.zip", many_files, "more than 20000 files"),
    "deep archive": ("ann.zip", lambda p: zipped(p, {"a/" * 20 + "b.py": b""}), "12 deep"),
    "long name": ("ann.zip", lambda p: zipped(p, {"a" * 300 + ".py": b""}), "longer than 200"),
    "deep folders": ("ann", deep, "holds no folder lab02_capacity"),
    "no archive": ("ann.zip", lambda p: p.write_bytes(b"PK\3\4 nothing"), "is damaged"),
    "empty file": ("ann.zip", lambda p: p.write_bytes(b""), "is damaged|holds no folder"),
    "cut off": (
        "ann.tar.gz",
        lambda p: (tarred(p, under("")), p.write_bytes(p.read_bytes()[:150])),
        "is damaged",
    ),
    "encrypted": ("ann.zip", encrypted, "encrypted"),
    "another packer": ("ann.rar", lambda p: p.write_bytes(b"Rar!"), "another kind: hand in a zip"),
    "formula": ("=1+1", lambda p: put(p), "name cannot stand for a student"),
    "option": ("-rf", lambda p: put(p), "name cannot stand for a student"),
    "line break": ("a\nb", lambda p: put(p), "name cannot stand for a student"),
    "very long": ("a" * 150, lambda p: put(p), "name cannot stand for a student"),
    "long in bytes": ("\u9577" * 80, lambda p: put(p), "name cannot stand for a student"),
    "escape code": ("\x1b[31m", lambda p: put(p), "name cannot stand for a student"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_submission_is_its_own_error(
    tmp_path: Path, manifest: Manifest, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, make, says = BAD[case]
    monkeypatch.setattr("tempfile.tempdir", str(put(tmp_path / "temporary", {})))
    monkeypatch.setattr(discover, "MAX_UNPACKED_BYTES", 16 * 2**20)
    put(tmp_path / "class" / "zoe" / "lab02_capacity")
    make(tmp_path / "class" / name)
    found = discover.discover(tmp_path / "class", manifest).submissions
    assert len(found) == 2
    (good,) = [one for one in found if one.student == "zoe"]
    (bad,) = [one for one in found if one.student != "zoe"]
    assert bad.student.isprintable() and not bad.student.startswith(("=", "-", "."))
    with pytest.raises(SubmissionError, match=says) as caught:
        read(bad, manifest)
    assert str(tmp_path) not in str(caught.value), "an author need not know our folders"
    assert str(caught.value).isprintable()
    assert read(good, manifest) == GOOD
    assert os.listdir(tmp_path / "temporary") == []


def test_a_link_inside_the_package_costs_its_module_alone(
    tmp_path: Path, manifest: Manifest
) -> None:
    link(put(tmp_path / "ann" / "lab02_capacity", {"fit.py": b"1\n"}) / "cost.py", "fit.py")
    files = read(Submission("ann", tmp_path / "ann"), manifest)
    assert files["fit.py"] == b"1\n" and b"cost.py is a link" in files["cost.py"]


def test_bytes_that_are_no_text_in_a_name(tmp_path: Path, manifest: Manifest) -> None:
    os.makedirs(os.fsencode(tmp_path) + b"/caf\xe9")
    (found,) = discover.discover(tmp_path, manifest).submissions
    assert found.student == "caf%E9" and "cannot stand for a student" in found.problem


def test_two_submissions_of_one_student(tmp_path: Path, manifest: Manifest) -> None:
    put(tmp_path / "ann")
    zipped(tmp_path / "ann.zip", under(""))
    (found,) = discover.discover(tmp_path, manifest).submissions
    with pytest.raises(SubmissionError, match=r"2 submissions of this name \(ann, ann.zip\)"):
        read(found, manifest)


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_a_bomb_in_another_packing(
    tmp_path: Path,
    manifest: Manifest,
    pack: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discover, "MAX_UNPACKED_BYTES", 16 * 2**20)
    info = tarfile.TarInfo("data")
    info.size = 2**40
    (tmp_path / "ann.tar.xz").write_bytes(pack(info.tobuf() + bytes(20 * 2**20)))
    with pytest.raises(SubmissionError, match="unpacks to more than 16 MiB"):
        read(Submission("ann", tmp_path / "ann.tar.xz"), manifest)


@pytest.mark.parametrize("what", ["absent", "file", "empty", "one"])
def test_no_class(tmp_path: Path, manifest: Manifest, what: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    put(tmp_path / "one")
    says = {
        "absent": "no such folder",
        "file": "it is a file",
        "empty": "no submissions in",
        "one": "is one submission, not a class",
    }
    with pytest.raises(ClassError, match=says[what]):
        discover.discover(tmp_path / what, manifest)


# -- the code for tools that compare ---------------------------------------------------------------


def test_export_for_jplag_and_dolos(tmp_path: Path) -> None:
    put(tmp_path / "class" / "ann" / "lab02_capacity")
    zipped(tmp_path / "class" / "bob.zip", under("lab02_capacity/"))
    (tmp_path / "class" / "cy").mkdir()
    done = export.export("jplag", tmp_path / "class", "lab02", tmp_path / "jplag", ROOT)
    assert done.students == ["ann", "bob"] and list(done.left_out) == ["cy"]
    written = tmp_path / "jplag" / "submissions"
    assert sorted(path.name for path in written.iterdir()) == ["ann", "bob"]
    for student in ("ann", "bob"):
        assert {p.name: p.read_bytes() for p in (written / student).iterdir()} == GOOD
    stub = ROOT / "labs" / "lab02_capacity" / "cost.py"
    assert (tmp_path / "jplag" / "base" / "cost.py").read_bytes() == stub.read_bytes()

    export.export("dolos", tmp_path / "class", "lab02", tmp_path / "dolos", ROOT)
    lines = (tmp_path / "dolos" / "submissions" / "info.csv").read_text().splitlines()
    assert lines[0] == "filename,full_name,created_at"
    assert [line.split(",")[:2] for line in lines[1:]] == [["ann.py", "ann"], ["bob.py", "bob"]]
    text = (tmp_path / "dolos" / "submissions" / "ann.py").read_bytes()
    assert text == (tmp_path / "dolos" / "submissions" / "bob.py").read_bytes()
    order = [text.index(data) for data in dict.fromkeys(GOOD.values())]
    assert order == sorted(order), "every student's modules stand in the same order"
    with pytest.raises(ClassError, match="is not empty"):
        export.export("dolos", tmp_path / "class", "lab02", tmp_path / "dolos", ROOT)
