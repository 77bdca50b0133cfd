"""How a token must come, through the real Envoy with the bootstrap that we print, on both
transports: by HTTPS, from our own pages, with the certificate it is bound to, and once.
"""

import hashlib
import json
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from integration.conftest import PATIENT_STORE, issuer

from authz.envoy_api.bootstrap import Route, as_mapping, build_bootstrap
from authz.envoy_api.bootstrap_tls import DownstreamTls
from authz.settings import Settings
from support import http
from support.certificates import Certificates
from support.cluster import ValkeyCluster
from support.envoy import Envoy
from support.http2_client import Http2Client
from support.jwks import b64, claims, rsa_key, sign
from support.ports import LOOPBACK, free_port
from support.sidecar import KID, Sidecar
from support.transports import TRANSPORTS
from support.upstream import Upstream
from support.waiting import wait_until

ROUTES = (
    Route("/secure", {"authz.require_https": "true"}),
    Route("/bound", {"authz.binding": "required"}),
    Route("/once", {"authz.use": "once"}),
    Route("/once/more", {"authz.use": "once"}),
    Route("/webhook", {"authz.csrf": "false"}),
)
TRUSTED = "https://admin.example"

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Edge:
    """A sidecar with two Envoys in front, as an edge has them: plain HTTP, and TLS that takes
    clients' certificates.
    """

    sidecar: Sidecar
    plain: Envoy
    secure: Envoy
    certificates: Certificates

    def get(self, path: str = "/", **request: Any) -> http.Response:
        """By plain HTTP; the arguments are those of `support.http.request`."""
        return http.request(self.plain.port, path, **request)

    def get_securely(
        self, path: str = "/", *, token: str, client: tuple[Path, Path] | None = None
    ) -> http.Response:
        """By TLS. `client`: its certificate and key."""
        context = ssl.create_default_context(cafile=str(self.certificates.ca))
        if client is not None:
            context.load_cert_chain(*client)
        with (
            socket.create_connection((LOOPBACK, self.secure.port), timeout=10) as line,
            context.wrap_socket(line, server_hostname="localhost") as secure,
        ):
            secure.sendall(
                f"GET {path} HTTP/1.1\r\nhost: app.example\r\nconnection: close\r\n"
                f"authorization: Bearer {token}\r\n\r\n".encode()
            )
            with HTTPResponse(secure) as response:
                response.begin()
                headers = [(name.lower(), value) for name, value in response.getheaders()]
                return http.Response(response.status, headers, response.read())

    @property
    def client(self) -> tuple[Path, Path]:
        """The certificate of a client that Envoy trusts."""
        return self.certificates.client, self.certificates.client_key


@pytest.fixture(scope="module")
def edges(
    tmp_path_factory: pytest.TempPathFactory,
    _shared_cluster: ValkeyCluster,
    upstream: Upstream,
    certificates: Certificates,
) -> Iterator[dict[str, Edge]]:
    """Two of them on one cluster, one a transport."""
    _shared_cluster.reset()
    with ExitStack() as stack:

        def start(transport: str) -> Edge:
            folder = tmp_path_factory.mktemp(transport)
            sidecar = Sidecar(
                folder / "sidecar",
                {
                    "transport": transport,
                    "store": {"url": _shared_cluster.url, **PATIENT_STORE},
                    "issuers": [issuer(folder)],
                    "revoke_exposed": True,
                    "csrf": {"trusted_origins": [TRUSTED]},
                },
            )
            stack.callback(sidecar.stop)
            sidecar.start()
            tls = DownstreamTls(
                str(certificates.server), str(certificates.server_key), str(certificates.ca)
            )
            plain = printed_envoy(folder / "plain", sidecar, upstream, None)
            secure = printed_envoy(folder / "secure", sidecar, upstream, tls)
            for envoy in (plain, secure):
                stack.callback(envoy.stop)
                envoy.start()
            return Edge(sidecar, plain, secure, certificates)

        yield {transport: start(transport) for transport in TRANSPORTS}


@pytest.fixture(params=TRANSPORTS)
def edge(edges: dict[str, Edge], request: pytest.FixtureRequest) -> Edge:
    return edges[request.param]


