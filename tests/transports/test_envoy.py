"""The real Envoy and the native transport: many connections, idle ones, full ones, large requests,
TLS, and sidecars that come and go under load.
"""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support import http
from support.certificates import Certificates
from support.envoy import TYPES, Envoy, ExtAuthz, bootstrap_for
from support.ports import LOOPBACK, free_port
from support.proxy import TcpProxy
from support.sidecar import NO_FEED, Sidecar
from support.steady import Ask, SteadyLoad
from support.transports import expired_token, good_token
from support.upstream import Upstream
from support.valkey import ValkeyServer
from support.waiting import wait_until

Bootstrap = dict[str, Any]
Start = Callable[..., Envoy]
MiB = 2**20

SCHEDULING = 0.5
"""Seconds that Envoy's workers may take, on a busy machine, to hear what its main thread knows."""


@pytest.fixture
def start(tmp_path: Path, upstream: Upstream) -> Iterator[Start]:
    """Start an Envoy: `start(sidecar.socket, change=…)`, where `change` may alter the bootstrap's
    cluster of the sidecar. Further arguments are the fields of `ExtAuthz`.
    """
    with ExitStack() as stack:

        def start(
            sidecar: str,
            *,
            change: Callable[[dict[str, Any]], object] = bool,  # nothing
            concurrency: int = 1,
            **ext_authz: Any,
        ) -> Envoy:
            folder = tmp_path / f"envoy-{len(list(tmp_path.glob('envoy-*')))}"
            port, admin_port = free_port(), free_port()
            bootstrap = bootstrap_for(
                port=port,
                admin_port=admin_port,
                sidecar=sidecar,
                upstream_port=upstream.port,
                access_log=folder / "access.jsonl",
                ext_authz=ExtAuthz(**{"timeout": 10.0, **ext_authz}),
            )
            change(bootstrap["static_resources"]["clusters"][0])
            envoy = Envoy(
                folder, bootstrap, port=port, admin_port=admin_port, concurrency=concurrency
            )
            stack.callback(envoy.stop)
            return envoy.start()

        yield start


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with Sidecar(tmp_path_factory.mktemp("sidecar"), {"transport": "native"}) as sidecar:
        yield sidecar
        assert "Traceback" not in sidecar.log_text()
        assert '"level": "error"' not in sidecar.log_text()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[TcpProxy]:
    with ValkeyServer(tmp_path / "store") as server, TcpProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def patient(tmp_path: Path, line: TcpProxy) -> Iterator[Sidecar]:
    """A sidecar that waits for its store, so that checks can be held under way."""
    store = {"url": f"redis://{LOOPBACK}:{line.port}", "timeout": "9s"}
    with Sidecar(
        tmp_path / "patient", {"transport": "native", "store": store, "feed": NO_FEED}
    ) as sidecar:
        wait_until(lambda: sidecar.status()["store"]["connected"], "connected")
        yield sidecar
        assert "Traceback" not in sidecar.log_text()


def http2(cluster: dict[str, Any]) -> dict[str, Any]:
    """The HTTP/2 options of a cluster."""
    options = cluster["typed_extension_protocol_options"]
    (protocol,) = options.values()
    found: dict[str, Any] = protocol["explicit_http_config"]["http2_protocol_options"]
    return found


def cluster_stats(envoy: Envoy) -> dict[str, int]:
    prefix = "cluster.authz."
    return {name.removeprefix(prefix): n for name, n in envoy.stats(prefix).items()}


def mixed() -> list[Ask]:
    return [
        Ask(good_token(), 200),
        Ask(good_token(sub="bob"), 200),
        Ask(None, 401),
        Ask(expired_token(), 401),
    ]


def assert_no_protocol_trouble(envoy: Envoy) -> None:
    """Envoy's codec counts what it finds wrong, and what we ended or reset."""
    stats = cluster_stats(envoy)
    for name in (
        "http2.rx_messaging_error", "http2.rx_reset", "http2.goaway_sent", "http2.header_overflow",
        "http2.trailers_overflow", "http2.too_many_header_frames", "upstream_rq_rx_reset",
        "upstream_cx_destroy_remote_with_active_rq",
    ):  # fmt: skip
        assert stats.get(name, 0) == 0, f"{name}: {stats[name]}"


