"""Calls whose answer has to be waited for end alike on both transports: in time, late, taken back,
and a thousand at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from h2.errors import ErrorCodes

from support.grpc import check_request
from support.http2_client import Answer, Http2Client, framed, grpc_headers
from support.proxy import TcpProxy
from support.transports import Outcome, Pair, good_token, in_order, outcome_of
from support.waiting import wait_until

SHORT = b"150m"
"""A `grpc-timeout` that passes while the store doesn't answer."""


@contextmanager
def store_silent(line: TcpProxy) -> Iterator[None]:
    """The store is asked and doesn't answer, until the end of the block."""
    line.block("to_client")
    try:
        yield
    finally:
        line.restore()


def message(**token: str) -> bytes:
    """A check of a token never seen before, for which the store is asked."""
    return framed(bytes(check_request(token=good_token(**token))))


def allowed(answer: Answer) -> bool:
    return (answer.grpc_status, b"x-authz-decision\x12\x05allow" in answer.body) == (0, True)


def test_a_check_that_takes_longer_than_its_time_is_told_so(pair: Pair, line: TcpProxy) -> None:
    body, headers = message(), grpc_headers(extra=[(b"grpc-timeout", SHORT)])
    outcomes = []
    for sidecar in pair.sidecars:
        with Http2Client(sidecar.socket) as client:
            with store_silent(line):
                late = outcome_of(client.call(headers, body))
            assert allowed(client.call(grpc_headers(), body)), "the connection is of use still"
        outcomes.append(late)
    assert outcomes == [Outcome(grpc=4, text="Deadline Exceeded")] * 2


def test_a_check_that_is_taken_back_gets_no_answer_and_disturbs_no_other(
    pair: Pair, line: TcpProxy
) -> None:
    kept, dropped = message(), message()
    for sidecar in pair.sidecars:
        with Http2Client(sidecar.socket) as client, store_silent(line):
            first = client.ask(grpc_headers(), dropped)
            second = client.ask(grpc_headers(), kept)
            client.h2.reset_stream(first, ErrorCodes.CANCEL)
            client.flush()
            line.restore()
            assert allowed(client.answer(second))
            client.call(grpc_headers("/x/y"), b"")  # whatever was to come has come
            answer = client.answers[first]
            assert (answer.headers, answer.body) == ([], b"")
        assert sidecar.client.health() == "SERVING"


def test_a_client_that_goes_away_leaves_nothing_behind(pair: Pair, line: TcpProxy) -> None:
    """The look-ups of its checks may go on; they are of use to others."""
    for sidecar in pair.sidecars:
        with store_silent(line), Http2Client(sidecar.socket) as client:
            for _ in range(20):
                client.ask(grpc_headers(), message())
        with Http2Client(sidecar.socket) as client:
            assert allowed(client.call(grpc_headers(), message()))


def test_answers_come_as_they_are_ready(pair: Pair, line: TcpProxy) -> None:
    """A check that needs no store overtakes one that waits for it."""
    for sidecar in pair.sidecars:
        with Http2Client(sidecar.socket) as client:
            with store_silent(line):
                slow = client.ask(grpc_headers(), message())
                fast = client.ask(grpc_headers(), framed(b""))
                assert client.answer(fast).grpc_status == 0
                assert not client.answers[slow].over
            assert allowed(client.answer(slow))


@pytest.mark.parametrize("connections", [1, 10])
def test_a_thousand_at_a_time_are_answered_each_with_its_own(
    pair: Pair, line: TcpProxy, connections: int
) -> None:
    """All are under way at once, as the store is silent until the last has been sent."""
    tokens = [good_token(sub=f"user-{number}") for number in range(20)]
    messages = [
        bytes(check_request(token=tokens[n % 20], headers={"x-authz-spoof": "x"} if n % 3 else {}))
        for n in range(1000)
    ]
    both = []
    for sidecar in pair.sidecars:
        clients = [Http2Client(sidecar.socket) for _ in range(connections)]
        with store_silent(line):
            asked = [
                (clients[n % connections], clients[n % connections].ask(grpc_headers(), framed(m)))
                for n, m in enumerate(messages)
            ]
        both.append([in_order(outcome_of(client.answer(number))) for client, number in asked])
        for client in clients:
            client.close()
    assert both[0] == both[1]
    assert all(outcome.grpc == 0 for outcome in both[0])
    assert len({outcome.message for outcome in both[0]}) == 40, "by user, and by what was forged"


def test_nothing_of_this_was_unexpected(pair: Pair) -> None:
    """Neither has logged a trace; what a peer does is no event."""
    for sidecar in pair.sidecars:
        wait_until(lambda one=sidecar: one.is_ready(), "ready")  # type: ignore[misc]
    assert "Traceback" not in pair.native.log_text()
