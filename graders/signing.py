"""Signed records: who got which result, when, signed with which key, and whether it was altered.

A record travels as an *envelope*: JSON with the record's text, whose it is, when it was signed,
the key's id, and an HMAC-SHA256 over all of that. HMAC needs the secret to check as well as to
sign, which fits here: the instructor does both, and nothing but the standard library is needed.

The key is a file of the instructor's, made on first use, readable by nobody else. It is read by
the process that collects results. A submission's process never has it: the fork server starts as a
program of its own, with a short list of environment variables and no descriptor of ours, and in the
sandbox the file does not exist.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

SCHEMA = 1
_SECRET_BYTES = 32


class SigningError(ValueError):
    """A key that cannot be used, or an envelope that cannot be believed: what, why, the mend."""


class Altered(SigningError):
    """An envelope that does not hold what was signed. ``parts`` names what was altered."""

    def __init__(self, message: str, parts: tuple[str, ...]) -> None:
        super().__init__(message)
        self.parts = parts


@dataclass(frozen=True)
class Key:
    """One signing key. It can be neither printed nor sent to another process by accident."""

    secret: bytes = field(repr=False)
    made: str = ""  # ISO 8601

    @property
    def id(self) -> str:
        """Names the key and does not tell it: 16 hex digits."""
        return hashlib.sha256(b"inferlab key id\0" + self.secret).hexdigest()[:16]

    def __reduce__(self) -> str:
        raise TypeError("a signing key stays in its process")


@dataclass(frozen=True)
class Verified:
    """What a good envelope says. ``when`` is ISO 8601, UTC."""

    record: bytes
    who: str
    when: str
    key_id: str


class _Parts(msgspec.Struct, forbid_unknown_fields=True):
    """A MAC for each part, so that a bad envelope can say which part was touched."""

    record: str
    who: str
    when: str


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    schema: int = SCHEMA
    who: str
    when: str
    key_id: str
    record: str
    parts: _Parts
    mac: str


class _StoredKey(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    secret: str  # base64
    made: str


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    """The newest key is the last one: it signs. The others only verify."""

    schema: int
    keys: list[_StoredKey]


# -- keys ------------------------------------------------------------------------------------------


def key_path(path: Path | str | None = None) -> Path:
    """Where the key file is: ``path``, else INFERLAB_KEY, else the user's configuration folder."""
    if path is not None:
        return Path(path).expanduser()
    if os.environ.get("INFERLAB_KEY"):
        return Path(os.environ["INFERLAB_KEY"]).expanduser()
    variable, folder = ("APPDATA", "AppData") if os.name == "nt" else ("XDG_CONFIG_HOME", ".config")
    configured = os.environ.get(variable)
    return (Path(configured) if configured else Path.home() / folder) / "inferlab" / "keys.json"


def load_key(path: Path | str | None = None) -> Key:
    """The key that signs now, made the first time. Raises SigningError."""
    return load_keys(path)[-1]


def load_keys(path: Path | str | None = None) -> tuple[Key, ...]:
    """Every key that verifies, oldest first; the file is made where there is none.

    Raises SigningError for a file that others may read or write, or that is no key file.
    """
    file = key_path(path)
    if not os.path.lexists(file):
        _make(file)
    return _read(file)


def rotate(path: Path | str | None = None) -> Key:
    """Make a new key that signs from now on; what the old ones signed still verifies."""
    file = key_path(path)
    if not os.path.lexists(file):
        return load_key(file)  # the first one is new enough
    with _locked(file):
        key = _new_key()
        temporary = _write_beside(file, (*_read(file), key))
        os.replace(temporary, file)
        _sync_folder(file.parent)
    return key


def _new_key() -> Key:
    return Key(secrets.token_bytes(_SECRET_BYTES), _now())


def _make(file: Path) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = _write_beside(file, (_new_key(),))
        try:
            # A link never replaces a file: of two first uses at once, one makes the key.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, file)
        finally:
            os.unlink(temporary)
        _sync_folder(file.parent)
    except OSError as error:
        raise SigningError(
            f"no signing key can be made at {file} ({error.strerror}): "
            "name a place that you may write to in INFERLAB_KEY"
        ) from None


