"""The tokens of a load test: signed with RSA, or where it takes too many of them, with a secret."""

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from authz.keys.generate import generate_key
from authz.keys.jwk import public_part
from authz.keys.signing import sign, signing_key

ISSUER = "https://issuer.example"
"""Signs with RSA."""
SECRET_ISSUER = "https://secret.example"
"""Signs with a secret (HS256), which is fast enough for a million."""
AUDIENCE = "api"
TOKENS = 500
"""In a file, taken in turn."""
TOKEN_LIFETIME = 4 * 3600
"""Seconds: longer than any run."""
PADDING = "tenant-0123456789"
"""With this claim an RS256 token has about 690 bytes, as those of common identity providers."""
BETWEEN = 100
"""Signatures, about 50 ms, between two looks at whether to go on."""
SECRET_BYTES = 32
"""HS256 takes no less (RFC 7518 section 3.2)."""


def jwks_file(folder: Path) -> Path:
    """The public key of `ISSUER`."""
    return folder / "jwks.json"


def secret_file(folder: Path) -> Path:
    """The secret of `SECRET_ISSUER`."""
    return folder / "secret"


class Mint:
    """Keys, and files of tokens signed with them, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = signing_key(jwk := generate_key("rsa"))
        self.public = public_part(jwk)
        jwks_file(folder).write_text(json.dumps({"keys": [self.public]}))
        secret_file(folder).touch(mode=0o600)
        # Text: of the file's bytes a trailing newline would not count.
        secret_file(folder).write_text(secrets.token_hex(SECRET_BYTES))
        self._now = int(time.time())

    def make(self, name: str, count: int, go_on: Callable[[], None]) -> None:
        """The file `name` with `count` tokens, each of a user of its own. `go_on` may raise."""
        tokens = []
        for number in range(count):
            if number % BETWEEN == 0:
                go_on()
            tokens.append(sign(self._claims(f"{name}-{number:08}"), self._key))
        self.file(name).touch(mode=0o600)
        self.file(name).write_text("\n".join(tokens) + "\n")

    def _claims(self, who: str) -> dict[str, object]:
        return {
            "iss": ISSUER,
            "sub": f"user-{who}",
            "aud": AUDIENCE,
            "iat": self._now,
            "exp": self._now + TOKEN_LIFETIME,
            "jti": f"{self._now}-{who}",
            "scope": "read write",
            "tenant": PADDING,
        }

    def file(self, name: str) -> Path:
        return self._folder / f"{name}.tokens"

    def first(self, name: str) -> str:
        """The first token of a file."""
        with self.file(name).open(encoding="ascii") as lines:
            return lines.readline().strip()

    def template(self) -> dict[str, str]:
        """How to make tokens with the secret, for `sender.py`: each has the same length."""
        claims = self._claims("secret-%08d") | {"iss": SECRET_ISSUER}
        return {
            "claims": json.dumps(claims, separators=(",", ":")),
            "secret": str(secret_file(self._folder)),
        }
