"""Length-prefixed frames with file descriptors over a Unix stream socket."""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import time
from collections.abc import Callable

# Large tensors travel beside a frame where there are memory files. A frame of nothing but empty
# lists takes 64 times its size once it is decoded, which must not bring the oracle down.
MAX_FRAME_BYTES = (16 if hasattr(os, "memfd_create") else 256) * 2**20
MAX_FDS = 64
_HEADER = struct.Struct("!IB")


class ChannelClosed(ConnectionError):
    """The other side is gone."""


class ChannelTimeout(TimeoutError):
    """The other side did not answer before the deadline."""


class ProtocolError(ValueError):
    """The other side sent something that is no frame."""


class Channel:
    """One end of a conversation.

    ``watch`` maps descriptors to functions called when they are readable while this end waits, so
    that a worker's output is drained while the oracle waits for its answer.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self.watch: dict[int, Callable[[], bool]] = {}

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close this end."""
        self._sock.close()

    def _wait(self, event: int, deadline: float | None) -> None:
        while True:
            poll = select.poll()
            poll.register(self._sock, event)
            for fd in self.watch:
                poll.register(fd, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = dict(poll.poll(left))
            for fd in list(self.watch):
                if fd in ready and not self.watch[fd]():
                    del self.watch[fd]
            if self._sock.fileno() in ready:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise ChannelTimeout

    def send(
        self, payload: bytes, fds: list[int] | None = None, deadline: float | None = None
    ) -> None:
        """Send one frame. Raises ChannelClosed, ChannelTimeout."""
        fds = fds or []
        if len(payload) > MAX_FRAME_BYTES or len(fds) > MAX_FDS:
            raise ProtocolError(
                f"a message of {len(payload)} bytes and {len(fds)} large tensors is too large"
            )
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        view = memoryview(_HEADER.pack(len(payload), len(fds)) + payload)
        try:
            while view:
                try:
                    sent = self._sock.sendmsg([view], ancillary)
                    ancillary = []
                    view = view[sent:]
                except BlockingIOError:
                    self._wait(select.POLLOUT, deadline)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed from error

    def receive(self, deadline: float | None = None) -> tuple[bytes, list[int]]:
        """The next frame and its descriptors, which the caller closes."""
        fds: list[int] = []
        try:
            header = self._exact(_HEADER.size, deadline, fds)
            length, count = _HEADER.unpack(header)
            if length > MAX_FRAME_BYTES or count != len(fds):
                raise ProtocolError("malformed frame")
            return self._exact(length, deadline, None), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def _exact(self, size: int, deadline: float | None, fds: list[int] | None) -> bytes:
        buffer = bytearray()
        while len(buffer) < size:
            try:
                if fds is None:
                    chunk = self._sock.recv(min(size - len(buffer), 1 << 20))
                else:
                    space = socket.CMSG_SPACE(MAX_FDS * 4)
                    chunk, ancillary, _, _ = self._sock.recvmsg(
                        size - len(buffer), space, socket.MSG_CMSG_CLOEXEC
                    )
                    for level, kind, data in ancillary:
                        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                            received = array.array("i")
                            received.frombytes(data[: len(data) - len(data) % received.itemsize])
                            fds.extend(received)
            except BlockingIOError:
                self._wait(select.POLLIN, deadline)
                continue
            except ConnectionResetError as error:
                raise ChannelClosed from error
            if not chunk:
                raise ChannelClosed
            buffer += chunk
        return bytes(buffer)
