"""Parent and worker understand each other, whatever the kernel makes of their bytes."""

import array
import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from authz.workers.channel import Channel, Frame, Kind
from support.waiting import eventually


class End:
    """One end, and what came out of it."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.frames: list[Frame] = []
        self.over = 0
        self.channel = Channel(end, receive=self.frames.append, ended=self._ended)

    def _ended(self) -> None:
        self.over += 1

    async def until(self, count: int) -> list[Frame]:
        await eventually(lambda: len(self.frames) >= count, f"{count} frames")
        return self.frames

    def close(self) -> None:
        self.channel.close()
        for frame in self.frames:
            if frame.connection is not None:
                frame.connection.close()


@asynccontextmanager
async def channels() -> AsyncIterator[tuple[End, End]]:
    here, there = map(End, socket.socketpair())
    try:
        yield here, there
    finally:
        here.close()
        there.close()


@contextmanager
def connection(name: bytes) -> Iterator[socket.socket]:
    """A connection to hand over, whose other end has said its name."""
    other, handed = socket.socketpair()
    with other:
        other.sendall(name)
        yield handed


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_frames_arrive_whole_and_in_order() -> None:
    async with channels() as (here, there):
        here.channel.send(Frame(Kind.ASK, b'[1, "status"]'))
        here.channel.send(Frame(Kind.PING))
        there.channel.send(Frame(Kind.PONG))
        assert await there.until(2) == [(Kind.ASK, b'[1, "status"]', None), (Kind.PING, b"", None)]
        assert await here.until(1) == [(Kind.PONG, b"", None)]


async def test_what_the_kernel_does_not_take_at_once_arrives_too() -> None:
    """Far more than a socket buffer holds, with small frames and a connection among it."""
    large = os.urandom(3_000_000)
    async with channels() as (here, there):
        with connection(b"c") as handed:
            here.channel.send(Frame(Kind.ANSWER, large))
            here.channel.send(Frame(Kind.ADOPT, connection=handed))
            here.channel.send(Frame(Kind.ANSWER, large[::-1]))
            frames = await there.until(3)
            assert [len(frame.payload) for frame in frames] == [3_000_000, 0, 3_000_000]
            assert (frames[0].payload, frames[2].payload) == (large, large[::-1])
            assert frames[1].connection is not None
            assert frames[1].connection.recv(1) == b"c"
            assert handed.fileno() == -1  # it is the other side's alone


async def test_many_connections_come_with_their_own_frames() -> None:
    async with channels() as (here, there):
        with contextlib.ExitStack() as stack:
            for number in range(50):
                handed = stack.enter_context(connection(b"%d" % number))
                here.channel.send(Frame(Kind.ADOPT, connection=handed))
                here.channel.send(Frame(Kind.ANSWER, b"%d" % number))
            frames = await there.until(100)
        for number in range(50):
            adopted = frames[2 * number].connection
            assert adopted is not None
            assert adopted.recv(16) == b"%d" % number
            assert not adopted.get_inheritable()
            assert frames[2 * number + 1].payload == b"%d" % number


async def test_bytes_that_come_one_by_one_are_put_together() -> None:
    async with channels() as (here, there):
        with connection(b"c") as handed, handed:
            header = bytes([Kind.ADOPT, 0, 0, 0, 0])
            rights = array.array("i", [handed.fileno()])
            sender = here.socket
            for number in range(5):
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if number == 0 else []
                sender.sendmsg([header[number : number + 1]], ancillary)
                await asyncio.sleep(0)
            (frame,) = await there.until(1)
            assert frame.connection is not None
            assert frame.connection.recv(1) == b"c"


async def test_the_end_of_the_other_side_is_told_once_after_its_last_frame() -> None:
    async with channels() as (here, there):
        here.channel.send(Frame(Kind.RETIRE))
        here.channel.close()
        await eventually(lambda: there.over, "the end")
        assert there.frames == [(Kind.RETIRE, b"", None)]
        there.channel.send(Frame(Kind.PING))  # into nothing
        there.channel.close()
        assert (here.over, there.over) == (0, 1)


async def test_no_descriptor_is_left_when_it_ends_half_way() -> None:
    """Of connections that wait to be sent, and of those that were received and not understood."""
    async with channels() as (here, there):
        before = descriptors()
        with connection(b"c") as handed:
            here.channel.send(Frame(Kind.ANSWER, bytes(3_000_000)))
            here.channel.send(Frame(Kind.ADOPT, connection=handed))
            here.channel.close()
            assert handed.fileno() == -1
        with connection(b"c") as late:
            here.channel.send(Frame(Kind.ADOPT, connection=late))
            assert late.fileno() == -1
        await eventually(lambda: there.over, "the end")
        assert descriptors() == before - 2  # both ends of the channel


async def test_a_receiver_without_descriptors_loses_the_connection_and_nothing_else() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with channels() as (here, there):
        with connection(b"1") as first, connection(b"2") as second:
            here.channel.send(Frame(Kind.ADOPT, connection=first))
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                await there.until(1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            here.channel.send(Frame(Kind.ADOPT, connection=second))
            frames = await there.until(2)
            assert frames[0] == (Kind.ADOPT, b"", None)
            assert frames[1].connection is not None
            assert frames[1].connection.recv(1) == b"2"
