"""How a token must come is judged alike on both transports, with the store and without it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from authz.check.certificate import certificate_thumbprint
from authz.envoy_api import check_pb2 as pb
from support.certificates import Certificates
from support.grpc import check_request
from support.ports import LOOPBACK
from support.proxy import TcpProxy
from support.transports import Pair, good_token
from support.valkey import ValkeyServer

GONE_SOON = "100ms"
"""How long a check waits for the store, which is nearby and idle."""


@pytest.fixture(scope="module")
def nearby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TcpProxy]:
    """The line to the store of `impatient`."""
    with (
        ValkeyServer(tmp_path_factory.mktemp("store")) as server,
        TcpProxy(server.port) as proxy,
    ):
        yield proxy


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, nearby: TcpProxy) -> Iterator[Pair]:
    store = {"url": f"redis://{LOOPBACK}:{nearby.port}", "timeout": GONE_SOON}
    with Pair.started(tmp_path_factory.mktemp("pair"), {"store": store}) as pair:
        yield pair


def answer(pair: Pair, **fields: Any) -> tuple[int, str]:
    """The HTTP status and the reason, from both alike."""
    return decided(pair.check(bytes(check_request(**fields))).message)


def decided(message: bytes | None) -> tuple[int, str]:
    assert message is not None
    response = pb.CheckResponse.FromString(message)
    reason = response.dynamic_metadata.fields["reason"].string_value
    return response.denied_response.status.code or 200, reason


SECURE = {"authz.require_https": "true"}
COOKIE = f"__Host-access={good_token()}"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"headers": {"x-forwarded-proto": "https"}, "extensions": SECURE}, (200, "ok")),
        (
            {"headers": {"x-forwarded-proto": "http"}, "scheme": "https", "extensions": SECURE},
            (403, "https_required"),
        ),
        ({"scheme": "https", "extensions": SECURE}, (500, "misconfigured_route")),
        ({"headers": {"x-forwarded-proto": "http"}}, (200, "ok")),
        ({"extensions": {"authz.binding": "required"}}, (401, "binding_required")),
    ],
)
def test_what_routes_demand(
    impatient: Pair, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert answer(impatient, token=good_token(), **fields) == expected


@pytest.mark.parametrize(
    ("headers", "method", "expected"),
    [
        ({}, "GET", (200, "ok")),
        ({}, "POST", (403, "cross_site_request")),
        ({"origin": "https://app.example"}, "POST", (200, "ok")),
        ({"origin": "https://evil.example"}, "POST", (403, "cross_site_request")),
        ({"sec-fetch-site": "same-origin"}, "DELETE", (200, "ok")),
        ({"sec-fetch-site": "cross-site"}, "DELETE", (403, "cross_site_request")),
        ({"upgrade": "websocket"}, "GET", (403, "cross_site_request")),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_tokens_in_cookies(
    impatient: Pair, headers: dict[str, str], method: str, expected: tuple[int, str], raw: bool
) -> None:
    """Whichever way Envoy sends headers."""
    sent = {"cookie": COOKIE, **headers}
    form: dict[str, Any] = (
        {"raw_headers": [(name, value.encode()) for name, value in sent.items()]}
        if raw
        else {"headers": sent}
    )
    assert answer(impatient, method=method, **form) == expected


def test_tokens_that_are_bound(impatient: Pair, certificates: Certificates) -> None:
    def as_envoy_sends(path: Path) -> str:
        return quote(path.read_text(), safe="")

    own, other = as_envoy_sends(certificates.client), as_envoy_sends(certificates.server)
    bound = good_token(cnf={"x5t#S256": certificate_thumbprint(own)})
    required = {"authz.binding": "required"}
    assert answer(impatient, token=bound, certificate=own, extensions=required) == (200, "ok")
    for certificate in (other, "", "rubbish", "%ff%00"):
        refused = answer(impatient, token=bound, certificate=certificate)
        assert refused == (401, "binding_mismatch")
    assert answer(impatient, token=good_token(cnf={"kid": "x"})) == (401, "binding_unsupported")


def test_with_the_store_gone_the_fail_mode_decides_after_what_is_known_here(
    impatient: Pair, nearby: TcpProxy
) -> None:
    """A token that this sidecar saw used stays used; one that failed closed may be tried again."""
    once, closed = {"authz.use": "once"}, {"authz.use": "once", "authz.fail_mode": "closed"}
    for sidecar in impatient.sidecars:

        def use(token: str, extensions: dict[str, str], sidecar: Any = sidecar) -> tuple[int, str]:
            message = bytes(check_request(token=token, extensions=extensions))
            return decided(sidecar.client.check_bytes(message))

        used, fresh, unlucky = good_token(), good_token(jti="fresh"), good_token()
        assert use(used, once) == (200, "ok")
        nearby.block("to_client")
        try:
            assert use(used, once) == (401, "token_used")
            assert use(unlucky, closed) == (503, "store_unavailable")
            assert use(unlucky, closed) == (503, "store_unavailable"), "and not: used"
            assert use(fresh, once) == (200, "store_unavailable")
            assert use(fresh, once) == (401, "token_used")
        finally:
            nearby.restore()
        assert [one["token_id"] for one in sidecar.audit()] == ["fresh"]
