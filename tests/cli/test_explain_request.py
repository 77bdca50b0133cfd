"""`authz explain` says what speaks against how a token came."""

from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from click.testing import CliRunner, Result

from authz.check.certificate import certificate_thumbprint
from authz.cli.explain import explain
from support.certificates import Certificates
from support.dpop import ProofKey
from support.jwks import claims, rsa_key, sign
from support.sidecar import KID, default_issuer

TOKEN = sign(claims(), rsa_key(), kid=KID)
SECURE = ("--route", "authz.require_https=true")
POST = ("--cookie", "--method", "post", "--url", "https://shop.example/orders")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "authz.yaml"
    csrf = {"trusted_origins": ["https://admin.example"]}
    path.write_text(yaml.safe_dump({"issuers": [default_issuer(tmp_path)], "csrf": csrf}))
    return path


def run(config: Path, *arguments: str, token: str = TOKEN) -> Result:
    """What came, with the exit code that the real command has."""
    return CliRunner().invoke(
        explain, ["--config", str(config), *arguments, "--", token], standalone_mode=False
    )


def row(result: Result, stage: str) -> str | None:
    """Its mark and finding."""
    found = [line.split() for line in result.output.splitlines() if line.split()[1:2] == [stage]]
    return " ".join([found[0][0], *found[0][2:]]) if found else None


@pytest.mark.parametrize(
    ("arguments", "stage", "reason"),
    [
        ((), "transport", None),
        (SECURE, "transport", None),
        ((*SECURE, "--url", "http://shop.example/"), "transport", "https_required"),
        ((*SECURE, "--header", "x-forwarded-proto=http"), "transport", "https_required"),
        (("--url", "http://shop.example/"), "transport", None),
        (POST, "csrf", "cross_site_request"),
        ((*POST, "--header", "Origin=https://evil.example"), "csrf", "cross_site_request"),
        ((*POST, "--header", "origin=https://shop.example"), "csrf", None),
        ((*POST, "--header", "origin=https://admin.example"), "csrf", None),
        ((*POST, "--route", "authz.csrf=false"), "csrf", None),
        (("--cookie",), "csrf", None),
        (("--route", "authz.binding=required"), "binding", "binding_required"),
    ],
)
def test_the_stage_and_the_verdict_name_what_speaks_against_it(
    config: Path, arguments: tuple[str, ...], stage: str, reason: str | None
) -> None:
    result = run(config, *arguments)
    assert result.return_value == (0 if reason is None else 1), result.output
    verdict = row(result, "verdict") or ""
    if reason is None:
        assert verdict.startswith("ok allow: ok")
        assert (row(result, stage) or "ok").startswith("ok")
    else:
        assert verdict.startswith(f"no deny: {reason}")
        assert (row(result, stage) or "").startswith(f"no {reason}")


def test_a_certificate_is_read_from_its_file(config: Path, certificates: Certificates) -> None:
    pem = certificates.client.read_text()
    cnf = {"x5t#S256": certificate_thumbprint(quote(pem, safe=""))}
    bound = sign(claims(cnf=cnf), rsa_key(), kid=KID)
    assert run(config, "--certificate", str(certificates.client), token=bound).return_value == 0
    refused = run(config, "--certificate", str(certificates.server), token=bound)
    assert (row(refused, "binding") or "").startswith("no binding_mismatch")
    assert run(config, token=bound).return_value == 1


def test_a_proof_is_looked_at_for_the_request_and_not_used_up(config: Path) -> None:
    key, url = ProofKey(), "https://shop.example/orders"
    bound = sign(claims(cnf=key.cnf), rsa_key(), kid=KID)
    with_proof = ("--header", f"dpop={key.prove('GET', url, bound)}")
    for _ in range(2):
        result = run(config, *with_proof, "--url", url, token=bound)
        assert result.return_value == 0, result.output
        assert (row(result, "dpop") or "").startswith("? works once")
    for arguments, reason in (
        ((), "scheme_mismatch"),
        ((*with_proof, "--url", f"{url}/7"), "proof_invalid"),
        ((*with_proof, "--url", url, "--method", "post"), "proof_invalid"),
    ):
        refused = run(config, *arguments, token=bound)
        assert refused.return_value == 1
        assert (row(refused, "dpop") or "").startswith(f"no {reason}")


def test_a_one_time_token_is_not_used_up(config: Path) -> None:
    for _ in range(2):
        result = run(config, "--route", "authz.use=once")
        assert result.return_value == 0
        assert (row(result, "use") or "").startswith("? works once")


def test_no_guard_is_shown_that_would_not_be_asked(config: Path) -> None:
    """As with a plain token on a plain route."""
    result = run(config)
    assert [row(result, name) for name in ("transport", "csrf", "binding", "use")] == [None] * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "shop.example"), "--url"),
        (("--url", "ftp://shop.example"), "--url"),
        (("--header", "origin"), "NAME=VALUE"),
        (("--header", "=x"), "NAME=VALUE"),
        (("--certificate", "/nowhere.pem"), "--certificate /nowhere.pem: No such file"),
    ],
)
def test_an_option_that_makes_no_sense_is_an_error(
    config: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = run(config, *arguments)
    assert result.exception is not None
    assert said in str(result.exception)