def printed_envoy(
    folder: Path, sidecar: Sidecar, upstream: Upstream, tls: DownstreamTls | None
) -> Envoy:
    """An Envoy with the bootstrap of `authz envoy` that takes WebSockets as well."""
    port, admin_port = free_port(), free_port()
    bootstrap = as_mapping(
        build_bootstrap(
            Settings.model_validate(sidecar.settings),
            listen=f"{LOOPBACK}:{port}",
            upstream=f"{LOOPBACK}:{upstream.port}",
            admin=f"{LOOPBACK}:{admin_port}",
            routes=ROUTES,
            tls=tls,
        )
    )
    (listener,) = bootstrap["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["upgrade_configs"] = [{"upgrade_type": "websocket"}]
    manager["http2_protocol_options"]["allow_connect"] = True
    return Envoy(folder, bootstrap, port=port, admin_port=admin_port)


def token(**changes: Any) -> str:
    return sign(claims(**changes), rsa_key(), kid=KID)


def outcome(response: http.Response) -> tuple[int, str]:
    """Status and reason; the reason of what reaches the upstream is `ok`."""
    return response.status, json.loads(response.body or b"{}").get("reason", "ok")


# By HTTPS


def test_a_token_that_came_by_https_passes_where_that_is_demanded(edge: Edge) -> None:
    assert outcome(edge.get_securely("/secure", token=token())) == (200, "ok")
    assert outcome(edge.get("/", token=token())) == (200, "ok"), "and elsewhere it isn't"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-forwarded-proto", "https")],
        [("x-forwarded-proto", "https"), ("x-forwarded-proto", "https")],
        [("X-Forwarded-Proto", "HTTPS"), ("x-forwarded-for", "10.0.0.1")],
        [("x-envoy-original-path", "https://app.example/"), (":scheme", "https")],
    ],
)
def test_no_header_makes_plain_http_look_like_https(edge: Edge, headers: list[Header]) -> None:
    response = edge.get("/secure", token=token(), headers=headers)
    if (":scheme", "https") in headers:  # no header's name, and Envoy says so
        assert response.status == 400
    else:
        assert outcome(response) == (403, "https_required")


def test_a_client_of_http2_that_says_https_is_believed_by_nobody(edge: Edge) -> None:
    """`:scheme` is what the client writes there, whatever its connection is."""
    headers = {
        ":method": "GET",
        ":scheme": "https",
        ":authority": "app.example",
        ":path": "/secure",
        "authorization": f"Bearer {token()}",
    }
    with Http2Client(f"{LOOPBACK}:{edge.plain.port}") as client:
        answer = client.call([(name.encode(), value.encode()) for name, value in headers.items()])
    assert answer.http_status == 403
    assert json.loads(bytes(answer.body))["reason"] == "https_required"


def test_a_url_that_says_https_is_believed_by_nobody(edge: Edge) -> None:
    response = edge.get("https://app.example/secure", token=token())
    assert response.status in {400, 403}


def test_a_token_that_came_in_the_clear_is_revoked_everywhere(edges: dict[str, Edge]) -> None:
    """Who may have read it on the way can't use it, at any sidecar."""
    for here, there in (TRANSPORTS, reversed(TRANSPORTS)):
        exposed, other = token(), token()
        assert outcome(edges[here].get_securely("/secure", token=exposed)) == (200, "ok")
        assert outcome(edges[here].get("/secure", token=exposed)) == (403, "https_required")
        for name in (here, there):
            wait_until(
                lambda name=name, text=exposed: (  # type: ignore[misc]
                    outcome(edges[name].get_securely("/secure", token=text))
                    == (401, "token_revoked")
                ),
                "revoked",
            )
        assert outcome(edges[here].get("/", token=exposed)) == (401, "token_revoked")
        assert outcome(edges[here].get_securely("/secure", token=other)) == (200, "ok")
        assert edges[here].sidecar.metric("authz_exposed_tokens_total", result="revoked") >= 1
        assert "exposed_revoked" in edges[here].sidecar.log_text()
        assert exposed not in edges[here].sidecar.log_text()


# From our own pages


def posted(edge: Edge, *headers: Header, path: str = "/", method: str = "POST") -> tuple[int, str]:
    """A request with a token in a cookie."""
    cookie = ("cookie", f"theme=dark; __Host-access={token()}")
    return outcome(edge.get(path, method=method, headers=[cookie, *headers], body=b"{}"))


CROSS_SITE = (403, "cross_site_request")