# Connections


def test_two_workers_and_many_clients_are_answered_rightly(sidecar: Sidecar, start: Start) -> None:
    envoy = start(sidecar.socket, concurrency=2)
    with SteadyLoad(envoy.port, mixed(), connections=60, pause=0) as load:
        load.wait_for(2000)
    assert load.statuses.keys() == {200, 401}
    assert load.wrong == []
    assert_no_protocol_trouble(envoy)


def test_idle_connections_stay_up_through_keepalive_pings(sidecar: Sidecar, start: Start) -> None:
    """For a dozen intervals; then the same connection is of use."""

    def change(cluster: dict[str, Any]) -> None:
        http2(cluster)["connection_keepalive"] = {"interval": "0.2s", "timeout": "5s"}

    envoy = start(sidecar.socket, change=change)
    assert http.request(envoy.port, token=good_token()).status == 200
    sent = cluster_stats(envoy)["upstream_cx_tx_bytes_total"]
    # A PING is 17 bytes, and nothing else is sent meanwhile.
    wait_until(
        lambda: cluster_stats(envoy)["upstream_cx_tx_bytes_total"] >= sent + 12 * 17, "12 pings"
    )
    assert http.request(envoy.port, token=good_token()).status == 200
    stats = cluster_stats(envoy)
    assert (stats["upstream_cx_total"], stats["http2.keepalive_timeout"]) == (1, 0)
    assert_no_protocol_trouble(envoy)


def test_streams_beyond_envoys_own_limit_come_on_further_connections(
    patient: Sidecar, line: TcpProxy, start: Start
) -> None:
    """`max_concurrent_streams` of the cluster: with 5 of them, 40 checks need 8 connections."""

    def change(cluster: dict[str, Any]) -> None:
        http2(cluster)["max_concurrent_streams"] = 5

    envoy = start(patient.socket, change=change)
    assert ask_many(envoy, line, 40) == [200] * 40
    assert cluster_stats(envoy)["upstream_cx_total"] >= 8
    assert_no_protocol_trouble(envoy)


def test_streams_beyond_our_limit_come_on_further_connections(tmp_path: Path, start: Start) -> None:
    """1,100 checks at a time: Envoy heeds our SETTINGS_MAX_CONCURRENT_STREAMS of 1,024."""

    def change(cluster: dict[str, Any]) -> None:
        cluster["circuit_breakers"] = {
            "thresholds": [{"max_requests": 4096, "max_pending_requests": 4096}]
        }

    with Sidecar(tmp_path / "sidecar", {"transport": "native"}) as sidecar:
        envoy = start(sidecar.socket, change=change, timeout=60.0)
        assert http.request(envoy.port).status == 401  # now Envoy has our SETTINGS
        sidecar.process.freeze()
        with SteadyLoad(envoy.port, [Ask(None, 401)], connections=1100, pause=60) as load:
            wait_until(
                lambda: sum(cluster_stats(envoy)[f"upstream_rq_{what}"] for what in (
                    "active", "pending_active")) == 1100, "all at once", timeout=60,
            )  # fmt: skip
            assert cluster_stats(envoy)["upstream_cx_total"] == 2
            sidecar.process.thaw()
            load.wait_for(1100 - len(load.seen))
        assert load.statuses == {401: 1100}
        assert_no_protocol_trouble(envoy)


def ask_many(envoy: Envoy, line: TcpProxy, count: int) -> list[int]:
    """So many requests with tokens of their own, all under way before any is answered."""
    tokens = [good_token() for _ in range(count)]
    line.block("to_client")
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(http.request, envoy.port, "/", token=token) for token in tokens]
        wait_until(lambda: cluster_stats(envoy)["upstream_rq_active"] == count, "all at once")
        line.restore()
        return [one.result().status for one in asked]


# Requests


