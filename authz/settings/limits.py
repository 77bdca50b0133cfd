"""Bounds that several parts of authz rest on."""

from typing import Literal

MAX_LEEWAY = 60.0
"""Seconds. A revocation outlives its token's `exp` by this much, so that no sidecar's leeway can
bring a revoked token back in its last seconds. The bound keeps the two in step."""

MAX_LIFETIME = 86400.0
"""Seconds. No token may live longer than a day, whatever an issuer's `max_lifetime` says."""

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "EdDSA", "HS256", "HS384", "HS512",
)  # fmt: skip
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "EdDSA", "HS256", "HS384", "HS512",
]  # fmt: skip

ENCRYPTION_ALGORITHMS = ("RSA-OAEP-256", "ECDH-ES")
EncryptionAlgorithm = Literal["RSA-OAEP-256", "ECDH-ES"]
"""How the key of an encrypted token is conveyed (RFC 7518 sections 4.3, 4.6). The content is always
A256GCM."""
