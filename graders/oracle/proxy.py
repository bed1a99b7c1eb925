"""``student``: the lab's package as the tests see it."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from graders.oracle.workers import Worker, WorkerLost
from graders.wire import messages
from graders.wire.codec import HandleRef, Packer, Unpacker, WireError

# What one test may receive in messages (large tensors come beside them), and what it may keep of a
# text. Honest answers stay far below; the worker's own code cuts its texts shorter.
_MAX_RECEIVED_BYTES = 2**30
_MAX_TEXT, _MAX_NAMES = 10_000, 100


class StudentError(Exception):
    """The submission raised an exception; ``types`` are its class names by MRO."""

    def __init__(self, error: messages.Error) -> None:
        self.types = [name[:200] for name in error.types[:_MAX_NAMES]]
        self.message, self.phase = error.message[:_MAX_TEXT], error.phase[:200]
        self.student_traceback = error.traceback[-_MAX_TEXT:]
        super().__init__(self.message)
        if error.traceback:  # a plain pytest prints notes
            self.add_note("your traceback:\n" + self.student_traceback.rstrip())

    __module__ = "builtins"  # tracebacks leave "builtins." out: a student need not know the grader

    def __str__(self) -> str:
        return f"{self.types[0] if self.types else 'Exception'}: {self.message}"


class BadAnswer(Exception):
    """The submission returned something that is no plain value, or changed its inputs."""

    __module__ = "builtins"


class Imports:
    """Modules whose import ends the process, so that a run need not find that out in each test.

    A module is given up only when its import alone, with no call, ended a process too.
    """

    TRIES = 2

    def __init__(self) -> None:
        self._lost: Counter[str] = Counter()
        self._given_up: dict[str, str] = {}

    def request(
        self, worker: Worker, module: str, payload: bytes, fds: list[int]
    ) -> tuple[bytes, list[int]]:
        """``worker.request``, which reaches this module (empty: none). Raises WorkerLost."""
        if module in self._given_up:
            raise WorkerLost(self._given_up[module])
        if not module or module in worker.answered:
            return worker.request(payload, fds)
        try:
            if self._lost[module] >= self.TRIES:
                self._import_alone(worker, module)
            answer = worker.request(payload, fds)
        except WorkerLost:
            self._lost[module] += 1
            raise
        worker.answered.add(module)
        return answer

    def _import_alone(self, worker: Worker, module: str) -> None:
        target = messages.Target(module=module, path="__name__")
        try:
            _, fds = worker.request(messages.encode(messages.Get(target)), [])
        except WorkerLost as error:
            self._given_up[module] = (
                f"{error}, each time that {module}.py was imported: after "
                f"{self._lost[module] + 1} times it is not tried again"
            )
            raise
        for fd in fds:
            os.close(fd)
        worker.answered.add(module)


class Connection:
    """Requests over a worker, with values packed and checked."""

    def __init__(self, worker: Callable[[], Worker], imports: Imports | None = None) -> None:
        self._worker, self._imports = worker, imports or Imports()
        self.may_mutate = False
        self._dead_handles: list[int] = []
        self._received = 0

    def ask(self, request: messages.Request, packer: Packer | None = None) -> Any:
        """The value of the reply; raises StudentError, BadAnswer, StopIteration or WorkerLost."""
        __tracebackhide__ = True  # for a plain pytest: the traceback ends in the test
        worker = self._worker()
        if self._dead_handles:
            released, self._dead_handles = self._dead_handles, []
            worker.tell(messages.encode(messages.Release(released)))
        try:
            payload, fds = self._imports.request(
                worker, _module_of(request), messages.encode(request), packer.fds if packer else []
            )
        finally:
            if packer:
                packer.close()
        started = time.monotonic()
        try:
            self._received += len(payload)
            if self._received > _MAX_RECEIVED_BYTES:
                worker.close()
                raise WorkerLost(
                    f"the submission's process sent more than {_MAX_RECEIVED_BYTES >> 20} MiB of "
                    "answers in one test and was stopped"
                )
            reply = _decode(payload)
            if isinstance(reply, messages.Error):
                raise StudentError(reply)
            if isinstance(reply, messages.Stop):
                raise StopIteration
            value = Unpacker(fds, lambda ref: self._proxy(worker, ref)).unpack(reply.value)
        except (msgspec.DecodeError, msgspec.ValidationError, WireError, RecursionError) as error:
            raise BadAnswer(f"the answer cannot be read as plain data: {error}") from error
        finally:
            for fd in fds:
                os.close(fd)
            # An answer that takes long to read is slow like one that comes late.
            worker.budget_s -= time.monotonic() - started
        if reply.mutated and not self.may_mutate:
            raise BadAnswer(
                "the function changed its input in place: "
                + "; ".join(name[:200] for name in reply.mutated[:3])
            )
        return value

    def call(self, target: messages.Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call ``target`` in the worker."""
        __tracebackhide__ = True  # for a plain pytest: the traceback ends in the test
        packer = Packer(self._export)
        return self.ask(messages.Call(target, packer.pack(args), packer.pack(kwargs)), packer)

    def _export(self, value: object) -> HandleRef:
        if isinstance(value, RemoteObject):
            return value._reference
        raise WireError(f"a {type(value).__name__} cannot be passed to the submission")

    def _proxy(self, worker: Worker, reference: HandleRef) -> RemoteObject:
        kinds = {"iterator": RemoteIterator, "async_iterator": RemoteIterator}
        return kinds.get(reference.kind, RemoteObject)(self, worker, reference)

    def release(self, worker: Worker, handle: int) -> None:
        """Note that a handle is no longer used; told to the worker with the next request."""
        with contextlib.suppress(Exception):
            if worker is self._worker():
                self._dead_handles.append(handle)


