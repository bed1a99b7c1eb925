"""Requests of the oracle and replies of the worker, as schema-checked structs."""

from __future__ import annotations

import re
from typing import Any

import msgspec


class Target(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Where a request is aimed: a module of the lab or a handle, then an attribute path."""

    module: str = ""
    handle: int = 0
    path: str = ""


class Call(msgspec.Struct, tag=True, array_like=True):
    """Call the target; a coroutine is awaited before the reply."""

    target: Target
    args: Any
    kwargs: Any


class Get(msgspec.Struct, tag=True, array_like=True):
    """Read the target's value."""

    target: Target


class Next(msgspec.Struct, tag=True, array_like=True):
    """Advance an iterator or async iterator kept by the worker."""

    handle: int


class Release(msgspec.Struct, tag=True, array_like=True):
    """Forget handles; there is no reply."""

    handles: list[int]


class Ok(msgspec.Struct, tag=True, array_like=True):
    """A value, and the positions of tensor arguments that the call changed in place."""

    value: Any
    mutated: list[str] = []


class Stop(msgspec.Struct, tag=True, array_like=True):
    """An iterator came to its end."""


class Error(msgspec.Struct, tag=True, array_like=True):
    """An exception of the submission: its class names by MRO, its text, its own traceback."""

    types: list[str]
    message: str
    traceback: str
    phase: str = "call"


Request = Call | Get | Next | Release
Reply = Ok | Stop | Error

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode

# Keys of a map may be arrays, and those can be built to hash alike, which would keep the decoder
# busy for hours. Only the fields of a dataclass travel as a map, so a large one is never honest.
_MAX_KEYS = 256
_SMALL_BYTES = 64 * 1024  # no map in so few bytes takes long
_MAP_HEADERS = re.compile(rb"[\xde\xdf]")
# What follows a first byte in msgpack: a fixed number of bytes, and the width of a length.
_FIXED = {0xCA: 4, 0xCB: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17, 0xDC: 2, 0xDD: 4}
_FIXED |= {first: 1 << (first & 3) for first in (*range(0xCC, 0xD0), *range(0xD0, 0xD4))}
_FIXED |= {0xDE: 2, 0xDF: 4} | {first: first - 0xA0 for first in range(0xA0, 0xC0)}
_FIXED |= {0xC7: 1, 0xC8: 1, 0xC9: 1}  # the type of an extension, besides its length
_LENGTH = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}


def decode_reply(payload: bytes) -> Reply:
    """The reply in a frame. Raises msgspec.DecodeError (ValidationError for a wrong schema)."""
    if len(payload) > _SMALL_BYTES and _MAP_HEADERS.search(payload):
        _refuse_large_maps(payload)
    try:
        return _decode_reply(payload)
    except UnicodeDecodeError as error:  # msgspec lets it through from within a value
        raise msgspec.DecodeError(f"text that is no UTF-8: {error.reason}") from None


def _refuse_large_maps(payload: bytes) -> None:
    """Walk over the encoding without building anything: containers are just headers in a row."""
    at, end = 0, len(payload)
    while at < end:
        first = payload[at]
        at += 1
        if first in (0xDE, 0xDF):
            count = int.from_bytes(payload[at : at + _FIXED[first]], "big")
            if count > _MAX_KEYS:
                raise msgspec.DecodeError(f"a map of {count} keys")
        if first in _LENGTH:
            width = _LENGTH[first]
            at += width + int.from_bytes(payload[at : at + width], "big")
        at += _FIXED.get(first, 0)
