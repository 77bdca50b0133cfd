"""What the units of `authz.check` are given in place of the parts they are not about."""

from collections.abc import Awaitable, Mapping
from typing import Any

from authz.check.credentials import Credential
from authz.check.guard import Presented
from authz.check.policy import RoutePolicies
from authz.check.request import CheckRequest, PlainRequest
from authz.check.token import Identity
from authz.check.verdict import Reason
from authz.check.verifier import Refused, Verified, Verifier
from authz.keys.jwk import parse_jwks
from authz.keys.keyset import KeySet
from authz.keys.secret import parse_secret
from authz.revocation.record import Clear, Finding, TokenRef
from authz.settings import ALGORITHMS, IssuerSettings
from support.jwks import (
    AUDIENCE,
    ISSUER,
    PrivateKey,
    ec_key,
    ed25519_key,
    jwk,
    jwks,
    rsa_key,
    sign,
)
from support.jwks import claims as good_claims

NOW = 1_800_000_000
"""Seconds since 1970, for whoever is passed a time."""

KID = "key-1"

SECRET = b"\x5a" * 64

KEYS: dict[str, PrivateKey | bytes] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), rsa_key()),
    "ES256": ec_key(),
    "ES384": ec_key(curve="P-384"),
    "EdDSA": ed25519_key(),
    **dict.fromkeys(("HS256", "HS384", "HS512"), SECRET),
}
"""A key for every algorithm."""


class FakeKeys:
    """An issuer's keys, and what a refetch brings."""

    def __init__(self, keys: KeySet | None, *, fetched: KeySet | None = None) -> None:
        """`fetched`: what the first `refetch` makes of the keys; without it none is due."""
        self.keys = keys
        self.fetched = fetched
        self.refetches = 0

    def refetch(self) -> Awaitable[None] | None:
        self.refetches += 1
        if self.fetched is None:
            return None
        return self._fetch()

    async def _fetch(self) -> None:
        self.keys, self.fetched = self.fetched, None


class CountingRevocations:
    """A store that says what it is told to, and keeps who was asked about."""

    def __init__(self, finding: Finding | None = None, *, later: bool = False) -> None:
        """`later`: answers by an awaitable, as when Redis has to be asked."""
        self.finding: Finding = finding or Clear()
        self.later = later
        self.asked: list[TokenRef] = []

    def find(self, ref: TokenRef, now: float, last: Clear) -> Finding | Awaitable[Finding]:
        assert now > 0
        assert last == Clear()
        self.asked.append(ref)
        return self._find_later() if self.later else self.finding

    async def _find_later(self) -> Finding:
        return self.finding


class FakeRecorder:
    """An audit that works, or doesn't."""

    def __init__(self, *, works: bool = True) -> None:
        self.works = works
        self.records: list[tuple[CheckRequest, Identity, str]] = []

    async def record(self, request: CheckRequest, identity: Identity, cause: str) -> bool:
        if self.works:
            self.records.append((request, identity, cause))
        return self.works


def public_keys(*keys: tuple[PrivateKey, str | None]) -> KeySet:
    """The public halves, each with its `kid`."""
    document = jwks(*(jwk(key, kid) for key, kid in keys))
    return parse_jwks(document.encode(), ALGORITHMS, strict=True).keys


def secret_keys(secret: bytes) -> KeySet:
    return parse_secret(secret, ["HS256", "HS384", "HS512"])


def issuer_settings(issuer: str = ISSUER, **changes: Any) -> IssuerSettings:
    """Of an issuer with published keys; `algorithms` is everything that can be had with those."""
    values: dict[str, Any] = {
        "issuer": issuer,
        "audiences": [AUDIENCE],
        "algorithms": [name for name in ALGORITHMS if not name.startswith("HS")],
        "keys": {"jwks_file": "/unread"},
        **changes,
    }
    return IssuerSettings.model_validate(values)


def make_verifier(
    keys: FakeKeys | Mapping[str, FakeKeys],
    *issuers: IssuerSettings,
    leeway: float = 5.0,
    cache_size: int = 100,
) -> Verifier:
    """`keys` by issuer, or those of ISSUER."""
    rings = {ISSUER: keys} if isinstance(keys, FakeKeys) else keys
    return Verifier(
        issuers or [issuer_settings()], rings, leeway=leeway, buckets=16, cache_size=cache_size
    )


def http_request(
    *,
    token: str | None = None,
    headers: Mapping[str, tuple[str, ...]] | None = None,
    extensions: Mapping[str, str] | None = None,
    **parts: Any,
) -> PlainRequest:
    """A request as the decoder hands it on. `token`: as the bearer token."""
    values = dict(headers or {})
    if token is not None:
        values["authorization"] = (f"Bearer {token}",)
    given: dict[str, Any] = {
        "request_id": "request-1",
        "method": "GET",
        "path": "/",
        "host": "app.example",
        "source": "127.0.0.1",
        **parts,
    }
    return PlainRequest(headers=values, extensions=extensions or {}, **given)


def presented(
    request: PlainRequest | None = None,
    credential: Credential | None = None,
    *,
    policy: Mapping[str, str] | None = None,
    **token_claims: Any,
) -> Presented:
    """A good token of these claims, and how it came. `policy`: the route's, without `authz.`."""
    text = token(**token_claims)
    verifier = make_verifier(FakeKeys(public_keys((rsa_key(), KID))))
    extensions = {f"authz.{name}": value for name, value in (policy or {}).items()}
    return Presented(
        request=request or http_request(),
        credential=credential or Credential(text),
        verified=accepted(verifier, text),
        policy=RoutePolicies("open").of(extensions),
        now=NOW,
    )


def claims(**changes: Any) -> dict[str, Any]:
    """Good ones, as of NOW."""
    return good_claims(now=NOW, **changes)


def token(key: PrivateKey | bytes | None = None, **changes: Any) -> str:
    return sign(claims(**changes), key or rsa_key(), kid=KID)


def reason(verifier: Verifier, text: str, now: float = NOW) -> Reason | None:
    """Why it is refused; None where it isn't."""
    found = verifier.verify(text, now)
    return found.reason if isinstance(found, Refused) else None


def accepted(verifier: Verifier, text: str, now: float = NOW) -> Verified:
    found = verifier.verify(text, now)
    assert isinstance(found, Verified), found
    return found
