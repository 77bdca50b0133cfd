"""A login service as the demo has one: it says who its users are, and gets tokens for them.

What it does in place of asking for a password is sign an assertion: a JWT about the user, with a
key that is registered for it. That is the word by which the token service issues (RFC 8693).
"""

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from authz.cli.errors import CommandError

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ASSERTION_LIFETIME = 60
"""Seconds: it is used at once, and only once."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the token service answered."""

    status: int
    body: dict[str, Any]

    @property
    def access_token(self) -> str:
        return str(self.body.get("access_token", ""))

    @property
    def refresh_token(self) -> str:
        return str(self.body.get("refresh_token", ""))

    def __str__(self) -> str:
        """Without a token."""
        if self.status == httpx.codes.OK and self.refresh_token:
            lifetime = self.body.get("expires_in")
            return f"200, an access token for {lifetime} s and a refresh token"
        said = [self.body.get(name) for name in ("error", "error_description")]
        return f"{self.status} {': '.join(str(one) for one in said if one)}".strip()


class LoginService:
    """A client of the token service that may say whose token it wants."""

    def __init__(self, client_id: str, secret: str, key: Path, *, url: str, issuer: str) -> None:
        """`key`: a private key file; `url`: where the token service is; `issuer`: its name."""
        self._auth = httpx.BasicAuth(client_id, secret)
        self._id = client_id
        self._key = key
        self._url = url
        self._issuer = issuer

    def log_in(self, http: httpx.Client, subject: str, device: str) -> Given:
        """A session for this user, whom it has authenticated in its own way."""
        form = {
            "grant_type": EXCHANGE,
            "subject_token_type": JWT,
            "subject_token": self._assertion(subject),
            "device": device,
        }
        return self._post(http, form)

    def refresh(self, http: httpx.Client, refresh_token: str) -> Given:
        return self._post(http, {"grant_type": "refresh_token", "refresh_token": refresh_token})

    def sessions(self, http: httpx.Client, subject: str, access_token: str) -> Given:
        """Where the user is logged in, asked as the user."""
        return self._ask(http, "GET", subject, access_token)

    def log_out_everywhere(self, http: httpx.Client, subject: str, access_token: str) -> Given:
        return self._ask(http, "DELETE", subject, access_token)

    def _post(self, http: httpx.Client, form: dict[str, str]) -> Given:
        request = http.build_request("POST", f"{self._url}/oauth2/token", data=form)
        return _answer(http, request, self._auth)

    def _ask(self, http: httpx.Client, method: str, subject: str, access_token: str) -> Given:
        url = f"{self._url}/users/{subject}/sessions"
        headers = {"authorization": f"Bearer {access_token}"}
        return _answer(http, http.build_request(method, url, headers=headers), None)

    def _assertion(self, subject: str) -> str:
        from authz.keys.signing import load_signing_key, sign  # deferred: cryptography is heavy

        now = int(time.time())
        claims = {
            "iss": self._id,
            "sub": subject,
            "aud": self._issuer,
            "iat": now,
            "exp": now + ASSERTION_LIFETIME,
            "jti": str(uuid.uuid4()),
        }
        return sign(claims, load_signing_key(self._key, now))


def _answer(http: httpx.Client, request: httpx.Request, auth: httpx.Auth | None) -> Given:
    """CommandError: there was none."""
    try:
        response = http.send(request, auth=auth)
    except httpx.TransportError as error:
        raise CommandError(f"the token service did not answer: {error}") from None
    try:
        body = response.json()
    except ValueError:
        body = {}
    return Given(response.status_code, body if isinstance(body, dict) else {})
