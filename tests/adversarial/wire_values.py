"""What the fuzzers share: one reading of bytes, and what may come of it."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import msgspec
import numpy as np
import torch

from graders.wire import messages
from graders.wire.codec import DTYPES, HandleRef, Unpacker, WireError

# The documented ways to say no.
REFUSALS = (msgspec.DecodeError, WireError, RecursionError)
_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, torch.Generator)


def read(payload: bytes, fds: list[int] | None = None) -> Any:
    """What the oracle makes of a frame: a reply with its value unpacked. Raises REFUSALS."""
    reply = messages.decode_reply(payload)
    if isinstance(reply, messages.Ok):
        reply.value = Unpacker(fds or [], lambda ref: ref).unpack(reply.value)
    return reply


def check_plain(value: Any) -> None:
    """The value holds plain data only, all the way down, and every number of it can be used."""
    if isinstance(value, torch.Tensor):
        assert type(value) is torch.Tensor and value.dtype in DTYPES.values()
        assert value.device.type == "cpu" and value.layout is torch.strided
        value.clone()
        if value.dtype is torch.bool:
            assert int(value.view(torch.uint8).max() if value.numel() else 0) <= 1
    elif isinstance(value, np.ndarray):
        assert value.dtype.kind in "biufc"
        if value.dtype.kind == "b":
            assert value.size == 0 or int(value.view(np.uint8).max()) <= 1
    elif type(value) in (list, tuple):
        for item in value:
            check_plain(item)
    elif type(value) is dict:
        for key, item in value.items():
            check_plain(key)
            check_plain(item)
    elif isinstance(value, HandleRef):
        assert value.kind in ("object", "callable", "iterator", "async_iterator")
    else:
        assert type(value) in _PLAIN or type(value).__module__.startswith("labs.common"), value


def feed(payload: bytes, fds: list[int] | None = None) -> bool:
    """Read one frame and check what came; whether it was a value."""
    try:
        reply = read(payload, fds)
    except REFUSALS:
        return False
    assert isinstance(reply, messages.Ok | messages.Stop | messages.Error)
    if isinstance(reply, messages.Ok):
        check_plain(reply.value)
    return True


def memory_file(data: bytes, size: int, seals: int) -> int:
    """A memory file of ``size`` bytes that begins with ``data``; the caller closes it."""
    import fcntl

    fd = os.memfd_create("fuzz", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with contextlib.suppress(OSError):
        os.ftruncate(fd, size)
        os.pwrite(fd, data[:size], 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
