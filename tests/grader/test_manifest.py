"""The manifest: a right one is read whole, and each way to be wrong has its own clear message."""

from __future__ import annotations

from pathlib import Path

import pytest

from graders.manifest import LabNotFound, ManifestError, find_lab, load_manifest

GOOD = """
schema = 1
number = 1
package = "lab01_tokens"
title = "Tokens"
summary = "One token after another."
minutes = 90
preload = ["torch"]

[[task]]
id = "norm"
title = "RMSNorm"
module = "norm"
points = 40
tier = "cpu"
timeout_s = 10
hints = ["Square first."]

[[task]]
id = "rope"
title = "Rotary"
module = "rope"
points = 60.0
tier = "cpu"
timeout_s = 2.5
needs = ["norm"]
hints = ["Halves, not pairs.", "cos and sin."]

[[task]]
id = "decode"
title = "Fast decode"
module = "decode"
points = 15
tier = "gpu"
timeout_s = 60
hints = ["Preallocate."]

[[plot]]
title = "Roofline"
call = "plots:roofline"
"""


def write(folder: Path, text: str, package: str = "lab01_tokens") -> Path:
    file = folder / "labs" / package / "lab.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_a_good_manifest_is_read_whole(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, GOOD))
    assert manifest.name == "lab01"
    assert [task.id for task in manifest.tasks] == ["norm", "rope", "decode"]
    assert manifest.tasks[1].needs == ("norm",)
    assert manifest.tasks[1].timeout_s == 2.5
    assert (manifest.points("cpu"), manifest.points("gpu")) == (100, 15)
    assert manifest.plots[0].call == "plots:roofline"
    assert manifest.directory == tmp_path / "labs" / "lab01_tokens"
    with pytest.raises(AttributeError):
        manifest.number = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("number = 1", "number = = 1", "not valid TOML"),
        ("minutes = 90", "minutes = 90\ncolour = 1", "`colour` is unknown"),
        ("timeout_s = 2.5", "timeout_s = 2.5\ntimeuot = 1", "[[task]] 'rope': the key `timeuot`"),
        ('title = "Rotary"\n', "", "[[task]] 'rope': the key `title` is missing"),
        ("number = 1\n", "", "the key `number` is missing"),
        ("minutes = 90", 'minutes = "90"', "minutes: expected int, got str"),
        ("points = 60.0", 'points = "60"', "[[task]] 'rope': points: expected float, got str"),
        ("points = 60.0", "points = true", "[[task]] 'rope': points: expected float, got bool"),
        ('id = "rope"', 'id = "norm"', "used twice"),
        ("points = 60.0", "points = 50", "adds up to 90 points, not 100"),
        ('needs = ["norm"]', 'needs = ["nrom"]', "there is no task 'nrom'"),
        ('needs = ["norm"]', 'needs = ["rope"]', "in a circle (rope -> rope)"),
        ('tier = "gpu"', 'tier = "tpu"', "[[task]] 'decode': tier: the tier is unknown"),
        ("timeout_s = 2.5", "timeout_s = 0", "0.0 is not a time limit"),
        ("timeout_s = 2.5", "timeout_s = inf", "inf is not a time limit"),
        ("points = 60.0", "points = nan", "nan is not a number of points"),
        ("points = 60.0", "points = -60", "-60.0 is not a number of points"),
        ('hints = ["Preallocate."]', "hints = []", "[[task]] 'decode': hints: there are no hints"),
        ("schema = 1", "schema = 7", "version 7 is unknown"),
        ("lab01_tokens", "lab02_tokens", "does not fit lab number 1"),
        ("plots:roofline", "plots.roofline", "is no call"),
        ("minutes = 90", "minutes = 0", "not a duration"),
        ('title = "Tokens"', 'title = " "', "title: the text is empty"),
        ('summary = "One token after another."', 'summary = ""', "summary: the text is empty"),
        ('title = "Rotary"', 'title = ""', "[[task]] 'rope': title: the text is empty"),
        ("number = 1", "number = 0", "0 is not a lab number"),
        ("number = 1", "number = 1.0", "number: expected int, got float"),
        ("schema = 1", 'schema = "1"', "schema: expected int, got str"),
        ("schema = 1\n", "", "the key `schema` is missing"),
        ("minutes = 90", "minutes = 1.5", "minutes: expected int, got float"),
        ('preload = ["torch"]', 'preload = "torch"', "preload: expected array, got str"),
        ('preload = ["torch"]', 'preload = ["torch", ""]', "preload: '' is no module"),
        ('preload = ["torch"]', 'preload = ["os; x"]', "preload: 'os; x' is no module"),
        ('package = "lab01_tokens"', 'package = "lab01_Tokens"', "does not fit lab number 1"),
        ('package = "lab01_tokens"', 'package = "lab01_other"', "lies in a folder called"),
        ('id = "rope"', 'id = "Rope!"', "[[task]] 'Rope!': id: not a usable id"),
        ('id = "rope"', 'id = ""', "id: not a usable id"),
        ('module = "rope"', 'module = "ro pe"', "[[task]] 'rope': module: 'ro pe' is no module"),
        ('module = "rope"', 'module = "rope.py:x"', "is no module"),
        ('needs = ["norm"]', 'needs = "norm"', "[[task]] 'rope': needs: expected array"),
        ('hints = ["Preallocate."]', 'hints = [" "]', "hints: there are no hints"),
        ('hints = ["Preallocate."]', "hints = [1]", "expected str, got int"),
        ("points = 60.0", "points = 0", "0.0 is not a number of points"),
        ("points = 60.0", "points = inf", "inf is not a number of points"),
        ("timeout_s = 2.5", "timeout_s = nan", "nan is not a time limit"),
        ("timeout_s = 2.5", 'timeout_s = "2"', "timeout_s: expected float, got str"),
        ('call = "plots:roofline"', "", "[[plot]] 'Roofline': the key `call` is missing"),
        ('title = "Roofline"', 'title = "Roofline"\nx = 1', "[[plot]] 'Roofline': the key `x`"),
        ("[[plot]]", "[plot]", "plot: expected array, got object"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert GOOD.count(old) >= 1
    file = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ManifestError) as caught:
        load_manifest(file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)
    assert caught.value.mend


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        load_manifest(tmp_path / "lab.toml")
    (tmp_path / "lab.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="not UTF-8"):
        load_manifest(tmp_path / "lab.toml")


@pytest.mark.parametrize("name", ["lab01", "1", "01", "lab1", "LAB01", "lab01_tokens"])
def test_a_lab_goes_by_several_names(tmp_path: Path, name: str) -> None:
    write(tmp_path, GOOD)
    assert find_lab(tmp_path, name).package == "lab01_tokens"


@pytest.mark.parametrize("name", ["lab02", "", "../lab01", "lab01_token", "11"])
def test_no_such_lab_lists_the_labs_there_are(tmp_path: Path, name: str) -> None:
    write(tmp_path, GOOD)
    if name == "../lab01":  # a path given by tab completion means its last part
        assert find_lab(tmp_path, name).number == 1
        return
    with pytest.raises(LabNotFound, match="lab01_tokens"):
        find_lab(tmp_path, name)


def test_no_labs_at_all(tmp_path: Path) -> None:
    with pytest.raises(LabNotFound, match="no labs"):
        find_lab(tmp_path, "lab01")


def test_no_task_and_no_table_of_tasks(tmp_path: Path) -> None:
    head, _, _ = GOOD.partition("[[task]]")
    for text, says in (("", "`task` is missing"), ("task = []", "no task"), ("task = 3", "array")):
        with pytest.raises(ManifestError, match=says):
            load_manifest(write(tmp_path, head + text))


def test_needs_in_a_wide_circle(tmp_path: Path) -> None:
    text = GOOD.replace('title = "RMSNorm"', 'title = "RMSNorm"\nneeds = ["rope"]')
    with pytest.raises(ManifestError, match=r"norm -> rope -> norm"):
        load_manifest(write(tmp_path, text))


def test_a_manifest_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").mkdir()
    with pytest.raises(ManifestError, match=r"cannot be read \(Is a directory\)"):
        load_manifest(tmp_path)


def test_two_labs_of_one_number_are_not_confused(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, GOOD.replace("lab01_tokens", "lab01_bytes"), "lab01_bytes")
    with pytest.raises(LabNotFound, match="lab01_bytes and lab01_tokens"):
        find_lab(tmp_path, "lab01")
    assert find_lab(tmp_path, "lab01_bytes").package == "lab01_bytes"
