"""Requests of the oracle and replies of the worker, as schema-checked structs."""

from __future__ import annotations

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
decode_reply = msgspec.msgpack.Decoder(Reply).decode
