"""Whose token a login service asks for (RFC 8693 section 2.1: `subject_token`).

Two ways to say it:

1. A token of a trusted issuer (`tokens.exchange.issuers`), verified as the sidecar verifies it. Its
   user has here the name `subject_prefix` + `sub`.
2. An assertion: a JWT that a login service signs itself, with a key that is registered for it, once
   it has authenticated the user in its own way. `iss` is the login service's client id, `sub` the
   user, `aud` the token service's issuer; it lives five minutes at most, has a `jti`, and can be
   used once. With `azp` it is for another client, such as the app that the user sits before:
   whoever presents it must be that client, and it is what an authorization code is elsewhere.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from authz.check.claims import is_header_text
from authz.check.envelope import DecryptionKeys, is_encrypted
from authz.check.jose import BadTokenError, require_compact_form, take_apart
from authz.check.jwe import Opener
from authz.check.verdict import Reason
from authz.check.verifier import IssuerKeys, Refused, Verified, Verifier
from authz.keys.errors import KeySourceError
from authz.keys.jwk import read_key
from authz.keys.keyset import KeySet
from authz.revocation.record import (
    Answer,
    Revoked,
    TokenRef,
    Unavailable,
    bucket_of,
    token_digest,
)
from authz.settings.issuers import IssuerSettings, KeySourceSettings
from authz.settings.token_http import ExchangeSettings
from authz.tokens.clients.client import Client
from authz.tokens.clients.store import ClientStore
from authz.tokens.http.errors import (
    OAuthError,
    invalid_request,
    unauthorized_client,
    unavailable,
)
from authz.uses.ledger import Ledger
from authz.uses.record import Used

JWT = "urn:ietf:params:oauth:token-type:jwt"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  the name of a type
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105
TYPES = (JWT, ACCESS_TOKEN, ID_TOKEN)

ASSERTION_ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
"""Of login services' own keys. Asymmetric, so that what is stored here signs nothing."""

TRUSTED_CACHE = 1000
"""Verified tokens of trusted issuers. One is hardly ever exchanged twice."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a subject token says."""

    subject: str
    auth_time: int | None
    vouched_at: int
    """The subject token's `iat`."""
    use_up: Callable[[], Awaitable[None]]
    """Of what works once: call it when nothing else speaks against the request. OAuthError: it was
    used before, or nobody can say."""


class TrustedKeys(Protocol):
    """Of the trusted issuers, as they are now: `authz.keys.manager.KeyRings`."""

    @property
    def by_issuer(self) -> Mapping[str, IssuerKeys]: ...

    @property
    def decryption(self) -> Mapping[str, DecryptionKeys]:
        """Of those whose tokens may be encrypted."""
        ...


class _Ring:
    """A client's registered keys, as the verifier asks for an issuer's."""

    def __init__(self, keys: KeySet) -> None:
        self.keys: KeySet | None = keys

    def refetch(self) -> Awaitable[None] | None:
        """They are what the store says."""
        return None


