"""The signing key and the envelopes: made once, private, rotated; every change is noticed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.oracle.grade import ROOT
from graders.signing import (
    Altered,
    Key,
    SigningError,
    key_path,
    load_key,
    load_keys,
    rotate,
    sign,
    verify,
)

KEY = Key(bytes(range(32)))
OTHER = Key(bytes(range(1, 33)))


def test_the_key_is_made_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERLAB_KEY", str(tmp_path / "new" / "folder" / "key.json"))
    before = os.umask(0)
    try:
        first = load_key()
    finally:
        os.umask(before)
    assert load_key() == first and len(first.secret) == 32
    path = key_path()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert os.listdir(path.parent) == ["key.json"], "a temporary file was left"


def test_without_the_variable_it_lies_in_the_users_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INFERLAB_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    load_key()
    assert (tmp_path / "inferlab" / "keys.json").is_file()


def test_two_first_uses_at_once_make_one_key(tmp_path: Path) -> None:
    code = "import sys; from graders.signing import load_key; print(load_key(sys.argv[1]).id)"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "key.json")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for _ in range(6)
    ]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.json"
    load_key(path)
    path.chmod(mode)
    with pytest.raises(SigningError, match=f"open to others .*{mode:04o}.*chmod 600"):
        load_key(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no file of signing keys"),
        ('{"schema": 1, "keys": []}', "holds no key"),
        ('{"schema": 2, "keys": []}', "schema 2 is unknown"),
        ('{"schema": 1, "keys": [{"id": "a", "secret": "YQ==", "made": ""}]}', "is damaged"),
        ('{"schema": 1, "keys": [{"id": "a", "secret": "?", "made": ""}]}', "is no file of"),
    ],
)
def test_a_damaged_key_file_is_an_error(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SigningError, match=says):
        load_key(path)
    assert path.read_text() == text, "a damaged key is never overwritten"


def test_rotation_keeps_what_was_signed_before(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    old = load_key(path)
    envelope = sign(b"{}", who="ann", key=old)
    new = rotate(path)
    assert load_key(path) == new != old
    assert path.stat().st_mode & 0o777 == 0o600
    assert verify(envelope, load_keys(path)).key_id == old.id
    assert verify(sign(b"{}", who="ann", key=new), load_keys(path)).key_id == new.id


def test_a_key_does_not_show_and_does_not_travel() -> None:
    assert KEY.secret.hex() not in repr(KEY) and repr(KEY.secret) not in repr(KEY)
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(KEY)


@given(st.text(), st.text())
def test_what_was_signed_comes_back(text: str, who: str) -> None:
    try:
        record = text.encode()
        who.encode()
    except UnicodeEncodeError:
        with pytest.raises(SigningError):
            sign(b"{}", who=who, key=KEY)
        return
    found = verify(sign(record, who=who, key=KEY), [OTHER, KEY])
    assert (found.record, found.who, found.key_id) == (record, who, KEY.id)
    assert found.when.endswith("+00:00")


@pytest.mark.parametrize(
    ("part", "says"),
    [("record", "the record"), ("who", "whose it is"), ("when", "the time of signing")],
)
def test_a_change_is_named(part: str, says: str) -> None:
    fields = json.loads(sign(b'{"points": 10}', who="ann", key=KEY))
    fields[part] = fields[part].replace("1", "9").replace("ann", "bob")
    with pytest.raises(Altered, match=f"altered .*: {says}$") as caught:
        verify(json.dumps(fields).encode(), KEY)
    assert caught.value.parts == (part,)


def test_parts_of_two_envelopes_do_not_make_a_third() -> None:
    ann = json.loads(sign(b'{"points": 1}', who="ann", key=KEY))
    bob = json.loads(sign(b'{"points": 2}', who="bob", key=KEY))
    ann["record"], ann["parts"]["record"] = bob["record"], bob["parts"]["record"]
    for mac in (ann["mac"], bob["mac"]):
        with pytest.raises(Altered, match="not signed together"):
            verify(json.dumps({**ann, "mac": mac}).encode(), KEY)


@given(st.data())
def test_no_changed_byte_says_anything_else(data: st.DataObject) -> None:
    """A changed byte is noticed, or changed nothing that is said (white space)."""
    envelope = bytearray(sign(b'{"points": 10}', who="ann", key=KEY))
    good = verify(bytes(envelope), KEY)
    position = data.draw(st.integers(0, len(envelope) - 1))
    envelope[position] = data.draw(st.integers(0, 255))
    try:
        found = verify(bytes(envelope), KEY)
    except SigningError:
        return
    assert found == good


def test_a_foreign_key_is_named() -> None:
    with pytest.raises(SigningError, match=f"{OTHER.id}.*not among yours .{KEY.id}"):
        verify(sign(b"{}", who="ann", key=OTHER), KEY)


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"\xff", b'{"schema": 1, "who": 3}'])
def test_what_is_no_envelope_says_so(text: bytes) -> None:
    with pytest.raises(SigningError, match="not a signed record"):
        verify(text, KEY)
