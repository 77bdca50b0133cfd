"""What the service says of itself: RFC 8414, and the keys that its tokens are verified with."""

from typing import Any

from authz.tokens.clients.client import GRANTS
from authz.tokens.http.authentication import METHODS
from authz.tokens.http.parts import Parts


def metadata(parts: Parts) -> dict[str, Any]:
    """RFC 8414 section 2, and RFC 9449 section 5.1."""
    url = parts.paths.url
    with_secret = [method for method in METHODS if method != "none"]
    return {
        "issuer": parts.paths.issuer,
        "token_endpoint": url("/oauth2/token"),
        "token_endpoint_auth_methods_supported": list(METHODS),
        "revocation_endpoint": url("/oauth2/revoke"),
        "revocation_endpoint_auth_methods_supported": list(METHODS),
        "introspection_endpoint": url("/oauth2/introspect"),
        "introspection_endpoint_auth_methods_supported": with_secret,
        "jwks_uri": url("/.well-known/jwks.json"),
        "service_documentation": url("/docs"),
        "grant_types_supported": list(GRANTS),
        # Section 2 asks for it; there is no authorization endpoint, so there are none.
        "response_types_supported": [],
        "dpop_signing_alg_values_supported": list(parts.proofs.algorithms),
    }
