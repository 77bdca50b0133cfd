"""What issues tokens needs of its keys: one that signs now, and the set that others verify with.

Two steps, so that a token names the key that signs it: `current` gives the signer, whose `kid` goes
into the header, and its `sign` the signature over just that header. Where the key is in Vault, the
signing is a request over the network, hence the awaitables.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Protocol

from authz.keys.keyset import KeySet

ACCESS_TOKEN_TYPE = "at+jwt"  # noqa: S105  no secret
"""RFC 9068 section 2.1: the `typ` of a JWT access token."""


class SigningUnavailableError(Exception):
    """No token can be signed now. The text is one line: what is the case, and what to do. It holds
    no key material and no credential.
    """

    def __init__(self, text: str, *, retry_after: float) -> None:
        """`retry_after`: seconds after which another try may be worth it."""
        super().__init__(text)
        self.retry_after = retry_after


class Signer(Protocol):
    """One key that signs now."""

    @property
    def kid(self) -> str | None:
        """For the header. None: a secret, which has no name."""

    @property
    def algorithm(self) -> str:
        """For the header: a JWA name (RFC 7518 section 3.1, RFC 8037 section 3.1)."""

    async def sign(self, signing_input: bytes) -> bytes:
        """The signature as RFC 7515 wants it, not encoded: of ES256 R and S, 64 bytes (RFC 7518
        section 3.4). SigningUnavailableError: the key can't be used now.
        """


class SigningKeys(Protocol):
    """Where signers come from. `start` before anything else, `aclose` at the end."""

    async def start(self) -> None:
        """Read the keys, and follow them from then on. A source that can't be reached is no error
        here: `current` says so until it can. SettingsError: it can't be used as configured.
        """

    async def aclose(self) -> None:
        """Stop following."""

    async def current(self) -> Signer:
        """The key that signs now. SigningUnavailableError: there is none, or it isn't known."""

    def jwks(self) -> dict[str, Any]:
        """The public JWK Set (RFC 7517 section 5): the key that signs, those that will, and older
        ones whose tokens may still live. Without keys where a secret signs.

        SigningUnavailableError: none was ever read. An empty set would be taken at its word, and
        all tokens be refused.
        """

    def verification(self) -> KeySet:
        """What this service's own tokens are verified with: the keys of `jwks`, or the secret.
        SigningUnavailableError as there: nobody can say of a token that it is not ours.
        """

    async def refresh(self) -> None:
        """Read the keys anew now: somebody has changed them. Raises nothing."""

    def status(self) -> dict[str, Any]:
        """JSON-ready, without key material."""


async def sign_token(
    claims: Mapping[str, Any], signer: Signer, *, typ: str = ACCESS_TOKEN_TYPE
) -> str:
    """A JWT in compact form (RFC 7515 section 7.1) with these claims, none added.

    SigningUnavailableError as `Signer.sign`. TypeError: the claims are not JSON.
    """
    header = {"alg": signer.algorithm, "typ": typ}
    if signer.kid is not None:
        header["kid"] = signer.kid
    signing_input = b".".join(map(_segment, (header, claims)))
    signature = await signer.sign(signing_input)
    return f"{signing_input.decode()}.{_base64url(signature).decode()}"


def _segment(members: Mapping[str, Any]) -> bytes:
    return _base64url(json.dumps(dict(members), separators=(",", ":")).encode())


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
