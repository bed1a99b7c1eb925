"""Values as msgpack trees.

Scalars travel as themselves; everything else is a list whose first item is a one-letter tag, so no
value can be mistaken for another. Small tensors travel inline; large ones as sealed memory files
(`memfd_create`, `F_SEAL_WRITE`), which the receiver maps without trusting the sender: a sealed file
can be neither changed nor truncated after it was checked.
"""

from __future__ import annotations

import dataclasses
import fcntl
import math
import mmap
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch

INLINE_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ITEMS = 2_000_000
MAX_TENSOR_BYTES = 8 * 2**30
_FEW = 256  # so many keys of a dictionary may hash alike: a matter of milliseconds
_BLOCK = 64 * 1024  # words of eight bytes
_equal = torch.equal  # as it was before any submission could replace it
_SEALS = getattr(fcntl, "F_SEAL_WRITE", 8) | 0x2 | 0x4  # write, shrink, grow

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
        torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
        torch.bool, torch.complex64, torch.complex128,
    )
}  # fmt: skip
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class WireError(ValueError):
    """A value that cannot cross, or bytes that are no value."""


@dataclasses.dataclass(frozen=True)
class HandleRef:
    """An object that stays in the worker."""

    id: int
    kind: str  # "object", "callable", "iterator" or "async_iterator"
    type_name: str


def _tensor_bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel() == 0:
        return memoryview(b"")
    return flat.view(torch.uint8).numpy().data


