"""envoy/shadow.yaml: nothing is refused, and Envoy counts what would have been."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from conftest import StartSidecar

from authz.cli.envoy import envoy as envoy_command
from support import http
from support.envoy import Envoy
from support.jwks import claims, rsa_key, sign
from support.ports import free_port
from support.sidecar import KID, Sidecar
from support.upstream import Upstream
from support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SHADOW = ROOT / "envoy/shadow.yaml"
COUNTER = "http.ingress.ext_authz.authz."


def shipped(tmp_path: Path, file: Path, sidecar: Sidecar, upstream: Upstream, **ports: int) -> Any:
    """The file with this test's addresses instead of its own."""
    text = file.read_text()
    for given, here in {
        "/run/authz/authz.sock": sidecar.socket.removeprefix("unix:"),
        "port_value: 8000": f"port_value: {upstream.port}",
        "port_value: 8080": f"port_value: {ports['port']}",
        "port_value: 9901": f"port_value: {ports['admin_port']}",
        "address: 0.0.0.0": "address: 127.0.0.1",
    }.items():
        assert given in text
        text = text.replace(given, here)
    return yaml.safe_load(text)


@pytest.fixture
def ports() -> dict[str, int]:
    return {"port": free_port(), "admin_port": free_port()}


def test_it_is_what_the_command_prints(tmp_path: Path) -> None:
    first, _, body = SHADOW.read_text().partition("static_resources:")
    config = tmp_path / "authz.yaml"
    config.write_text(
        "issuers: [{issuer: https://issuer.example, audiences: [api], algorithms: [RS256],"
        " keys: {jwks_file: /etc/authz/jwks.json}}]\n"
    )
    outcome = CliRunner().invoke(envoy_command, ["--config", str(config), "--shadow"])
    assert outcome.exit_code == 0, outcome.output
    assert f"static_resources:{body}" == outcome.stdout
    assert all(line.startswith("#") for line in first.splitlines())


def test_it_differs_from_enforcing_in_one_field() -> None:
    enforcing = (ROOT / "envoy/envoy.yaml").read_text()
    assert "shadow_mode" not in enforcing
    assert SHADOW.read_text().count("shadow_mode: true") == 1


def test_nothing_is_refused_and_all_is_counted(
    tmp_path: Path, start_sidecar: StartSidecar, upstream: Upstream, ports: dict[str, int]
) -> None:
    """Until the counters say that only those would be refused who should be."""
    sidecar = start_sidecar()
    bootstrap = shipped(tmp_path, SHADOW, sidecar, upstream, **ports)
    proxy = Envoy(tmp_path / "envoy", bootstrap, **ports)
    try:
        proxy.start()
        token = sign(claims(), rsa_key(), kid=KID)
        assert http.request(proxy.port, "/", token=token).status == 200
        forged = http.request(
            proxy.port, "/", headers=[("x-authz-subject", "root"), ("x-authz-role", "root")]
        )
        assert forged.status == 200
        seen = {name for name, _ in forged.json()["headers"]}
        assert not {name for name in seen if name.startswith("x-authz")}
        wait_until(lambda: proxy.stats(COUNTER)[f"{COUNTER}shadow_denied"] == 1, "counted")
        assert proxy.stats(COUNTER)[f"{COUNTER}ok"] == 1
        assert sidecar.metric("authz_checks_total", verdict="deny") == 1
        sidecar.stop()
        assert http.request(proxy.port, "/", token=token).status == 200
        wait_until(lambda: proxy.stats(COUNTER)[f"{COUNTER}shadow_error"] >= 1, "counted, too")
    finally:
        proxy.stop()


def test_no_client_steers_envoy_by_its_own_headers(
    tmp_path: Path, start_sidecar: StartSidecar, upstream: Upstream, ports: dict[str, int]
) -> None:
    """Those that Envoy obeys from its own kind: time limits, retries, rewritten paths."""
    sidecar = start_sidecar()
    bootstrap = shipped(tmp_path, ROOT / "envoy/envoy.yaml", sidecar, upstream, **ports)
    told = {
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
        "x-envoy-internal": "true",
        "x-envoy-original-path": "/admin",
        "x-envoy-original-host": "elsewhere.example",
    }
    proxy = Envoy(tmp_path / "envoy", bootstrap, **ports)
    try:
        proxy.start()
        answer = http.request(proxy.port, "/healthz", headers=list(told.items()))
        assert answer.status == 200
        assert not told.keys() & {name for name, _ in answer.json()["headers"]}
    finally:
        proxy.stop()


def test_the_header_filter_for_istio_works_in_envoy(
    tmp_path: Path, start_sidecar: StartSidecar, upstream: Upstream, ports: dict[str, int]
) -> None:
    """What its EnvoyFilter merges into the connection manager, in place of our own."""
    sidecar = start_sidecar()
    bootstrap = shipped(tmp_path, ROOT / "envoy/envoy.yaml", sidecar, upstream, **ports)
    _, patch = yaml.safe_load_all((ROOT / "envoy/istio/authz.yaml").read_text())
    (one,) = patch["spec"]["configPatches"]
    chain = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]
    manager = chain["filters"][0]["typed_config"]
    for field in ("early_header_mutation_extensions", "headers_with_underscores_action"):
        manager.pop(field, None)
    manager["common_http_protocol_options"].pop("headers_with_underscores_action")
    merged = one["patch"]["value"]["typed_config"]
    manager["common_http_protocol_options"] |= merged["common_http_protocol_options"]
    manager["early_header_mutation_extensions"] = merged["early_header_mutation_extensions"]
    proxy = Envoy(tmp_path / "envoy", bootstrap, **ports)
    try:
        proxy.start()
        answer = http.request(proxy.port, "/healthz", headers=[("x-authz-role", "root")])
        assert answer.status == 200
        assert "x-authz-role" not in {name for name, _ in answer.json()["headers"]}
        refused = http.request(proxy.port, "/healthz", headers=[("x_authz_role", "root")])
        assert refused.status == 400
    finally:
        proxy.stop()
