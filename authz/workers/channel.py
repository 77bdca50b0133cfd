"""What the parent and a worker say to each other, over one pair of Unix stream sockets.

A frame is its kind (one byte), the length of its payload (four bytes, big-endian) and the payload.
A connection travels with the first byte of its frame, as a descriptor in ancillary data
(SCM_RIGHTS, unix(7)). The kernel never joins the ancillary data of two frames in one read, nor
lets it overtake the bytes, so the first descriptor that came belongs to the first ADOPT frame.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

_HEADER = struct.Struct(">BI")

READ_SIZE = 256 * 1024
"""Bytes of one read: an answer with all metrics of a worker is about 60 KB."""

_MAX_DESCRIPTORS = 4
"""Descriptors of one read: frames carry one, and a read never joins two. Room costs nothing."""


class Kind(IntEnum):
    """What a frame says. The payload is JSON, or nothing, where no other is named."""

    # The parent says
    START = 1
    """Begin. Payload: the worker's Settings, pickled."""
    ADOPT = 2
    """Serve this connection."""
    PING = 3
    """Say PONG."""
    ASK = 4
    """Payload: [number of the question, `metrics` or `status`]."""
    RELOAD = 5
    """Read keys and certificates again, reopen the audit."""
    SHED = 6
    """Payload: how many connections to send elsewhere, by GOAWAY."""
    DRAIN = 7
    """Finish what was begun, and end. No ADOPT comes after it."""
    # The worker says
    SERVING = 16
    """Connections can come."""
    FAILED = 17
    """It can't start as configured. Payload: UTF-8, one line that says why."""
    PONG = 18
    CONNECTIONS = 19
    """Payload: [connections ever adopted, connections open now]."""
    ANSWER = 20
    """Payload: [number of the question, the answer]."""
    RETIRE = 21
    """Somebody sent SIGTERM: please DRAIN me."""
    # Both say
    USES = 32
    """What was used at one worker, for all others. Payload: as `Ledger.hear` takes it."""


class Frame(NamedTuple):
    """One message."""

    kind: Kind
    payload: bytes = b""
    connection: socket.socket | None = None
    """With ADOPT only. None there: it was lost, for the receiver is out of descriptors."""


class Channel:
    """One end. Never blocks: what the kernel doesn't take waits here."""

    def __init__(
        self,
        end: socket.socket,
        *,
        receive: Callable[[Frame], None],
        ended: Callable[[], None],
    ) -> None:
        """Make it in a running loop, of a connected Unix stream socket, which it owns from now on.

        `receive` gets each frame in order. `ended` is called once, when the other end is closed;
        not after `close`.
        """
        end.setblocking(False)
        self._socket = end
        self._receive = receive
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._incoming = bytearray()
        self._descriptors: deque[int | None] = deque()
        self._outgoing: deque[tuple[bytes, socket.socket | None]] = deque()
        self._open = True
        self._loop.add_reader(end, self._read)

    def send(self, frame: Frame) -> None:
        """Say it. The frame's connection belongs to the channel from now on: it is closed here once
        the other side has it, or where it never will.
        """
        if not self._open:
            if frame.connection is not None:
                frame.connection.close()
            return
        header = _HEADER.pack(frame.kind, len(frame.payload))
        self._outgoing.append((header + frame.payload, frame.connection))
        if len(self._outgoing) == 1:  # else the loop tells when there is room for the first
            self._write()

    def close(self) -> None:
        """Let go. Frames that the kernel hasn't taken are dropped."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket)
        self._drop_outgoing()
        self._socket.close()
        for descriptor in self._descriptors:
            if descriptor is not None:
                os.close(descriptor)
        self._descriptors.clear()

    def _write(self) -> None:
        while self._outgoing:
            data, connection = self._outgoing[0]
            try:
                if connection is None:
                    sent = self._socket.send(data)
                else:
                    sent = socket.send_fds(self._socket, [data], [connection.fileno()])
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._write)
                return
            except OSError:  # the other side is gone; reading will find that, and say so
                self._drop_outgoing()
                return
            if connection is not None:
                connection.close()
            if sent < len(data):
                self._outgoing[0] = (data[sent:], None)
            else:
                self._outgoing.popleft()
        self._loop.remove_writer(self._socket)

    def _drop_outgoing(self) -> None:
        self._loop.remove_writer(self._socket)
        for _, connection in self._outgoing:
            if connection is not None:
                connection.close()
        self._outgoing.clear()

    def _read(self) -> None:
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._socket, READ_SIZE, _MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:  # a reset, where the other side died with unread frames
            data, descriptors, flags = b"", [], 0
        if not data:
            self.close()
            self._ended()
            return
        self._descriptors.extend(descriptors)
        if flags & socket.MSG_CTRUNC and not descriptors:
            self._descriptors.append(None)
        self._incoming += data
        self._dispatch()

    def _dispatch(self) -> None:
        while self._open and len(self._incoming) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._incoming)
            end = _HEADER.size + length
            if len(self._incoming) < end:
                return
            payload = bytes(memoryview(self._incoming)[_HEADER.size : end])
            del self._incoming[:end]
            connection = self._next_connection() if kind == Kind.ADOPT else None
            self._receive(Frame(Kind(kind), payload, connection))

    def _next_connection(self) -> socket.socket | None:
        descriptor = self._descriptors.popleft() if self._descriptors else None
        if descriptor is None:
            return None
        os.set_inheritable(descriptor, False)  # as all that Python opens by itself
        with contextlib.suppress(OSError):  # reset by the peer on its way here
            return socket.socket(fileno=descriptor)
        os.close(descriptor)
        return None