def test_a_form_of_another_site_cannot_use_our_cookie(edge: Edge) -> None:
    assert posted(edge, ("sec-fetch-site", "cross-site"), ("origin", "https://evil")) == CROSS_SITE
    assert posted(edge, ("origin", "https://evil.example")) == CROSS_SITE
    assert posted(edge, ("origin", "null")) == CROSS_SITE
    assert posted(edge) == CROSS_SITE
    assert posted(edge, ("sec-fetch-site", "same-site"), method="DELETE") == CROSS_SITE
    assert posted(edge, ("origin", "https://evil"), path="/webhook") == (200, "ok")


def test_our_own_pages_can(edge: Edge) -> None:
    assert posted(edge, ("sec-fetch-site", "same-origin")) == (200, "ok")
    assert posted(edge, ("origin", "http://app.example")) == (200, "ok")
    assert posted(edge, ("sec-fetch-site", "cross-site"), ("origin", TRUSTED)) == (200, "ok")


def test_links_of_other_sites_work_and_tokens_in_headers_need_no_origin(edge: Edge) -> None:
    foreign = ("sec-fetch-site", "cross-site")
    assert posted(edge, foreign, method="GET") == (200, "ok")
    response = edge.get("/", method="POST", headers=[foreign], token=token(), body=b"{}")
    assert outcome(response) == (200, "ok")


WEBSOCKET = (("connection", "upgrade"), ("upgrade", "websocket"))


def test_no_page_of_another_site_can_open_a_websocket_with_our_cookie(edge: Edge) -> None:
    """It begins with a GET, and no browser asks before it sends one."""
    foreign = ("origin", "https://evil.example")
    assert posted(edge, foreign, method="GET") == (200, "ok")
    assert posted(edge, foreign, *WEBSOCKET, method="GET") == CROSS_SITE


def test_nor_by_http2(edge: Edge) -> None:
    """As extended CONNECT (RFC 8441), which Envoy takes for the same."""
    headers = {
        ":method": "CONNECT",
        ":protocol": "websocket",
        ":scheme": "http",
        ":authority": "app.example",
        ":path": "/",
        "origin": "https://evil.example",
        "cookie": f"__Host-access={token()}",
    }
    with Http2Client(f"{LOOPBACK}:{edge.plain.port}") as client:
        stream = client.begin([(name.encode(), value.encode()) for name, value in headers.items()])
        client.flush()
        answer = client.answer(stream)
    assert answer.http_status == 403
    assert json.loads(bytes(answer.body))["reason"] == CROSS_SITE[1]


# With the certificate it is bound to


def bound_token(certificate: Path) -> str:
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    return token(cnf={"x5t#S256": b64(hashlib.sha256(der).digest())})


def test_a_bound_token_is_of_no_use_without_its_certificate(edge: Edge) -> None:
    bound, mismatch = bound_token(edge.certificates.client), (401, "binding_mismatch")
    assert outcome(edge.get_securely(token=bound, client=edge.client)) == (200, "ok")
    assert outcome(edge.get_securely("/bound", token=bound, client=edge.client)) == (200, "ok")
    assert outcome(edge.get_securely(token=bound)) == mismatch
    assert outcome(edge.get(token=bound)) == mismatch
    others = bound_token(edge.certificates.server)
    assert outcome(edge.get_securely(token=others, client=edge.client)) == mismatch


def test_a_route_may_demand_that_tokens_are_bound(edge: Edge) -> None:
    response = edge.get_securely("/bound", token=token(), client=edge.client)
    assert outcome(response) == (401, "binding_required")
    assert 'error="invalid_token"' in (response.header("www-authenticate") or "")


def test_a_binding_that_nobody_knows_is_not_ignored(edge: Edge) -> None:
    strange = token(cnf={"jwk": {"kty": "RSA"}})
    assert outcome(edge.get(token=strange)) == (401, "binding_unsupported")


# Once


def test_of_64_tries_at_a_time_one_passes_in_the_whole_cluster(edges: dict[str, Edge]) -> None:
    """Through two Envoys and two sidecars of different transports."""
    one = token()
    ports = [edge.plain.port for edge in edges.values()] * 32
    with ThreadPoolExecutor(64) as pool:
        tried = list(pool.map(lambda port: outcome(http.request(port, "/once", token=one)), ports))
    assert sorted(set(tried)) == [(200, "ok"), (401, "token_used")]
    assert tried.count((200, "ok")) == 1


def test_a_used_token_is_used_on_every_such_route_and_good_on_others(edge: Edge) -> None:
    one = token()
    assert outcome(edge.get("/once/a", token=one)) == (200, "ok")
    assert outcome(edge.get("/once/more", token=one)) == (401, "token_used")
    assert outcome(edge.get("/", token=one)) == (200, "ok")
