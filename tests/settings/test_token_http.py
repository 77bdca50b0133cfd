"""How the token service is reached, and whose users it takes over."""

from typing import Any

import pytest
from pydantic import ValidationError

from authz.settings.token_http import CookieSettings, ExchangeSettings
from authz.settings.token_limits import TokenLimitsSettings


def provider(name: str, prefix: str) -> dict[str, Any]:
    return {
        "issuer": f"https://{name}.example",
        "audiences": ["login"],
        "algorithms": ["RS256"],
        "keys": {"discovery": True},
        "subject_prefix": prefix,
    }


def trusting(*providers: dict[str, Any]) -> ExchangeSettings:
    return ExchangeSettings.model_validate({"issuers": providers})


def test_one_provider_needs_no_prefix() -> None:
    assert trusting(provider("a", "")).issuers[0].subject_prefix == ""


@pytest.mark.parametrize(("one", "other"), [("", ""), ("a:", "a:"), ("", "a:"), ("a", "ab")])
def test_users_of_two_providers_can_not_be_one(one: str, other: str) -> None:
    """With the prefixes `a` and `ab`, `bob` of the first is `ob` of the second."""
    for prefixes in ((one, other), (other, one)):
        with pytest.raises(ValidationError, match="subject_prefix"):
            trusting(*(provider(f"p{n}", prefix) for n, prefix in enumerate(prefixes)))
    assert trusting(provider("a", "a:"), provider("b", "b:"))


def test_a_provider_is_configured_once() -> None:
    with pytest.raises(ValidationError, match="twice"):
        trusting(provider("a", "a:"), provider("a", "b:"))


@pytest.mark.parametrize(
    "origin",
    ["shop.example", "https://shop.example/", "https://*.example", "ftp://shop.example"],
)
def test_an_origin_is_scheme_and_host(origin: str) -> None:
    """As browsers write it (RFC 6454 section 6.2), or it would never be equal."""
    with pytest.raises(ValidationError):
        CookieSettings(trusted_origins=[origin])
    settings = CookieSettings(
        trusted_origins=["https://Shop.example:8443", "https://b.example:443"]
    )
    assert settings.trusted_origins == ["https://shop.example:8443", "https://b.example"]


@pytest.mark.parametrize("rate", ["", "60", "60/year", "0/minute", "-1/minute", "1/minutes"])
def test_a_rate_is_a_number_and_a_unit(rate: str) -> None:
    with pytest.raises(ValidationError, match="60/minute"):
        TokenLimitsSettings(issue_client=rate)
    assert TokenLimitsSettings(issue_client=None, issue_user="5/second")