class Subjects:
    """Finds out whom a subject token speaks of. One that is no good is `invalid_request`, as RFC
    8693 section 2.2.2 has it.
    """

    def __init__(
        self,
        settings: ExchangeSettings,
        trusted: TrustedKeys,
        clients: ClientStore,
        ledger: Ledger,
        find: Callable[[TokenRef], Answer | Awaitable[Answer]],
        *,
        issuer: str,
        leeway: float,
        buckets: int,
    ) -> None:
        """`trusted`: of `settings.issuers`; `find`: the store's knowledge of revocations; `issuer`:
        our own, to which assertions are addressed.
        """
        self._settings = settings
        self._prefixes = {one.issuer: one.subject_prefix for one in settings.issuers}
        self._verifier = Verifier(
            settings.issuers,
            trusted.by_issuer,
            leeway=leeway,
            buckets=buckets,
            cache_size=TRUSTED_CACHE,
            decryption=trusted.decryption,
        )
        self._opener = Opener(trusted.decryption)
        self._clients = clients
        self._ledger = ledger
        self._find = find
        self._issuer = issuer
        self._leeway = leeway
        self._buckets = buckets

    async def said(
        self, client: Client, token: str, kind: str, now: float, cnf: Mapping[str, Any] | None
    ) -> Said:
        """Whom the token that `client` presents speaks of. `cnf`: what the request has proven.
        OAuthError; StoreError.
        """
        if kind not in TYPES:
            raise invalid_request(f"subject_token_type: use one of {' '.join(TYPES)}")
        try:
            inside = self._opener.open(token).token if is_encrypted(token) else token
            require_compact_form(inside)
            jws = take_apart(inside)
        except BadTokenError as bad:
            raise _bad(bad.reason, bad.detail) from None
        # Believed for nothing but to know who has to be asked.
        issuer = jws.claims.get("iss")
        if not is_header_text(issuer):
            raise _bad(Reason.CLAIM_INVALID, "iss")
        typ = str(jws.header.get("typ", "")).lower().removeprefix("application/")
        if kind == ID_TOKEN and typ == "at+jwt":
            raise invalid_request("subject_token: an access token is not an ID token")
        if issuer in self._prefixes:
            found = await self._of_trusted(client, token, now, cnf)
            subject = self._prefixes[issuer] + found.identity.subject
            use_up: Callable[[], Awaitable[None]] = _nothing
        elif isinstance(issuer, str) and kind == JWT:
            found = await self._of_login_service(client, token, issuer, jws.claims, now, cnf)
            subject = found.identity.subject
            use_up = partial(self._use, issuer, jws.claims["jti"], found, now)
        else:
            raise invalid_request("subject_token: its issuer is not trusted")
        await self._is_no_client(subject)
        auth_time = _instant(jws.claims.get("auth_time"), now)
        return Said(subject, auth_time, found.identity.ref.issued_at, use_up)

    async def _is_no_client(self, subject: str) -> None:
        """RFC 9068 section 5: a client's token must not be mistaken for a user's, so no user may
        have a client's name.
        """
        if await self._clients.get(subject) is not None:
            raise invalid_request("subject_token: its subject has the name of a client")

    async def _of_trusted(
        self, client: Client, token: str, now: float, cnf: Mapping[str, Any] | None
    ) -> Verified:
        if not client.may_exchange:
            raise unauthorized_client("this client may not exchange tokens of other issuers")
        verified = self._verifier.verify(token, now)
        if isinstance(verified, Refused) and verified.ring is not None:
            newer_keys = verified.ring.refetch()
            if newer_keys is not None:
                await newer_keys
                verified = self._verifier.verify(token, now)
        if isinstance(verified, Refused):
            if verified.reason is Reason.KEYS_UNAVAILABLE:
                raise unavailable("issuer_keys")
            raise _bad(verified.reason, verified.detail)
        _require_holder(verified, cnf)
        answer = self._find(verified.identity.ref)
        match await answer if isinstance(answer, Awaitable) else answer:
            case Revoked():
                raise invalid_request("subject_token: it was revoked")
            case Unavailable():
                raise unavailable("store")
        return verified

    async def _of_login_service(
        self,
        client: Client,
        token: str,
        issuer: str,
        claims: Mapping[str, Any],
        now: float,
        cnf: Mapping[str, Any] | None,
    ) -> Verified:
        service = client if issuer == client.id else await self._clients.get(issuer)
        if service is None or service.disabled or not (service.may_exchange and service.keys):
            raise invalid_request("subject_token: its issuer is not trusted")
        verified = self._verifier_of(service).verify(token, now)
        if isinstance(verified, Refused):
            raise _bad(verified.reason, verified.detail)
        # ---- From here on the claims are the login service's words. ----
        party = claims.get("azp", service.id)
        if party != client.id:
            raise invalid_request("subject_token: it is for another client (azp)")
        if not is_header_text(claims.get("jti")):
            raise invalid_request("subject_token: an assertion needs a jti")
        _require_holder(verified, cnf)
        return verified

    def _verifier_of(self, service: Client) -> Verifier:
        """Small, and made for each assertion: the client's record is as of now."""
        settings = IssuerSettings(
            issuer=service.id,
            audiences=[self._issuer],
            algorithms=list(ASSERTION_ALGORITHMS),
            keys=KeySourceSettings(jwks_url="https://registered.invalid"),  # these are in `_Ring`
            max_lifetime=self._settings.max_assertion_lifetime,
        )
        ring = _Ring(key_set_of(service.keys))
        return Verifier(
            [settings], {service.id: ring}, leeway=self._leeway, buckets=self._buckets, cache_size=1
        )

    async def _use(self, service: str, jti: str, verified: Verified, now: float) -> None:
        """RFC 7521 section 5.2: an assertion is used once, in the whole cluster."""
        name = token_digest(f"assertion {service}", jti, b"")
        until = verified.identity.ref.expires_at + self._leeway
        bucket = bucket_of(self._issuer, verified.identity.subject, self._buckets)
        use = self._ledger.use(bucket, name, until, now)
        match await use if isinstance(use, Awaitable) else use:
            case Used():
                raise invalid_request("subject_token: it was used before")
            case Unavailable():
                self._ledger.forget(name, until)
                raise unavailable("store")


def key_set_of(jwks: Sequence[Mapping[str, Any]]) -> KeySet:
    """Registered keys, ready to verify with. KeySourceError: one can't be used."""
    return KeySet(read_key(dict(jwk), ASSERTION_ALGORITHMS) for jwk in jwks)


def check_keys(jwks: Sequence[Mapping[str, Any]]) -> None:
    """KeySourceError: one of them can't be used, or there are none."""
    if not len(key_set_of(jwks)):
        raise KeySourceError("holds no key")


async def _nothing() -> None:
    """Of a provider's token, which works until it expires."""


def _require_holder(verified: Verified, cnf: Mapping[str, Any] | None) -> None:
    """A token that is bound to a key is worth something with its proof only (RFC 9449 section 7),
    here as elsewhere. Nobody's certificate is known here.
    """
    bound = verified.confirmation
    if bound is not None and (bound.certificate is not None or cnf != {"jkt": bound.jkt}):
        raise invalid_request("subject_token: it is bound to a key that the request doesn't prove")


def _instant(value: object, now: float) -> int | None:
    """A past time in whole seconds. What is none says nothing: nobody here rests on it."""
    return value if type(value) is int and 0 <= value <= now else None


def _bad(reason: Reason, detail: str) -> OAuthError:
    return invalid_request(f"subject_token: {reason.value.description}{detail and f' ({detail})'}")
