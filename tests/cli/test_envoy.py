"""`authz envoy`: the command line of it."""

from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from authz.cli.envoy import envoy

ROOT = Path(__file__).parents[2]
CONFIG = """\
listen: ["unix:/run/authz/authz.sock", "127.0.0.1:9191"]
issuers:
  - issuer: https://issuer.example
    audiences: [api]
    algorithms: [RS256, ES256]
    keys: {jwks_file: /etc/authz/jwks.json}
credentials: ["header:authorization", "cookie:__Host-access"]
"""
SHIPPED = (
    "--route", "/healthz:disabled",
    "--route", "/public:authz.mode=optional",
    "--route", "/admin:authz.scopes=admin audit,authz.fail_mode=closed",
)  # fmt: skip
"""The arguments that envoy/README.md names."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "authz.yaml"
    path.write_text(CONFIG)
    return path


def test_the_shipped_file_is_what_the_command_prints(config: Path) -> None:
    """envoy/envoy.yaml can't go stale; its comment lines say how to make it again."""
    outcome = CliRunner().invoke(envoy, ["--config", str(config), *SHIPPED])
    assert outcome.exit_code == 0, outcome.output
    shipped = (ROOT / "envoy" / "envoy.yaml").read_text()
    body = "".join(line for line in shipped.splitlines(True) if not line.startswith("#"))
    assert body == outcome.stdout


def test_the_folder_of_configs_can_not_be_imported() -> None:
    """A Python file there would hide the package of the same name that brings the Envoy binary."""
    assert not list((ROOT / "envoy").rglob("*.py"))


def test_json_and_yaml_say_the_same(config: Path) -> None:
    texts = [
        CliRunner().invoke(envoy, ["--config", str(config), "--format", form]).stdout
        for form in ("yaml", "json")
    ]
    assert texts[1].startswith("{")
    assert yaml.safe_load(texts[0]) == yaml.safe_load(texts[1])


@pytest.mark.parametrize(
    "route",
    [
        "/public",
        "/public:",
        "/public:optional",
        "/public:authz.mode=maybe",
        "/public:authz.mod=optional",
        "/public:authz.mode=optional,authz.mode=required",
        "/public:mode=optional",
        "public:disabled",
    ],
)
def test_a_route_that_would_not_mean_what_it_says_is_refused(config: Path, route: str) -> None:
    """A misspelt policy is found here, not as a 500 of the first request."""
    outcome = CliRunner().invoke(
        envoy, ["--config", str(config), "--route", route], standalone_mode=False
    )
    assert isinstance(outcome.exception, click.UsageError)
    assert "route" in str(outcome.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tls-cert", "a.pem"),
        ("--tls-key", "a.key"),
        ("--client-ca", "ca.pem"),
        ("--client-ca", "ca.pem", "--tls-key", "a.key"),
    ],
)
def test_half_of_what_tls_needs_is_refused(config: Path, arguments: tuple[str, ...]) -> None:
    outcome = CliRunner().invoke(envoy, ["--config", str(config), *arguments])
    assert outcome.exit_code == 2
    assert "--tls-cert and --tls-key go together" in outcome.stderr


def test_tls_for_clients_is_printed(config: Path) -> None:
    files = ("--tls-cert", "a.pem", "--tls-key", "a.key", "--client-ca", "ca.pem")
    outcome = CliRunner().invoke(envoy, ["--config", str(config), *files])
    assert outcome.exit_code == 0
    (listener,) = yaml.safe_load(outcome.stdout)["static_resources"]["listeners"]
    context = listener["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    (certificate,) = context["tls_certificates"]
    assert certificate["certificate_chain"] == {"filename": "a.pem"}
    assert certificate["private_key"] == {"filename": "a.key"}
    assert context["validation_context"]["trusted_ca"] == {"filename": "ca.pem"}
