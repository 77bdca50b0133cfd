"""Encrypted tokens: a JWS inside a JWE in compact form (RFC 7516, RFC 7519 section 5.2).

As with signatures the guards are ordered by cost: size and form, then the header, then the key by
its name, and only then the one private operation, which is joserfc's business. What comes out is
the text of a signed token and is believed in nothing: the verifier judges it like any other. One
level of nesting is read, and nothing is ever decompressed.

Anybody can encrypt to a published key. That a token was encrypted says that nobody on its way could
read it, and nothing about who made it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from authz.check.envelope import DecryptionKeys, Opened
from authz.check.jose import BadTokenError, json_object
from authz.check.verdict import Reason
from authz.keys.keyset import MAX_CANDIDATES, VerificationKey
from authz.settings import ENCRYPTION_ALGORITHMS

MAX_ENCRYPTED_BYTES = 8192
"""Bytes of an encrypted token's text, as many as of a plain one, for the same headers carry it. Of
them 683 are a key of RSA-4096, 300 to 500 the header, 40 the rest; base64 takes a quarter of what
is left, so that the token inside can have 5,000."""

MAX_HEADER_CHARACTERS = 1024
"""Of the first segment. One with a key of P-384 (`epk`), `kid`, `apu` and `apv` has about 500."""

MAX_KEY_CHARACTERS = 683
"""Of the second segment: 512 bytes, a key wrapped by RSA-4096."""

CONTENT_ENCRYPTION = "A256GCM"
"""The one `enc` (RFC 7518 section 5.3)."""

NESTED = "JWT"
"""`cty` of an encrypted token (RFC 7519 section 5.2), in capitals by recommendation."""

_COMPACT = re.compile(  # RFC 7516 section 7.1; 96 bits of IV, 128 of tag: RFC 7518 section 5.3
    rf"([A-Za-z0-9_-]{{1,{MAX_HEADER_CHARACTERS}}})\.([A-Za-z0-9_-]{{0,{MAX_KEY_CHARACTERS}}})"
    r"\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{22}"
)

_REGISTRY = jwe.JWERegistry(
    algorithms=[*ENCRYPTION_ALGORITHMS, CONTENT_ENCRYPTION],
    strict_check_header=False,  # parameters that nobody has to understand are ignored (section 4)
)


class Header(NamedTuple):
    """What the header says, in which nothing was found wrong. It has not been verified."""

    algorithm: str
    kid: str
    ephemeral: Any
    """`epk`, of any type."""


def read_header(token: str) -> Header:
    """BadTokenError: form, header or algorithms aren't such as any issuer here may use."""
    if len(token) > MAX_ENCRYPTED_BYTES:
        raise BadTokenError(Reason.TOKEN_TOO_LARGE)
    form = _COMPACT.fullmatch(token)
    if form is None:
        raise BadTokenError(Reason.TOKEN_MALFORMED)
    header = json_object(form[1])
    for name in ("crit", "zip"):
        # RFC 7516 section 4.1.13: we understand no extension. RFC 8725 section 3.6: compression
        # tells of what it packs, and megabytes can come out of one.
        if name in header:
            raise BadTokenError(Reason.HEADER_UNSUPPORTED, name)
    algorithm, content, kid = header.get("alg"), header.get("enc"), header.get("kid")
    if not (isinstance(algorithm, str) and isinstance(content, str)):
        raise BadTokenError(Reason.TOKEN_MALFORMED)
    inside = header.get("cty")
    if not isinstance(inside, str) or inside.upper() != NESTED:
        raise BadTokenError(Reason.TOKEN_MALFORMED, "cty")
    if algorithm not in ENCRYPTION_ALGORITHMS or content != CONTENT_ENCRYPTION:
        raise BadTokenError(Reason.ENCRYPTION_NOT_ALLOWED)
    if not isinstance(kid, str):
        raise BadTokenError(Reason.DECRYPTION_KEY_UNKNOWN)
    return Header(algorithm, kid, header.get("epk"))


class Opener:
    """Opens tokens with the keys of all issuers: whose token it is stands inside."""

    def __init__(self, rings: Mapping[str, DecryptionKeys]) -> None:
        """`rings`: the keys by issuer."""
        self._rings = tuple(rings.values())

    def open(self, token: str) -> Opened:
        """BadTokenError: it doesn't open. Which of a decryption's steps failed is not told, for
        that helps those only who guess (RFC 7516 section 11.5).
        """
        header = read_header(token)
        # Each once. More than one only where two issuers' files give keys the same name.
        candidates = tuple(dict.fromkeys(self._named(header)))
        if not 0 < len(candidates) <= MAX_CANDIDATES:
            raise BadTokenError(Reason.DECRYPTION_KEY_UNKNOWN)
        for key in candidates:
            inside = _decrypted(token, header, key)
            if inside is not None:
                return Opened(_text(inside), key)
        raise BadTokenError(Reason.DECRYPTION_FAILED)

    def _named(self, header: Header) -> Iterator[VerificationKey]:
        for ring in self._rings:
            if ring.keys is not None:
                yield from ring.keys.candidates(header.kid, header.algorithm)


def _decrypted(token: str, header: Header, key: VerificationKey) -> bytes | None:
    private = cast("RSAKey | ECKey", key.key)
    wrapped = token.split(".", 2)[1]
    if not (
        _is_wrapped_for(private, wrapped)
        if isinstance(private, RSAKey)
        else not wrapped and _is_on_curve_of(private, header.ephemeral)
    ):
        return None
    try:
        return jwe.decrypt_compact(token, private, registry=_REGISTRY).plaintext
    # joserfc checks what it is given in many places, and each has its own way to say no.
    except (JoseError, ValueError, TypeError, KeyError, AssertionError, UnsupportedAlgorithm):
        return None


def _text(inside: bytes) -> str:
    if not inside.isascii():
        raise BadTokenError(Reason.TOKEN_MALFORMED)
    return inside.decode("ascii")


def _is_wrapped_for(key: RSAKey, wrapped: str) -> bool:
    """RFC 8017 section 7.1.2: a ciphertext is as long as the modulus."""
    size = (key.public_key.key_size + 7) // 8
    return len(wrapped) == (size * 8 + 5) // 6


def _is_on_curve_of(key: ECKey, ephemeral: Any) -> bool:
    """RFC 7518 section 4.6.1.1: a public key of the same curve. That the point lies on it is
    looked at by `cryptography` as it is read.
    """
    return (
        isinstance(ephemeral, dict)
        and ephemeral.get("kty") == "EC"
        and ephemeral.get("crv") == key.curve_name
        and isinstance(ephemeral.get("x"), str)
        and isinstance(ephemeral.get("y"), str)
    )