def _write_memfd(data: memoryview) -> int:
    fd = os.memfd_create("inferlab-tensor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    done = 0
    while done < len(data):
        done += os.write(fd, data[done : done + 2**30])
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


class Packer:
    """Turns values into trees; collects the descriptors of large tensors in ``fds``."""

    def __init__(self, export: Callable[[object], HandleRef] | None = None) -> None:
        self.fds: list[int] = []
        self._export = export
        self._items = 0

    def close(self) -> None:
        """Close this side's copies of the descriptors."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    def _payload(self, data: memoryview) -> bytes | int:
        if len(data) <= INLINE_BYTES or not hasattr(os, "memfd_create"):
            return bytes(data)
        self.fds.append(_write_memfd(data))
        return len(self.fds) - 1

    def pack(self, value: object, depth: int = 0) -> Any:
        """The tree of ``value``. Raises WireError for what cannot cross."""
        self._items += 1
        if depth > MAX_DEPTH or self._items > MAX_ITEMS:
            raise WireError(
                "the value is nested too deeply, or refers to itself, or has too many items"
            )
        kind = type(value)
        if value is None or kind is bool or kind is float or kind is str or kind is bytes:
            return value
        if isinstance(value, bool | np.bool_):
            return bool(value)
        if isinstance(value, int | np.integer):
            number = int.__index__(value) if isinstance(value, int) else int(value)
            return number if -(2**63) <= number < 2**63 else ["i", str(number)]
        if isinstance(value, float | np.floating):
            return float(value)
        if isinstance(value, str):
            return str.__str__(value) if kind is str else "".join(list(str.__iter__(value)))
        if isinstance(value, bytes | bytearray):
            return bytes(value)
        if kind is list or kind is tuple:
            return ["l" if kind is list else "t", [self.pack(item, depth + 1) for item in value]]  # type: ignore[attr-defined]
        if kind is dict:
            pairs = [[self.pack(k, depth + 1), self.pack(v, depth + 1)] for k, v in value.items()]  # type: ignore[attr-defined]
            return ["d", pairs]
        if isinstance(value, torch.Tensor):
            return self._pack_tensor(value)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            data = np.ascontiguousarray(value)
            return [
                "A",
                data.dtype.str,
                list(value.shape),
                self._payload(data.reshape(-1).view(np.uint8).data),
            ]
        if isinstance(value, torch.dtype):
            return ["y", _DTYPE_NAMES.get(value, "?")]
        if isinstance(value, torch.device):
            return ["v", str(value)]
        if isinstance(value, torch.Generator):
            return ["g", str(value.device), bytes(_tensor_bytes(value.get_state()))]
        if isinstance(value, HandleRef):
            return ["h", value.id, value.kind, value.type_name]
        if _is_course_dataclass(kind):
            fields = {
                f.name: self.pack(getattr(value, f.name), depth + 1)
                for f in dataclasses.fields(cast(Any, value))
            }
            return ["D", kind.__module__, kind.__qualname__, fields]
        if self._export is not None:
            return self.pack(self._export(value), depth)
        raise WireError(
            f"a {kind.__name__} cannot be passed to the submission: only plain data and tensors can"
        )

    def _pack_tensor(self, tensor: torch.Tensor) -> Any:
        # A subclass may override anything: what crosses is what torch itself holds, plus its name.
        kind = type(tensor)
        name = "" if kind in (torch.Tensor, torch.nn.Parameter) else kind.__name__
        if name:
            tensor = tensor.as_subclass(torch.Tensor)
        if tensor.layout is not torch.strided or tensor.device.type == "meta":
            raise WireError(f"a tensor of layout {tensor.layout} on {tensor.device} cannot cross")
        if tensor.dtype not in _DTYPE_NAMES:
            raise WireError(f"a tensor of dtype {tensor.dtype} cannot cross")
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
        return [
            "T", _DTYPE_NAMES[tensor.dtype], list(tensor.shape), str(tensor.device), name,
            self._payload(_tensor_bytes(tensor)),
        ]  # fmt: skip


def _is_course_dataclass(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) and kind.__module__.startswith("labs.common")


class Arrived:
    """A tensor as it came over the wire, to tell afterwards whether a call changed it in place.

    No copy is kept: a message is immutable, and a memory file is sealed, so that the bytes sent can
    be looked at again whatever was done to the tensor, whose own pages are private. Its descriptor
    must still be open then. Only on a GPU is a copy cheaper than bringing the tensor back.
    """

    def __init__(
        self, tensor: torch.Tensor, data: bytearray | mmap.mmap, sent: bytes | int
    ) -> None:
        self.tensor, self.shape = tensor, tensor.shape
        self._dtype, self._strides = tensor.dtype, tensor.stride()
        self._data, self._sent = data, sent
        self._place = tensor.data_ptr()
        self._copy = None if tensor.device.type == "cpu" else tensor.detach().clone()

    def changed(self) -> bool:
        """Whether the tensor now differs from what was sent, in a bit, its shape or its dtype."""
        now = self.tensor.detach()
        if now.shape != self.shape or now.dtype is not self._dtype:
            return True
        if now.numel() == 0:
            return False
        if self._copy is not None:
            return not _same_bits(now, self._copy)
        moved = now.data_ptr() != self._place or now.stride() != self._strides
        if not moved and isinstance(self._data, bytearray) and self._dtype is not torch.bool:
            return self._data != self._sent
        if not moved and isinstance(self._data, mmap.mmap) and self._dtype is not torch.bool:
            if not _ever_written(self._place, len(self._data)):
                return False
        return not _same_bytes(_tensor_bytes(now), self._original())

    def _original(self) -> memoryview:
        if isinstance(self._sent, bytes):
            sent = memoryview(self._sent)
        else:
            sent = memoryview(mmap.mmap(self._sent, len(self._data), access=mmap.ACCESS_READ))
        if self._dtype is torch.bool:  # these were made 0 or 1 on arrival
            return (np.frombuffer(sent, np.uint8) != 0).view(np.uint8).data
        return sent


def _ever_written(address: int, size: int) -> bool:
    """Whether a page of a private file mapping may have been written; True when in doubt.

    The kernel gives a written page a private copy, and its page map tells such copies (and what was
    swapped out) from pages of the file (Linux, Documentation/admin-guide/mm/pagemap.rst). Reading
    that is a thousandth of the work of comparing.
    """
    first = address // mmap.PAGESIZE
    count = (address + size - 1) // mmap.PAGESIZE - first + 1
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(first * 8)
            pages = np.frombuffer(file.read(count * 8), np.uint64)
    except OSError:
        return True
    present, swapped, of_file = (pages >> bit & 1 for bit in (63, 62, 61))
    return len(pages) != count or bool((swapped | present & ~of_file).any())


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    # NaN must equal itself, so bytes are compared, not numbers.
    first, second = (t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return _equal(first, second)


def _same_bytes(one: memoryview, other: memoryview) -> bool:
    """Compare in blocks that stay in the cache, eight bytes at a time: 8 GB/s on one core."""
    first, second = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
    whole = len(first) // 8 * 8
    words, others = first[:whole].view(np.int64), second[:whole].view(np.int64)
    return np.array_equal(first[whole:], second[whole:]) and all(
        np.array_equal(words[i : i + _BLOCK], others[i : i + _BLOCK])
        for i in range(0, len(words), _BLOCK)
    )


def _name(text: Any) -> str:
    """A short name as it came, or a question mark: reports show it."""
    return text if type(text) is str and len(text) <= 200 else "?"


class ReturnedTensorSubclass(WireError):
    """The submission returned a tensor subclass where a plain tensor is asked for."""


class Unpacker:
    """Turns trees back into values, checking everything: the other side may be hostile."""

    def __init__(
        self,
        fds: list[int],
        resolve: Callable[[HandleRef], object],
        device: str = "cpu",
    ) -> None:
        self._fds = fds
        self._resolve = resolve
        self._device = device
        self._items = 0
        self._bytes = 0
        self.tensors: list[Arrived] = []

    def unpack(self, tree: Any, depth: int = 0) -> Any:
        """The value of ``tree``. Raises WireError for anything malformed."""
        self._items += 1
        if depth > MAX_DEPTH or self._items > MAX_ITEMS:
            raise WireError("nested too deeply or too many items")
        if tree is None or type(tree) in (bool, int, float, str, bytes):
            return tree
        if type(tree) is not list or not tree or type(tree[0]) is not str:
            raise WireError("malformed value")
        method = _UNPACK.get(tree[0])
        if method is None:
            raise WireError("unknown kind of value")
        try:
            return method(self, tree, depth)
        except WireError:
            raise
        except Exception as error:  # a malformed tree must not look like a fault of the test
            raise WireError(f"malformed value: {type(error).__name__}") from error

    def _list(self, tree: Any, depth: int) -> list[Any]:
        (_, items) = tree
        return [self.unpack(item, depth + 1) for item in items]

    def _tuple(self, tree: Any, depth: int) -> tuple[Any, ...]:
        return tuple(self._list(tree, depth))

    def _dict(self, tree: Any, depth: int) -> dict[Any, Any]:
        (_, pairs) = tree
        keys = [self.unpack(k, depth + 1) for k, _ in pairs]
        # Keys built to hash alike would keep this process busy for hours.
        if len(keys) > _FEW and max(Counter(map(hash, keys)).values()) > _FEW:
            raise WireError("the dictionary's keys hash alike")
        return dict(zip(keys, [self.unpack(v, depth + 1) for _, v in pairs], strict=True))

    def _bigint(self, tree: Any, depth: int) -> int:
        (_, digits) = tree
        if len(digits) > 4000:
            raise WireError("integer too long")
        return int(digits)

    def _data(self, payload: Any, size: int) -> bytearray | mmap.mmap:
        self._bytes += size
        if size < 0 or self._bytes > MAX_TENSOR_BYTES:
            raise WireError("tensor too large")
        if type(payload) is bytes:
            if len(payload) != size:
                raise WireError("tensor bytes do not match its shape")
            return bytearray(payload)
        if type(payload) is not int or not 0 <= payload < len(self._fds):
            raise WireError("tensor payload missing")
        fd = self._fds[payload]
        if (
            fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS
            or os.fstat(fd).st_size != size
            or size == 0
        ):
            raise WireError("tensor payload is not a sealed memory file of the right size")
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY)

    @staticmethod
    def _shape(shape: Any) -> tuple[int, ...]:
        if (
            type(shape) is not list
            or len(shape) > 16
            or any(type(n) is not int or n < 0 for n in shape)
        ):
            raise WireError("malformed shape")
        return tuple(shape)

    def _tensor(self, tree: Any, depth: int) -> torch.Tensor:
        (_, dtype_name, shape, device, subclass, payload) = tree
        dtype, sizes = DTYPES[dtype_name], self._shape(shape)
        data = self._data(payload, math.prod(sizes) * dtype.itemsize)
        if len(data) == 0:
            tensor = torch.empty(sizes, dtype=dtype)
        elif (
            dtype is torch.bool
        ):  # a byte other than 0 or 1 in a bool tensor is undefined behaviour
            tensor = (torch.frombuffer(data, dtype=torch.uint8) != 0).reshape(sizes)
        else:
            tensor = torch.frombuffer(data, dtype=dtype).reshape(sizes)
        tensor.wire_device = _name(device)  # type: ignore[attr-defined]
        tensor.wire_subclass = _name(subclass)  # type: ignore[attr-defined]
        if self._device != "cpu":
            tensor = tensor.to(self._device)
        sent = payload if type(payload) is bytes else self._fds[payload]
        self.tensors.append(Arrived(tensor, data, sent))
        return tensor

    def _array(self, tree: Any, depth: int) -> np.ndarray:
        (_, dtype_name, shape, payload) = tree
        dtype, sizes = np.dtype(dtype_name), self._shape(shape)
        if dtype.kind not in "biufc":
            raise WireError("array dtype cannot cross")
        array = np.frombuffer(self._data(payload, math.prod(sizes) * dtype.itemsize), dtype=dtype)
        if dtype.kind == "b":  # as in _tensor
            array = array.view(np.uint8) != 0
        return array.reshape(sizes)

    def _dtype(self, tree: Any, depth: int) -> torch.dtype:
        return DTYPES[tree[1]]

    def _torch_device(self, tree: Any, depth: int) -> torch.device:
        return torch.device(tree[1])

    def _generator(self, tree: Any, depth: int) -> torch.Generator:
        (_, device, state) = tree
        generator = torch.Generator(device=device)
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
        return generator

    def _handle(self, tree: Any, depth: int) -> object:
        (_, number, kind, name) = tree
        if (
            type(number) is not int
            or kind not in ("object", "callable", "iterator", "async_iterator")
            or type(name) is not str
            or len(name) > 200
        ):
            raise WireError("malformed handle")
        return self._resolve(HandleRef(number, kind, name))

    def _dataclass(self, tree: Any, depth: int) -> object:
        (_, module, name, fields) = tree
        if type(module) is not str or not module.startswith("labs.common"):
            raise WireError("unknown dataclass")
        kind = getattr(sys.modules.get(module) or __import__(module, fromlist=["_"]), name)
        if not (isinstance(kind, type) and _is_course_dataclass(kind)):
            raise WireError("unknown dataclass")
        return kind(**{key: self.unpack(value, depth + 1) for key, value in fields.items()})


_UNPACK: dict[str, Callable[[Unpacker, Any, int], Any]] = {
    "l": Unpacker._list, "t": Unpacker._tuple, "d": Unpacker._dict, "i": Unpacker._bigint,
    "T": Unpacker._tensor, "A": Unpacker._array, "y": Unpacker._dtype, "v": Unpacker._torch_device,
    "g": Unpacker._generator, "h": Unpacker._handle, "D": Unpacker._dataclass,
}  # fmt: skip
