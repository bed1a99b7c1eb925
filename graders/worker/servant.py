"""Answers requests about a lab package: imports modules, calls functions, keeps objects.

The only place of the grader that imports a submission.
"""

from __future__ import annotations

import asyncio
import collections.abc
import importlib
import importlib.util
import inspect
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graders.wire import messages
from graders.wire.codec import HandleRef, Packer, Unpacker, WireError

_MAX_MESSAGE = 4000
_MAX_TRACEBACK = 8000
_GRADERS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OWN_FILES = (f"{_GRADERS}/worker/", f"{_GRADERS}/wire/", "<frozen importlib")


class Servant:
    """Serves the lab package found in ``directory`` under the name ``labs.<package>``."""

    def __init__(
        self,
        package: str,
        directory: Path,
        *,
        device: str = "cpu",
        shown_as: str = "",
        on_exception: Callable[[types.TracebackType | None], None] | None = None,
        inline: bool = False,
    ) -> None:
        self._name = f"labs.{package}"
        self._directory = directory
        self._device = device
        self._shown_as = shown_as
        self._on_exception = on_exception
        self._inline = inline  # in the oracle's process, where Ctrl-C is the student's own
        self._objects: dict[int, object] = {}
        self._next = 1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._install()

    def _install(self) -> None:
        for name in [n for n in sys.modules if n == self._name or n.startswith(self._name + ".")]:
            del sys.modules[name]
        package = types.ModuleType(self._name)
        package.__path__ = [str(self._directory)]
        package.__package__ = self._name
        sys.modules[self._name] = package
        importlib.invalidate_caches()

    # -- objects that stay here --------------------------------------------------------------------

    def _export(self, value: object) -> HandleRef:
        number, self._next = self._next, self._next + 1
        self._objects[number] = value
        if isinstance(value, collections.abc.AsyncIterator):
            kind = "async_iterator"
        elif isinstance(value, collections.abc.Iterator):
            kind = "iterator"
        elif callable(value):
            kind = "callable"
        else:
            kind = "object"
        return HandleRef(number, kind, type(value).__name__[:200])

    def _resolve(self, reference: HandleRef) -> object:
        return self._objects[reference.id]

    def _find(self, target: messages.Target) -> Any:
        if target.handle:
            value: Any = self._objects[target.handle]
        elif target.module == "harness":
            value = importlib.import_module("inferlab_harness")
        else:
            value = importlib.import_module(
                f"{self._name}.{target.module}" if target.module else self._name
            )
        for part in filter(None, target.path.split(".")):
            value = getattr(value, part)
        return value

    # -- requests ----------------------------------------------------------------------------------

    def handle(self, payload: bytes, fds: list[int]) -> tuple[bytes, Packer] | None:
        """The encoded reply to one encoded request, with the packer that owns its descriptors."""
        request = messages.decode_request(payload)
        packer = Packer(self._export)
        if isinstance(request, messages.Release):
            for number in request.handles:
                self._objects.pop(number, None)
            return None
        try:
            reply: messages.Reply = self._reply(request, fds, packer)
        except BaseException as error:  # SystemExit and KeyboardInterrupt are the submission's, too
            if self._inline and isinstance(error, KeyboardInterrupt):
                raise
            if self._on_exception is not None and not isinstance(error, NotImplementedError):
                self._on_exception(error.__traceback__)
            packer.close()
            reply = self._error(error)
        try:
            return messages.encode(reply), packer
        except (UnicodeEncodeError, RecursionError) as error:  # a lone surrogate in some string
            packer.close()
            return self.refusal(error), packer

    def refusal(self, error: Exception) -> bytes:
        """The encoded reply that says why an answer cannot be sent."""
        return messages.encode(self._error(WireError(f"the answer cannot be sent: {error}")))

    def _reply(self, request: messages.Request, fds: list[int], packer: Packer) -> messages.Reply:
        if isinstance(request, messages.Get):
            return messages.Ok(packer.pack(self._find(request.target)))
        if isinstance(request, messages.Next):
            return self._advance(request.handle, packer)
        assert isinstance(request, messages.Call)
        unpacker = Unpacker(fds, self._resolve, self._device)
        args = unpacker.unpack(request.args)
        kwargs = unpacker.unpack(request.kwargs)
        function = self._find(request.target)
        value = function(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = self._await(value)
        mutated = [
            f"tensor argument {number} of shape {tuple(arrived.shape)}"
            for number, arrived in enumerate(unpacker.tensors, 1)
            if arrived.changed()
        ]
        return messages.Ok(packer.pack(value), mutated)

    def _advance(self, handle: int, packer: Packer) -> messages.Reply:
        iterator: Any = self._objects[handle]
        try:
            if isinstance(iterator, collections.abc.AsyncIterator):
                return messages.Ok(packer.pack(self._await(iterator.__anext__())))
            return messages.Ok(packer.pack(next(iterator)))
        except (StopIteration, StopAsyncIteration):
            return messages.Stop()

    def _await(self, awaitable: Any) -> Any:
        # One loop for life, in its own thread: background tasks go on between requests.
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()

        async def run() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    # -- errors ------------------------------------------------------------------------------------

    def _error(self, error: BaseException) -> messages.Error:
        phase = "call"
        if isinstance(error, ImportError | SyntaxError):
            phase = "import"
        if isinstance(error, WireError):
            phase = "wire"
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith(_OWN_FILES)
            and "importlib/__init__.py" not in frame.filename
        ]
        names = [kind.__name__ for kind in type(error).__mro__ if kind is not object]
        text = "".join(traceback.format_list(frames[-20:]))
        try:
            message = str(error)
            text += "".join(traceback.format_exception_only(type(error), error))
        except BaseException:  # noqa: B036 - a submission's __str__ may even leave the process
            message = "(the exception's own __str__ failed)"
            text += f"{names[0]}: {message}\n"
        if self._shown_as:
            text = text.replace(str(self._directory), self._shown_as)
        return messages.Error(
            [_utf8(name) for name in names],
            _utf8(message)[:_MAX_MESSAGE],
            _utf8(text)[-_MAX_TRACEBACK:],
            phase,
        )


def _utf8(text: str) -> str:
    """The text with what UTF-8 has no bytes for (lone surrogates) as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
