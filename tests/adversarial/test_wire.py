"""The decoder under hostile bytes: a right value or the documented refusal, soon and in bounds."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from graders.wire import messages
from graders.wire.channel import MAX_FRAME_BYTES, Channel, ChannelClosed, ProtocolError
from graders.wire.codec import DTYPES, INLINE_BYTES, HandleRef, Packer, WireError

from .wire_values import REFUSALS, check_plain, feed, memory_file, read

EXAMPLES = settings(
    max_examples=200, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
encode = msgspec.msgpack.encode

scalars = (
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(max_size=20)
    | st.binary(max_size=20)
)  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    size = DTYPES[dtype].itemsize
    for n in shape:
        size *= n
    data = draw(st.binary(min_size=size, max_size=size))
    if not data:
        return torch.empty(shape, dtype=DTYPES[dtype])
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    raw = raw % 2 if dtype == "bool" else raw
    return raw.view(DTYPES[dtype]).reshape(shape)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        keys = st.text(max_size=5) | st.integers(-(2**70), 2**70)
        return (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(keys, inner, max_size=4)
        )

    return st.recursive(leaves, deeper, max_leaves=12)


def same(one: Any, other: Any) -> bool:
    """Equal in type and bits, NaN payloads of tensors included."""
    if isinstance(one, torch.Tensor):
        if type(other) is not torch.Tensor or one.shape != other.shape or one.dtype != other.dtype:
            return False
        flat = (t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
        return one.numel() == 0 or torch.equal(*flat)
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other) or one != one and other != other
    return bool(one == other)


@EXAMPLES
@given(trees(scalars | tensors()))
def test_what_is_packed_comes_back(value: Any) -> None:
    packer = Packer()
    try:
        reply = read(messages.encode(messages.Ok(packer.pack(value))), packer.fds)
        assert same(reply.value, value)
        check_plain(reply.value)
    finally:
        packer.close()


def test_a_large_tensor_comes_back_from_a_memory_file() -> None:
    value = torch.randn(INLINE_BYTES, generator=torch.Generator().manual_seed(1))
    packer = Packer()
    tree = packer.pack(value)
    assert packer.fds
    assert same(read(messages.encode(messages.Ok(tree)), packer.fds).value, value)
    packer.close()


@EXAMPLES
@given(st.binary(max_size=200))
@example(b"\x93\xa2Ok" + b"\x91" * 5000 + b"\xc0\x90")
@example(b"\x93\xa2Ok\xdd\xff\xff\xff\xff")
@example(b"\x93\xa2Ok\xdf\xff\xff\xff\xff" + bytes(70_000))
@example(b"\x93\xa2Ok\xc6\xff\xff\xff\xff")
@example(b"\x93\xa2Ok\xd7\xff" + bytes(8) + b"\x90")
def test_any_bytes_are_a_reply_or_refused(data: bytes) -> None:
    feed(data)
    feed(b"\x93\xa2Ok" + data)


@EXAMPLES
@given(trees(scalars | tensors()), st.data())
def test_a_changed_message_is_a_reply_or_refused(value: Any, data: st.DataObject) -> None:
    packer = Packer()
    payload = bytearray(messages.encode(messages.Ok(packer.pack(value))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload)))
        match data.draw(st.sampled_from(["cut", "flip", "insert", "double"])):
            case "cut":
                del payload[at:]
            case "flip" if at < len(payload):
                payload[at] ^= 1 << data.draw(st.integers(0, 7))
            case "insert":
                payload[at:at] = data.draw(st.binary(max_size=9))
            case _:
                payload[at:at] = payload[at : at + 20]
    feed(bytes(payload), packer.fds)
    packer.close()


junk = st.recursive(
    scalars
    | st.sampled_from(["l", "t", "d", "i", "T", "A", "y", "v", "g", "h", "D", "O", "|b1", "f8,f8"])
    | st.sampled_from(sorted(DTYPES))
    | st.sampled_from(["labs.common.units", "labs.common.models", "labs.common", "os", "cuda:0"])
    | st.integers(-2, 5)
    | st.integers(2**61, 2**64 - 1),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@EXAMPLES
@given(st.sampled_from("ltdiTAyvghD"), st.lists(junk, max_size=6))
def test_any_tree_is_plain_data_or_refused(tag: str, rest: list[Any]) -> None:
    with contextlib.suppress(OverflowError, TypeError):  # beyond what msgpack can say
        feed(encode(["Ok", [tag, *rest], []]))


@EXAMPLES
@given(
    st.integers(0, 5000), st.integers(0, 5000), st.sampled_from([0, 2, 4, 8, 6, 14, 15]),
    st.sampled_from(sorted(DTYPES)), st.lists(st.integers(-1, 40), max_size=3),
    st.integers(-1, 2),
)  # fmt: skip
@pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")
def test_memory_files_of_the_wrong_size_or_unsealed_are_refused(
    length: int, size: int, seals: int, dtype: str, shape: list[int], index: int
) -> None:
    fd = memory_file(b"\xff" * length, size, seals)
    try:
        came = feed(encode(["Ok", ["T", dtype, shape, "cpu", "", index], []]), [fd])
        if came and 0 not in shape:
            wanted = DTYPES[dtype].itemsize * int(np.prod(shape, dtype=np.int64))
            assert (index, wanted, seals & 14) == (0, size, 14)
    finally:
        os.close(fd)


def test_booleans_are_made_zero_or_one() -> None:
    """Bytes such as 255 in a bool are undefined behaviour: numpy would count them as 255."""
    for tree in (
        ["A", "|b1", [3], b"\xff\x02\x00"],
        ["T", "bool", [3], "cpu", "", b"\xff\x02\x00"],
    ):
        value = read(encode(["Ok", tree, []])).value
        assert int(value.sum()) == 2
        check_plain(value)


def colliding_tuples(count: int) -> list[tuple[int, int]]:
    """Pairs of ints that all hash alike (Objects/tupleobject.c, solved for the second)."""
    p1, p2, p5 = 11400714785074694791, 14029467366897019727, 2870177450012600261
    mask, keys, a = 2**64 - 1, [], 0
    inverse1, inverse2 = pow(p1, -1, 2**64), pow(p2, -1, 2**64)
    while len(keys) < count:
        a += 1
        one = (p5 + a * p2) & mask
        one = ((one << 31 | one >> 33) & mask) * p1 & mask
        goal = 12345 * inverse1 & mask
        b = (((goal >> 31 | goal << 33) & mask) - one) * inverse2 & mask
        if b < 2**61 - 1:
            keys.append((a, b))
    return keys


def hostile_dictionaries() -> Iterator[tuple[str, bytes]]:
    pairs = colliding_tuples(30_000)
    assert len(set(map(hash, pairs))) == 1
    yield "map", b"".join(
        [b"\x93\xa2Ok\xdf", struct.pack("!I", len(pairs)), *(encode(p) + b"\xc0" for p in pairs),
         b"\x90"]
    )  # fmt: skip
    tree = ["d", [[["t", list(pair)], 0] for pair in pairs]]
    yield "tuples", encode(["Ok", tree, []])
    tree = ["d", [[["i", str(n * (2**61 - 1))], 0] for n in range(1, 60_000)]]
    yield "integers", encode(["Ok", tree, []])


@pytest.mark.parametrize(
    "name,payload", [pytest.param(n, p, id=n) for n, p in hostile_dictionaries()]
)
def test_keys_that_hash_alike_are_refused(name: str, payload: bytes) -> None:
    """Without the refusal these take minutes: quadratic in a C function that nothing interrupts."""
    with pytest.raises(REFUSALS):
        read(payload)


def test_an_honest_dictionary_of_any_size_comes_back() -> None:
    value = {n * 2**32: [n, str(n)] for n in range(50_000)} | {(n, 1): n for n in range(1000)}
    packer = Packer()
    assert read(messages.encode(messages.Ok(packer.pack(value)))).value == value


def test_maps_are_found_wherever_they_lie() -> None:
    """The walk over an encoding agrees with the decoder about where each item ends."""
    leaves = [
        None, True, 5, -5, 300, -300, 70_000, -70_000, 2**40, -(2**40), 1.5, "x", "x" * 40,
        "x" * 300, "x" * 70_000, b"", b"\xde" * 300, b"\xdf" * 70_000, [], [[]] * 20, [1] * 70_000,
        {"a": 1}, {str(n): n for n in range(30)},
        *(msgspec.msgpack.Ext(5, bytes(n)) for n in (1, 2, 4, 8, 16, 3, 300, 70_000)),
    ]  # fmt: skip
    large = {n: n for n in range(300)}
    for leaf in leaves:
        padding = b"\xde" * 2**16
        messages._refuse_large_maps(encode(["Ok", [leaf, padding, leaf], []]))
        with pytest.raises(msgspec.DecodeError, match="300 keys"):
            messages._refuse_large_maps(encode(["Ok", [leaf, padding, leaf, [large]], []]))


def test_handles_of_an_unknown_kind_are_refused() -> None:
    assert read(encode(["Ok", ["h", 1, "object", "x"], []])).value == HandleRef(1, "object", "x")
    with pytest.raises(WireError):
        read(encode(["Ok", ["h", 1, "x" * 2**20, "x"], []]))


# -- frames


def talk(data: bytes) -> tuple[bytes, list[int]]:
    """What a channel receives when ``data`` is written to the other end, which then closes."""
    import socket

    ours, theirs = socket.socketpair()
    writer = threading.Thread(target=lambda: (theirs.sendall(data), theirs.close()))
    writer.start()
    channel = Channel(ours)
    try:
        return channel.receive(time.monotonic() + 20)
    finally:
        channel.close()
        writer.join()


@settings(EXAMPLES, max_examples=150)
@given(
    st.binary(max_size=300), st.integers(0, 2**32 - 1) | st.integers(0, 300), st.integers(0, 255)
)
def test_any_frame_is_a_payload_or_refused(data: bytes, length: int, count: int) -> None:
    try:
        payload, fds = talk(struct.pack("!IB", length, count) + data)
    except (ChannelClosed, ProtocolError):
        return
    assert (payload, fds) == (data[:length], []) and count == 0 and length <= MAX_FRAME_BYTES


def test_descriptors_that_were_not_announced_are_closed() -> None:
    import array
    import socket

    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for count in (0, 3, 64):
        ours, theirs = socket.socketpair()
        channel, null = Channel(ours), os.open(os.devnull, os.O_RDONLY)
        rights = array.array("i", [null] * 5)
        theirs.sendmsg(
            [struct.pack("!IB", 1, count) + b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        )
        with pytest.raises(ProtocolError):
            channel.receive(time.monotonic() + 20)
        channel.close()
        theirs.close()
        os.close(null)
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == before
