"""A token service without HTTP, in the test's own loop: keys that stay, a real store."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from authz.keys.issuing.held import LocalSigner
from authz.keys.jwk import read_key
from authz.keys.keyset import KeySet
from authz.keys.signer import SigningUnavailableError
from authz.keys.signing import SigningKey
from authz.revocation.record import (
    Clear,
    Note,
    Revoked,
    TokenRef,
    bucket_of,
    token_digest,
    user_digest,
)
from authz.settings import TokensSettings
from authz.settings.signing import SigningSettings
from authz.tokens.grant import GrantRequest, Issued, RefreshRefused, RefreshRequest, Refusal
from authz.tokens.issuer import TokenIssuer
from support.jwks import ISSUER, ec_key, jwk
from support.revocations import BUCKETS, Opened, new_subject, opened

CLIENT = "web"
KID = "signing-key"


class StaticKeys:
    """`SigningKeys` of one key. While `sealed` it signs nothing."""

    def __init__(self) -> None:
        self.sealed = False
        self.unknown = False
        """They could not be read since the start."""
        self.signed = 0
        self._signer = LocalSigner(SigningKey(KID, "ES256", ec_key()))
        self._public = jwk(ec_key(), KID)

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def current(self) -> LocalSigner:
        if self.sealed:
            raise SigningUnavailableError("Vault is sealed", retry_after=5)
        self.signed += 1
        return self._signer

    def jwks(self) -> dict[str, Any]:
        return {"keys": [self._public]}

    def verification(self) -> KeySet:
        if self.unknown:
            raise SigningUnavailableError("Vault is sealed", retry_after=5)
        return KeySet([read_key(self._public, ["ES256"])])

    async def refresh(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {}


@dataclass
class Service:
    """One process of a token service."""

    issuer: TokenIssuer
    keys: StaticKeys
    told: Opened

    async def log_in(
        self, subject: str | None = None, *, now: float | None = None, **grant: Any
    ) -> Issued:
        """A new session, with a refresh token unless it says otherwise."""
        values: dict[str, Any] = {
            "client_id": CLIENT,
            "scopes": ("read", "write"),
            "audiences": ("api",),
            "refreshable": True,
            **grant,
        }
        subject = new_subject() if subject is None else subject
        return await self.issuer.issue(GrantRequest(subject=subject, **values), now or time.time())

    async def refresh(
        self, token: Issued | str | None, *, now: float | None = None, **request: Any
    ) -> Issued | RefreshRefused:
        text = token.refresh_token if isinstance(token, Issued) else token
        assert text is not None
        values = {"client_id": CLIENT, **request}
        return await self.issuer.refresh(RefreshRequest(token=text, **values), now or time.time())

    async def refreshed(self, token: Issued | str | None, **request: Any) -> Issued:
        """As `refresh`, which has to succeed."""
        result = await self.refresh(token, **request)
        assert isinstance(result, Issued), result
        return result

    async def refusal(self, token: Issued | str | None, **request: Any) -> Refusal:
        """As `refresh`, which has to fail."""
        result = await self.refresh(token, **request)
        assert isinstance(result, RefreshRefused), result
        return result.refusal

    async def is_good(self, *tokens: Issued) -> list[bool]:
        """Of each whether a sidecar that asks the store lets its access token through."""
        answers = await asyncio.gather(*(self.told.find(ref_of(token)) for token in tokens))
        assert all(isinstance(answer, Clear | Revoked) for answer in answers), answers
        return [answer == Clear() for answer in answers]


@asynccontextmanager
async def serving(
    url: str, *, store: Mapping[str, Any] | None = None, leeway: float = 5.0, **settings: Any
) -> AsyncIterator[Service]:
    """A token service on the store at `url`. `store` are settings of it, `settings` of `tokens`."""
    keys = StaticKeys()
    async with opened(url, **(store or {})) as told:
        issuer = TokenIssuer(
            tokens_settings(**settings),
            keys,
            told.store.scripts,
            buckets=BUCKETS,
            leeway=leeway,
        )
        yield Service(issuer, keys, told)


def tokens_settings(**settings: Any) -> TokensSettings:
    return TokensSettings(
        **{
            "issuer": ISSUER,
            "audiences": ["api"],
            "signing": SigningSettings(key_file=Path("unused")),
            **settings,
        }
    )


def claims_of(token: Issued | str) -> dict[str, Any]:
    """Unverified."""
    text = token.access_token if isinstance(token, Issued) else token
    claims: dict[str, Any] = jwt.decode(text, options={"verify_signature": False})
    return claims


def ref_of(token: Issued | str) -> TokenRef:
    """What the store knows it by."""
    claims = claims_of(token)
    return TokenRef(
        user=user_digest(ISSUER, claims["sub"]),
        token=token_digest(ISSUER, claims["jti"], b""),
        bucket=bucket_of(ISSUER, claims["sub"], BUCKETS),
        issued_at=claims["iat"],
        expires_at=claims["exp"],
    )


def a_note(reason: str = "logged out") -> Note:
    return Note(reason, "a test", time.time())