@pytest.mark.parametrize("size", [1, MiB, 3 * MiB])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_request_with_its_body_is_checked_and_passes_whole(
    sidecar: Sidecar, start: Start, size: int, as_bytes: bool
) -> None:
    """`with_request_body`: the check is as large as the body."""
    with_body = {"max_request_bytes": 3 * MiB + 1, "pack_as_bytes": as_bytes}
    envoy = start(sidecar.socket, extra={"with_request_body": with_body})
    body = (b"\xe9" if as_bytes else b"e") * size
    answer = http.request(envoy.port, method="POST", body=body, token=good_token())
    assert answer.status == 200
    assert answer.json()["body"].encode("latin-1") == body
    assert http.request(envoy.port, method="POST", body=body).status == 401
    assert_no_protocol_trouble(envoy)


def test_a_check_over_4_mib_is_an_error_of_that_one_request(
    patient: Sidecar, line: TcpProxy, start: Start
) -> None:
    """RESOURCE_EXHAUSTED, for which Envoy answers `status_on_error`. Others on the connection
    don't notice.
    """
    envoy = start(patient.socket, extra={"with_request_body": {"max_request_bytes": 6 * MiB}})
    line.block("to_client")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(http.request, envoy.port, "/", token=good_token())
        wait_until(lambda: cluster_stats(envoy)["upstream_rq_active"] == 1, "one is under way")
        large = http.request(envoy.port, method="POST", body=b"e" * 5 * MiB, token=good_token())
        assert large.status == 503
        line.restore()
        assert other.result().status == 200
    assert cluster_stats(envoy)["upstream_cx_total"] == 1
    assert envoy.ext_authz_stats()["error"] == 1


@pytest.mark.parametrize("size", [17_000, 50_000])
def test_metadata_over_our_limit_are_an_error_of_that_one_request(
    patient: Sidecar, line: TcpProxy, start: Start, size: int
) -> None:
    """A client chooses how large they are, where Envoy passes something of its request on: a trace
    state, or what `initial_metadata` says. It must not reach the checks of other clients.
    """
    grpc_service = {
        "envoy_grpc": {"cluster_name": "authz"},
        "timeout": "10s",
        "initial_metadata": [{"key": "x-trace", "value": "%REQ(x-trace)%"}],
    }
    envoy = start(patient.socket, extra={"grpc_service": grpc_service})
    line.block("to_client")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(http.request, envoy.port, "/", token=good_token())
        wait_until(lambda: cluster_stats(envoy)["upstream_rq_active"] == 1, "one is under way")
        large = http.request(envoy.port, headers=[("x-trace", "v" * size)])
        assert large.status == 503
        line.restore()
        assert other.result().status == 200
    assert cluster_stats(envoy)["upstream_cx_total"] == 1


def test_raw_headers_arrive_as_they_were_sent(sidecar: Sidecar, start: Start) -> None:
    envoy = start(sidecar.socket, encode_raw_headers=True)
    odd = [("x-name", b"Ren\xe9"), ("x-tag", b"1"), ("x-tag", b"2")]
    assert http.request(envoy.port, headers=odd, token=good_token()).status == 200
    twice = [("authorization", f"Bearer {good_token()}")] * 2
    refused = http.request(envoy.port, headers=twice)
    assert (refused.status, refused.json()["reason"]) == (401, "multiple_credentials")
    assert_no_protocol_trouble(envoy)


def test_envoy_asks_over_tls(tmp_path: Path, start: Start, certificates: Certificates) -> None:
    """Both with certificates: ALPN h2, and Envoy's verification of ours and ours of Envoy's."""

    def change(cluster: dict[str, Any]) -> None:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{TYPES}.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "localhost",
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_certificates": [
                        {
                            "certificate_chain": {"filename": str(certificates.client)},
                            "private_key": {"filename": str(certificates.client_key)},
                        }
                    ],
                    "validation_context": {
                        "trusted_ca": {"filename": str(certificates.ca)},
                        "match_typed_subject_alt_names": [
                            {"san_type": "DNS", "matcher": {"exact": "localhost"}}
                        ],
                    },
                },
            },
        }

    listen_tls = {
        "cert_file": str(certificates.server),
        "key_file": str(certificates.server_key),
        "client_ca_file": str(certificates.ca),
    }
    settings = {"transport": "native", "listen_tls": listen_tls}
    with Sidecar(tmp_path / "tls", settings) as sidecar:
        envoy = start(sidecar.address, change=change)
        with SteadyLoad(envoy.port, mixed(), connections=20, pause=0) as load:
            load.wait_for(500)
        assert load.statuses.keys() == {200, 401}
        assert load.wrong == []
        assert_no_protocol_trouble(envoy)
        assert "Traceback" not in sidecar.log_text()


