"""Makes access tokens: claims, signature, and encryption where an audience wants it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from authz.check.jose import MAX_TOKEN_BYTES
from authz.keys.signer import SigningKeys, sign_token
from authz.revocation.record import token_digest
from authz.tokens.access import Span, access_claims
from authz.tokens.encryption import TokenTooLargeError
from authz.tokens.grant import Issued


@dataclass(frozen=True, slots=True)
class Minted:
    text: str = field(repr=False)
    jti: str
    tid: str
    """What a revocation calls it."""
    when: Span
    scopes: Sequence[str]
    cnf: Mapping[str, Any] | None

    def issued(
        self, now: float, sid: str | None = None, refresh_token: str | None = None
    ) -> Issued:
        """For the client."""
        return Issued(
            access_token=self.text,
            token_type="DPoP" if "jkt" in (self.cnf or {}) else "Bearer",
            expires_in=self.when.expires_at - int(now),
            scope=" ".join(self.scopes),
            jti=self.jti,
            sid=sid,
            refresh_token=refresh_token,
        )


class Mint:
    """Signs with the key that signs now."""

    def __init__(
        self,
        issuer: str,
        keys: SigningKeys,
        encrypt: Callable[[str, Sequence[str]], str] | None = None,
    ) -> None:
        self._issuer = issuer
        self._keys = keys
        self._encrypt = encrypt

    async def mint(
        self,
        when: Span,
        *,
        jti: str,
        subject: str,
        client_id: str,
        audiences: Sequence[str],
        scopes: Sequence[str],
        sid: str | None,
        auth_time: int | None,
        cnf: Mapping[str, Any] | None,
    ) -> Minted:
        """SigningUnavailableError: no key can sign now. TokenTooLargeError: no sidecar would take
        it. MixedAudiencesError: its audiences want it encrypted to different keys.
        """
        scopes = tuple(dict.fromkeys(scopes))  # each once, however often it was asked for
        claims = access_claims(
            when,
            issuer=self._issuer,
            subject=subject,
            client_id=client_id,
            audiences=audiences,
            scopes=scopes,
            jti=jti,
            sid=sid,
            auth_time=auth_time,
            cnf=cnf,
        )
        text = await sign_token(claims, await self._keys.current())
        if len(text) > MAX_TOKEN_BYTES:
            raise TokenTooLargeError
        if self._encrypt is not None:
            text = self._encrypt(text, audiences)
        return Minted(text, jti, token_digest(self._issuer, jti, b""), when, scopes, cnf)