def _module_of(request: messages.Request) -> str:
    if isinstance(request, messages.Call | messages.Get):
        return request.target.module
    return ""


def _decode(payload: bytes) -> messages.Reply:
    """The reply; the collector rests, as it would walk the millions of lists of a hostile one."""
    resting = len(payload) > 2**20 and gc.isenabled()
    if resting:
        gc.disable()
    try:
        return messages.decode_reply(payload)
    finally:
        if resting:
            gc.enable()


class RemoteObject:
    """An object in the worker: attributes, calls, len, indexing and iteration reach it."""

    def __init__(self, connection: Connection, worker: Worker, reference: HandleRef) -> None:
        self._connection, self._worker, self._reference = connection, worker, reference

    def _target(self, path: str = "") -> messages.Target:
        __tracebackhide__ = True
        if self._worker is not self._connection._worker():
            raise WorkerLost("the object's process is gone")
        return messages.Target(handle=self._reference.id, path=path)

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        if name.startswith("__"):
            raise AttributeError(name)
        return self._connection.ask(messages.Get(self._target(name)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self._connection.call(self._target(), args, kwargs)

    def __len__(self) -> int:
        __tracebackhide__ = True
        try:
            return self._connection.call(self._target("__len__"), (), {})
        except StudentError as error:
            if "AttributeError" in error.types and "__len__" in error.message:
                # What list() expects of an object that has none.
                raise TypeError(f"a {self._reference.type_name} object has no len()") from None
            raise

    def __getitem__(self, key: Any) -> Any:
        __tracebackhide__ = True
        return self._connection.call(self._target("__getitem__"), (key,), {})

    def __iter__(self) -> Iterator[Any]:
        __tracebackhide__ = True
        return iter(self._connection.call(self._target("__iter__"), (), {}))

    def __repr__(self) -> str:
        return f"<{self._reference.type_name} in the submission>"

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.release(self._worker, self._reference.id)


class RemoteIterator(RemoteObject):
    """An iterator or async iterator of the worker, consumed with a plain ``for``."""

    def __iter__(self) -> Iterator[Any]:
        __tracebackhide__ = True
        return self

    def __next__(self) -> Any:
        __tracebackhide__ = True
        self._target()
        return self._connection.ask(messages.Next(self._reference.id))


class RemoteFunction:
    """A dotted name of the lab's package; calling it calls the submission."""

    def __init__(self, connection: Connection, module: str, path: str = "") -> None:
        self._connection, self._module, self._path = connection, module, path

    def __getattr__(self, name: str) -> RemoteFunction:
        __tracebackhide__ = True
        if name.startswith("__"):
            raise AttributeError(name)
        return RemoteFunction(
            self._connection, self._module, f"{self._path}.{name}" if self._path else name
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self._connection.call(
            messages.Target(module=self._module, path=self._path), args, kwargs
        )

    def value(self) -> Any:
        """The plain value of this name, for constants."""
        __tracebackhide__ = True
        return self._connection.ask(
            messages.Get(messages.Target(module=self._module, path=self._path))
        )

    def __repr__(self) -> str:
        return f"<{self._module}.{self._path} in the submission>"


class Student:
    """The lab's package: ``student.<module>.<function>(...)``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __getattr__(self, module: str) -> RemoteFunction:
        __tracebackhide__ = True
        if module.startswith("__"):
            raise AttributeError(module)
        return RemoteFunction(self._connection, module)

    def __repr__(self) -> str:
        return "<the submission>"

    @contextlib.contextmanager
    def may_mutate(self) -> Iterator[None]:
        """Within this block a function may change its tensor arguments in place."""
        self._connection.may_mutate = True
        try:
            yield
        finally:
            self._connection.may_mutate = False