# Sidecars that come and go


def test_what_is_under_way_when_a_sidecar_is_told_to_end_is_answered(
    patient: Sidecar, line: TcpProxy, start: Start
) -> None:
    """Envoy heeds GOAWAY and keeps the connection until the last answer."""
    envoy = start(patient.socket)
    tokens = [good_token() for _ in range(50)]
    line.block("to_client")
    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(http.request, envoy.port, "/", token=token) for token in tokens]
        wait_until(lambda: cluster_stats(envoy)["upstream_rq_active"] == 50, "all are under way")
        patient.process.send(signal.SIGTERM)
        path = Path(patient.socket.removeprefix("unix:"))
        wait_until(lambda: not path.exists(), "nothing new is taken")
        line.restore()
        assert [one.result().status for one in asked] == [200] * 50
    assert patient.process.wait() == 0
    assert_no_protocol_trouble(envoy)


def test_restarts_under_load_give_no_wrong_answer_and_none_only_while_nobody_listens(
    tmp_path: Path, start: Start
) -> None:
    with Sidecar(tmp_path / "sidecar", {"transport": "native"}) as sidecar:
        envoy = start(sidecar.socket, concurrency=2)
        away = []
        with SteadyLoad(envoy.port, mixed()) as load:
            for _ in range(3):
                load.wait_for(300)
                began = time.monotonic()
                sidecar.process.send(signal.SIGTERM)
                assert sidecar.process.wait() == 0
                sidecar.process.start(sidecar.is_ready)
                away.append((began, time.monotonic()))
            load.wait_for(300)
        assert load.wrong == []
        assert {200, 401} <= load.statuses.keys()
        for one in load.unanswered:
            assert any(began <= one.at <= ended for began, ended in away), one
        assert "Traceback" not in sidecar.log_text()


def test_a_sidecar_that_ends_is_left_for_another_one(tmp_path: Path, start: Start) -> None:
    """Health checks: once Envoy has noticed, and for the rest of the restart, all is answered."""
    settings = {"transport": "native"}
    with Sidecar(tmp_path / "one", settings) as one, Sidecar(tmp_path / "two", settings) as two:

        def change(cluster: dict[str, Any]) -> None:
            path = two.socket.removeprefix("unix:")
            endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            endpoints.append({"endpoint": {"address": {"pipe": {"path": path}}}})
            # Else the second change within a second takes effect only at its end.
            cluster["common_lb_config"]["update_merge_window"] = "0s"

        envoy = start(one.socket, change=change, health_check=True)

        def healthy() -> int:
            return cluster_stats(envoy)["membership_healthy"]

        noticing = []
        with SteadyLoad(envoy.port, mixed()) as load:
            for sidecar in (one, two, one):
                wait_until(lambda: healthy() == 2, "both serve")
                load.wait_for(200)
                began = time.monotonic()
                sidecar.process.send(signal.SIGTERM)
                wait_until(lambda: healthy() == 1, "Envoy has noticed")
                noticing.append((began, time.monotonic()))
                assert sidecar.process.wait() == 0
                load.wait_for(200)
                sidecar.process.start(sidecar.is_ready)
        assert load.wrong == []
        for unanswered in load.unanswered:
            assert any(began <= unanswered.at <= ended + SCHEDULING for began, ended in noticing), (
                f"{unanswered}, and Envoy noticed in {noticing}"
            )
