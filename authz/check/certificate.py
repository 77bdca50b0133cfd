"""A client's certificate as Envoy passes it on."""

import binascii
import hashlib
import re
from base64 import b64decode, urlsafe_b64encode
from functools import lru_cache
from urllib.parse import unquote_to_bytes

MAX_CERTIFICATE = 16_384
"""Characters of URL-encoded PEM. One of an RSA key of 4,096 bits has 3,000."""

CERTIFICATES_REMEMBERED = 1024
"""Thumbprints kept, each with the text it is of: 2 MB as a rule, 16 MB at most."""

_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)\n-----END CERTIFICATE-----\n?"
)


def certificate_thumbprint(encoded: str) -> str | None:
    """`x5t#S256` of RFC 8705 section 3.1: the SHA-256 of the DER form, in base64url, of one
    certificate in PEM and URL encoding. None: `encoded` isn't that. Whether the certificate is good
    is for Envoy to say.
    """
    # Here, since what is remembered is remembered with its text, and a client chooses its size.
    return None if len(encoded) > MAX_CERTIFICATE else _thumbprint(encoded)


@lru_cache(CERTIFICATES_REMEMBERED)
def _thumbprint(encoded: str) -> str | None:
    pem = _PEM.fullmatch(unquote_to_bytes(encoded))
    if pem is None:
        return None
    try:
        der = b64decode(pem[1].replace(b"\n", b""), validate=True)
    except binascii.Error:
        return None
    return urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