def _write_beside(file: Path, keys: Iterable[Key]) -> str:
    """A file with ``keys`` next to ``file``, mode 0600 from its first moment, on the disk."""
    stored = [
        _StoredKey(key.id, base64.b64encode(key.secret).decode("ascii"), key.made) for key in keys
    ]
    data = msgspec.json.format(msgspec.json.encode(_KeyFile(SCHEMA, stored)), indent=2)
    fd, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    with os.fdopen(fd, "wb") as stream:
        stream.write(data + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return temporary


def _read(file: Path) -> tuple[Key, ...]:
    try:
        fd = os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(fd, "rb") as stream:
            info = os.fstat(fd)
            if os.name == "posix":
                _check_private(file, info)
            data = stream.read(2**20)
    except OSError as error:
        raise SigningError(
            f"the signing key {file} cannot be read ({error.strerror}): mend that, or name another "
            "file in INFERLAB_KEY"
        ) from None
    try:
        stored = msgspec.json.decode(data, type=_KeyFile)
        keys = tuple(Key(base64.b64decode(k.secret, validate=True), k.made) for k in stored.keys)
    except ValueError as error:
        raise SigningError(f"{file} is no file of signing keys: {error}") from None
    if stored.schema != SCHEMA:
        raise SigningError(f"{file}: schema {stored.schema} is unknown, not {SCHEMA}")
    if not keys:
        raise SigningError(f"{file} holds no key: remove it, and the next use makes one")
    for key, line in zip(keys, stored.keys, strict=True):
        if len(key.secret) < _SECRET_BYTES or key.id != line.id:
            raise SigningError(f"{file}: the key {line.id!r} is damaged; put a copy of it back")
    return keys


def _check_private(file: Path, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise SigningError(f"the signing key {file} is no regular file")
    if info.st_uid not in (os.geteuid(), 0):
        raise SigningError(f"the signing key {file} belongs to another user, who could sign as you")
    if info.st_mode & 0o077:
        raise SigningError(
            f"the signing key {file} is open to others (mode {info.st_mode & 0o777:04o}): "
            f"chmod 600 {file}. If somebody else may have read it, rotate it too"
        )


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One rotation at a time. The kernel lets go of the lock when its holder dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two rotations at the same moment are the user's own doing
        yield
        return
    fd = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    """Make a new name in ``folder`` survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# -- envelopes -------------------------------------------------------------------------------------


def sign(record: bytes, *, who: str, key: Key) -> bytes:
    """The envelope of ``record`` (UTF-8 text, such as ``graders.record.to_json`` makes).

    ``who`` is the one whose record it is: a good envelope of one student is none of another's.
    Raises SigningError for a record that is not UTF-8.
    """
    try:
        text = record.decode("utf-8")
        who.encode("utf-8")
    except UnicodeError as error:
        raise SigningError(f"only UTF-8 text can be signed: {error}") from None
    when = _now()
    envelope = _Envelope(
        who=who,
        when=when,
        key_id=key.id,
        record=text,
        parts=_Parts(
            record=_mac(key, "record", text),
            who=_mac(key, "who", who),
            when=_mac(key, "when", when),
        ),
        mac=_whole(key, who, when, text),
    )
    return msgspec.json.format(msgspec.json.encode(envelope), indent=2) + b"\n"


def verify(envelope: bytes, keys: Key | Iterable[Key]) -> Verified:
    """What was signed, if every bit of it is still so.

    Raises Altered, saying which parts were altered, and SigningError for what is no envelope or
    was signed with a key that is not among ``keys``.
    """
    try:
        sealed = msgspec.json.decode(envelope, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SigningError(f"not a signed record: {error}") from None
    if sealed.schema != SCHEMA:
        raise SigningError(f"schema {sealed.schema} is unknown; this grader reads schema {SCHEMA}")
    known = {key.id: key for key in ([keys] if isinstance(keys, Key) else keys)}
    key = known.get(sealed.key_id)
    if key is None:
        raise SigningError(
            f"signed with the key {sealed.key_id!r}, which is not among yours "
            f"({', '.join(known) or 'none'}): the key was altered or is somebody else's"
        )
    if not _same(sealed.mac, _whole(key, sealed.who, sealed.when, sealed.record)):
        raise _altered(sealed, key)
    return Verified(sealed.record.encode("utf-8"), sealed.who, sealed.when, key.id)


def _altered(sealed: _Envelope, key: Key) -> Altered:
    parts = tuple(
        name
        for name in ("record", "who", "when")
        if not _same(getattr(sealed.parts, name), _mac(key, name, getattr(sealed, name)))
    )
    names = {"record": "the record", "who": "whose it is", "when": "the time of signing"}
    if not parts:
        return Altered(
            "altered since it was signed: its parts are genuine, but were not signed together "
            "(taken from several envelopes), or the signature itself was changed",
            ("mac",),
        )
    return Altered(
        f"altered since it was signed with key {key.id}: "
        + " and ".join(names[part] for part in parts),
        parts,
    )


def _mac(key: Key, part: str, *values: str) -> str:
    """HMAC-SHA256 in hex; lengths keep a byte from moving from one value into the next."""
    text = hmac.new(key.secret, f"inferlab record {SCHEMA} {part}".encode(), hashlib.sha256)
    for value in values:
        data = value.encode("utf-8")
        text.update(len(data).to_bytes(8, "big") + data)
    return text.hexdigest()


def _whole(key: Key, who: str, when: str, record: str) -> str:
    return _mac(key, "all", key.id, who, when, record)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8"), wanted.encode("utf-8"))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
