"""Tokens that are bound to a certificate of their holder (RFC 8705)."""

import hashlib
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from check.fakes import http_request, presented

from authz.check.binding import BindingGuard
from authz.check.certificate import MAX_CERTIFICATE, _thumbprint, certificate_thumbprint
from authz.check.verdict import Reason
from support.certificates import Certificates, make_certificates
from support.jwks import b64


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def as_envoy_sends(path: Path) -> str:
    """Envoy encodes what stands out in a PEM, and leaves the rest."""
    return quote(path.read_text(), safe="")


def thumbprint(path: Path) -> str:
    """As RFC 8705 section 3.1 has it, by other means than ours."""
    return b64(hashlib.sha256(ssl.PEM_cert_to_DER_cert(path.read_text())).digest())


def refusal(certificate: str = "", *, policy: dict[str, str] | None = None, **claims: Any) -> Any:
    request = http_request(certificate=certificate)
    verdict = BindingGuard().look(presented(request, policy=policy, **claims))
    return None if verdict is None else verdict.reason


def test_a_bound_token_passes_with_its_certificate_only(certificates: Certificates) -> None:
    bound = {"cnf": {"x5t#S256": thumbprint(certificates.client)}}
    assert refusal(as_envoy_sends(certificates.client), **bound) is None
    assert refusal(as_envoy_sends(certificates.server), **bound) is Reason.BINDING_MISMATCH
    assert refusal("", **bound) is Reason.BINDING_MISMATCH


def test_a_token_that_is_bound_to_nothing_passes_with_any_certificate_or_none(
    certificates: Certificates,
) -> None:
    assert refusal() is None
    assert refusal(as_envoy_sends(certificates.client)) is None


def test_a_route_may_demand_a_token_that_is_bound(certificates: Certificates) -> None:
    bound = {"cnf": {"x5t#S256": thumbprint(certificates.client)}}
    required = {"binding": "required"}
    with_certificate = as_envoy_sends(certificates.client)
    assert refusal(with_certificate, policy=required) is Reason.BINDING_REQUIRED
    assert refusal(with_certificate, policy=required, **bound) is None
    assert refusal("", policy=required, **bound) is Reason.BINDING_MISMATCH
    assert refusal(with_certificate, policy={"binding": "optional"}) is None


def test_a_thumbprint_is_that_of_the_certificate_itself(certificates: Certificates) -> None:
    """Whatever the PEM looks like around it."""
    for path in (certificates.client, certificates.ca):
        assert certificate_thumbprint(as_envoy_sends(path)) == thumbprint(path)
        assert certificate_thumbprint(quote(path.read_text())) == thumbprint(path)
        assert certificate_thumbprint(quote(path.read_text().rstrip())) == thumbprint(path)


def test_what_is_no_certificate_has_no_thumbprint(certificates: Certificates) -> None:
    pem = certificates.client.read_text()
    for text in (
        "",
        "rubbish",
        pem[:-30],
        pem + pem,
        pem.replace("CERTIFICATE", "PUBLIC KEY"),
        pem.replace("\n", ""),
        f"x{pem}",
        "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n====\n-----END CERTIFICATE-----\n",
        "\xff\udcff",
        certificates.client_key.read_text(),
    ):
        assert certificate_thumbprint(quote(text, errors="replace")) is None, text


def test_a_huge_certificate_is_neither_read_nor_remembered(certificates: Certificates) -> None:
    pem = certificates.client.read_text()
    large = pem.replace("\n-----END", "\n" * MAX_CERTIFICATE + "-----END")
    before = _thumbprint.cache_info()
    assert certificate_thumbprint(quote(large)) is None
    assert _thumbprint.cache_info() == before, "nor kept"
    assert certificate_thumbprint(as_envoy_sends(certificates.client)) is not None
    assert _thumbprint.cache_info() != before
