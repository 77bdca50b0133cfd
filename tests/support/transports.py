"""The same call to both transports, and what came of it in a form that can be compared."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from authz.envoy_api import check_pb2 as pb
from support.corpus import FOLDER, TOKEN
from support.http2_client import TIMEOUT, Answer, Fields, Http2Client, framed, grpc_headers
from support.jwe import encrypt
from support.jwks import claims, ec_key, rsa_key, sign
from support.sidecar import KID, Sidecar
from support.waiting import wait_until

TRANSPORTS = ("native", "grpcio")


class Outcome(NamedTuple):
    """What matters of an answer."""

    http: int | None = 200
    """`:status`; None where no headers came."""
    grpc: int | None = None
    """`grpc-status`."""
    text: str = ""
    """`grpc-message`. An empty one means the same as none (PROTOCOL-HTTP2.md, Status-Message)."""
    message: bytes | None = None
    """The one message of the body."""
    content_type: str | None = "application/grpc"
    encoding: str | None = None
    """`grpc-encoding`; None means identity."""
    ending: str = "end"
    """`end` (END_STREAM), `reset` with its code, `goaway` with its code, or `silence`."""


def outcome_of(answer: Answer) -> Outcome:
    """Of a stream that is over, or on which nothing came."""
    ending = "silence"
    if answer.ended:
        ending = "end"  # RST_STREAM with NO_ERROR may follow: the rest of the request is not wanted
    elif answer.reset is not None:
        ending = f"reset {answer.reset}"
    return Outcome(
        http=answer.http_status,
        grpc=answer.grpc_status,
        text=answer.grpc_message or "",
        message=answer.message if answer.body else None,
        content_type=answer.value("content-type"),
        encoding=answer.value("grpc-encoding"),
        ending=ending,
    )


def in_order(outcome: Outcome) -> Outcome:
    """With the maps of a CheckResponse sorted: protobuf's order differs from process to process."""
    if outcome.message is None:
        return outcome
    response = pb.CheckResponse.FromString(outcome.message)
    return outcome._replace(message=response.SerializeToString(deterministic=True))


def call_once(
    address: str, headers: Fields, body: bytes | None, *, patience: float = TIMEOUT
) -> Outcome:
    """One call on a connection of its own. Where nothing comes in `patience` seconds, that is the
    outcome.
    """
    with Http2Client(address, timeout=patience) as client:
        stream_id = 1
        try:
            stream_id = client.ask(headers, body)
            client.answer(stream_id)
        except TimeoutError:
            pass  # also of the socket itself
        except OSError:
            # The server hung up. A reset of the line may have overtaken GOAWAY, but not often.
            goaway = client.goaway
            code = "none" if goaway is None else goaway.error_code
            return Outcome(http=None, content_type=None, ending=f"goaway {code}")
        return outcome_of(client.answers[stream_id])


@dataclass(slots=True)
class Pair:
    """Two sidecars with the same settings, but for the transport."""

    native: Sidecar
    grpcio: Sidecar
    _native: Http2Client
    _grpcio: Http2Client

    @classmethod
    @contextmanager
    def started(cls, folder: Path, settings: dict[str, Any]) -> Iterator[Self]:
        """Both, ready and with their store connected."""
        with (
            Sidecar(folder / "native", {**settings, "transport": "native"}) as native,
            Sidecar(folder / "grpcio", {**settings, "transport": "grpcio"}) as grpcio,
        ):
            for sidecar in (native, grpcio):
                assert sidecar.status()["transport"] == sidecar.settings["transport"]
                wait_until(lambda one=sidecar: one.status()["store"]["connected"], "connected")  # type: ignore[misc]
            with Http2Client(native.socket) as one, Http2Client(grpcio.socket) as other:
                for client in (
                    one,
                    other,
                ):  # who doesn't acknowledge SETTINGS in time is hung up on
                    client.greet()
                yield cls(native, grpcio, one, other)

    @property
    def sidecars(self) -> tuple[Sidecar, Sidecar]:
        return self.native, self.grpcio

    def check(self, message: bytes) -> Outcome:
        """Send a message to both, on connections that are kept; AssertionError: they differ."""
        headers, body = grpc_headers(), framed(message)
        numbers = self._native.ask(headers, body), self._grpcio.ask(headers, body)
        native = in_order(outcome_of(self._native.answer(numbers[0])))
        grpcio = in_order(outcome_of(self._grpcio.answer(numbers[1])))
        assert native == grpcio, f"{native}\nis native's, and grpcio says\n{grpcio}"
        return native


# Requests


def captured(name: str, token: str | None = None) -> bytes:
    """A CheckRequest of Envoy's from tests/data, with another token in place of the made-up one."""
    data = (FOLDER / f"{name}.bin").read_bytes()
    if token is None:
        return data
    request = pb.CheckRequest.FromString(data)
    http = request.attributes.request.http
    for key, value in list(http.headers.items()):
        http.headers[key] = value.replace(TOKEN.encode(), token.encode())
    for entry in http.header_map.headers:
        entry.raw_value = entry.raw_value.replace(TOKEN.encode(), token.encode())
    return request.SerializeToString()


CAPTURED = sorted(path.stem for path in FOLDER.glob("*.bin"))


DECRYPTION_KEY = ec_key("pair")
DECRYPTION_KID = "pair"
"""Of the key that both open encrypted tokens with."""


def encrypted(token: str, **options: Any) -> str:
    return encrypt(token, DECRYPTION_KEY, kid=DECRYPTION_KID, **options)


def good_token(**changes: Any) -> str:
    return sign(claims(**{"lifetime": 3600, **changes}), rsa_key(), kid=KID)


def expired_token() -> str:
    now = int(time.time())
    return good_token(iat=now - 7200, exp=now - 3600)
