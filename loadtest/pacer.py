"""An open loop: requests to Envoy when they are due, however long the ones before take.

    python pacer.py PORT TOKENS --rate N --seconds S

Arrivals are those of many clients who know nothing of each other: at random, N a second on
average, and the same for every subject (Poisson, fixed seed). A latency counts from when the
request was due, not from when it could be sent, so nothing is omitted where answers are late or
where this program itself is (how late it was is reported, too). One JSON object goes to stdout.

HTTP/1.1 on kept connections, one request at a time on each. A script of its own, so nothing of
the load test is in its memory.
"""

import argparse
import ctypes
import gc
import json
import random
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path

CONNECTIONS = 100
"""More than are in use before Envoy is far behind; the wait for one counts as latency."""
GRACE = 10.0
"""Seconds after the last request in which answers still count."""
LEAD = 0.1
"""Seconds from the end of the preparations to the first request."""
READ_BYTES = 65_536
PR_SET_TIMERSLACK = 29
"""prctl(2). Linux lets a timer be 50 µs late by default; 1 ns is the least it takes."""
END_OF_HEADERS = b"\r\n\r\n"
LENGTH = b"content-length: "
OK = b"HTTP/1.1 2"


class Connection:
    """One request under way, or none."""

    __slots__ = ("due", "got", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 5.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self.got = b""

    def receive(self) -> bytes | None:
        """The answer once it is whole; None before. ConnectionError: closed by the peer."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError
        self.got += data
        head = self.got.find(END_OF_HEADERS)
        if head < 0:
            return None
        start = self.got.find(LENGTH, 0, head) + len(LENGTH)
        length = int(self.got[start : self.got.find(b"\r", start)])
        if len(self.got) < head + len(END_OF_HEADERS) + length:
            return None
        answer, self.got = self.got, b""
        return answer


class Pacer:
    def __init__(self, port: int, tokens: list[str]) -> None:
        self._requests = [
            f"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n\r\n".encode()
            for token in tokens
        ]
        self._idle = deque(Connection(port) for _ in range(CONNECTIONS))
        self._by_file = {one.socket.fileno(): one for one in self._idle}
        self._epoll = select.epoll()
        for number in self._by_file:
            self._epoll.register(number, select.EPOLLIN)
        self.latencies: list[int] = []
        """Microseconds, as all times that are kept."""
        self.late: list[int] = []
        self.bad_statuses = 0
        self.lost = 0

    def run(self, arrivals: list[float]) -> float:
        """Send at these seconds from the start; how long it took to answer the last of them."""
        clock = time.perf_counter
        start = clock() + LEAD
        deadline = start + arrivals[-1] + GRACE
        sent, total = 0, len(arrivals)
        due = start + arrivals[0]
        while len(self.latencies) + self.lost < total:
            now = clock()
            while sent < total and due <= now and self._idle:
                connection = self._idle.popleft()
                connection.due = due
                connection.socket.send(self._requests[sent % len(self._requests)])
                self.late.append(int((now - due) * 1e6))
                sent += 1
                due = start + arrivals[sent] if sent < total else deadline
                now = clock()
            if now > deadline:
                break
            self._wait(due - now if self._idle else deadline - now)
        return clock() - start

    def _wait(self, seconds: float) -> None:
        """Take the answers that came, after waiting for one or for the time to pass."""
        if seconds > 0:
            # epoll_wait(2) counts milliseconds, select(2) microseconds.
            select.select([self._epoll], [], [], seconds)
        for number, _ in self._epoll.poll(0):
            connection = self._by_file[number]
            try:
                answer = connection.receive()
            except ConnectionError:
                self._epoll.unregister(number)
                self.lost += 1
                continue
            if answer is None:
                continue
            self.latencies.append(int((time.perf_counter() - connection.due) * 1e6))
            if not answer.startswith(OK):
                self.bad_statuses += 1
            self._idle.append(connection)


def poisson(rate: float, seconds: float) -> list[float]:
    """When to send each request, in seconds."""
    dice = random.Random(0)
    now, arrivals = 0.0, []
    while now < seconds:
        arrivals.append(now)
        now += dice.expovariate(rate)
    return arrivals


def main() -> None:
    parser = argparse.ArgumentParser(description="Send requests when they are due.")
    parser.add_argument("port", type=int)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    pacer = Pacer(options.port, options.tokens.read_text().split())
    arrivals = poisson(options.rate, options.seconds)
    gc.disable()  # nothing here makes cycles
    seconds = pacer.run(arrivals)
    json.dump(
        {
            "due": len(arrivals),
            "seconds": seconds,
            "bad_statuses": pacer.bad_statuses,
            "latencies_us": pacer.latencies,
            "late_us": pacer.late,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
