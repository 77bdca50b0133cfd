"""The token service as people run it: `python -m authz tokens --config FILE`, and its clients."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx
import jwt
import yaml
from prometheus_client.parser import text_string_to_metric_families

from authz.revocation.open import open_store
from authz.revocation.redis.store import RedisStore
from authz.settings import IssuerlessSettings, load_settings
from authz.tokens.clients.client import CLIENT_CREDENTIALS, REFRESH_TOKEN, TOKEN_EXCHANGE, Client
from authz.tokens.clients.client import Secret as StoredSecret
from authz.tokens.clients.secret import SecretHasher
from authz.tokens.clients.store import RedisClients
from support.jwks import PrivateKey, ec_key, jwk, pem
from support.ports import LOOPBACK, free_port
from support.process import ChildProcess

ISSUER = "https://login.example"
SECRET = "a-secret-of-a-test-client-which-is-no-secret"
LOGIN_KID = "login-1"

NO_LIMITS: dict[str, Any] = dict.fromkeys(
    f"{what}_{who}"
    for what in ("issue", "refresh", "failures")
    for who in ("client", "user", "address")
)
"""For `tokens.limits`: one server answers a module's worth of tests, all from one address."""

FORM = {"content-type": "application/x-www-form-urlencoded"}


class TokenServer:
    """One token service. `tokens` are settings of that section beside what a test needs anyway."""

    def __init__(
        self,
        folder: Path,
        store_url: str,
        tokens: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.http_port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.signing_file = folder / "signing.json"
        self.settings: dict[str, Any] = {
            "store": {"url": store_url},
            "drain_timeout": "500ms",
            "tokens": {
                "issuer": ISSUER,
                "audiences": ["api", "billing"],
                "signing": {"key_file": str(self.signing_file), "algorithm": "ES256"},
                "listen": f"{LOOPBACK}:{self.port}",
                "http_listen": f"{LOOPBACK}:{self.http_port}",
                "limits": NO_LIMITS,
                **(tokens or {}),
            },
            **settings,
        }
        self.config = folder / "tokens.yaml"
        self.write_config()
        self.process = ChildProcess(
            [sys.executable, "-m", "authz", "tokens", "--config", self.config],
            log=folder / "tokens.log",
            env={"PYTHONWARNINGS": "error"},
        )
        self.http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)

    def write_config(self) -> None:
        """Write `settings` to the file again, for the next start."""
        self.config.write_text(yaml.safe_dump(self.settings))

    def start(self) -> Self:
        if not self.signing_file.exists():
            write_signing_key(self.signing_file)
        try:
            self.process.start(self.is_ready)
        except BaseException:
            self.close()
            raise
        return self

    def is_ready(self) -> bool:
        try:
            return self.admin("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def admin(self, path: str) -> httpx.Response:
        """GET from `tokens.http_listen`."""
        return httpx.get(f"http://{LOOPBACK}:{self.http_port}{path}", timeout=5, trust_env=False)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.admin("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def add(self, client: Client) -> None:
        """Put a client into the store."""
        add_client(self.config, client)

    def token(self, client: str, secret: str | None = SECRET, **form: Any) -> httpx.Response:
        """Ask the token endpoint."""
        who = {"client_id": client} | ({} if secret is None else {"client_secret": secret})
        return self.http.post("/oauth2/token", data={**who, **form})

    def exchange(
        self, client: str, subject_token: str, secret: str | None = SECRET, **form: Any
    ) -> httpx.Response:
        """Log in a user with an assertion."""
        given = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": subject_token,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            **form,
        }
        return self.token(client, secret, **given)

    def restart(self) -> None:
        """End it, and start it again on the same addresses."""
        self.process.stop()
        self.process.start(self.is_ready)

    def stop(self) -> int:
        code = self.process.stop()
        self.close()
        return code

    def close(self) -> None:
        self.http.close()
        self.process.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def write_signing_key(path: Path) -> None:
    """A private JWK Set, made without `authz.keys`."""
    algorithm = jwt.get_algorithm_by_name("ES256")
    key = {**algorithm.to_jwk(ec_key("tokens"), as_dict=True), "kid": "sign-1", "alg": "ES256"}
    path.write_text(json.dumps({"keys": [key]}))
    path.chmod(0o600)


def new_client(
    name: str = "client",
    *grants: str,
    secret: str | None = SECRET,
    scopes: Sequence[str] = ("read", "write"),
    **more: Any,
) -> Client:
    """A client with a name of its own, and a secret unless that is None."""
    secrets = () if secret is None else (stored(secret),)
    return Client(
        id=f"{name}-{uuid4().hex[:8]}",
        created=time.time(),
        grants=grants or (CLIENT_CREDENTIALS,),
        scopes=tuple(scopes),
        secrets=secrets,
        **more,
    ).check()


def login_service(name: str = "login", **more: Any) -> Client:
    """A client that may say who its users are, with `login_key()`, and refresh for them."""
    keys = (jwk(login_key(), LOGIN_KID, alg="ES256"),)
    more = {"may_exchange": True, "keys": keys, **more}
    return new_client(name, TOKEN_EXCHANGE, REFRESH_TOKEN, **more)


def app(name: str = "app", **more: Any) -> Client:
    """A public client: it exchanges what a login service gave it, and refreshes."""
    return new_client(name, TOKEN_EXCHANGE, REFRESH_TOKEN, secret=None, **more)


def login_key() -> PrivateKey:
    return ec_key("login")


def assertion(service: Client, subject: str, *, kid: str = LOGIN_KID, **claims: Any) -> str:
    """What a login service signs of its user. A claim that is None is left out."""
    now = int(time.time())
    said = {
        "iss": service.id,
        "sub": subject,
        "aud": ISSUER,
        "iat": now,
        "exp": now + 60,
        "jti": uuid4().hex,
        **claims,
    }
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(said, pem(login_key()), algorithm="ES256", headers={"kid": kid})


def stored(secret: str) -> StoredSecret:
    hasher = SecretHasher()
    try:
        return StoredSecret(hasher.hash(secret), time.time())
    finally:
        hasher.close()


def add_client(config: Path, client: Client) -> None:
    """Write a client's record as `authz clients add` does, without its start of half a second."""
    settings = load_settings(config, IssuerlessSettings)

    async def write() -> None:
        store = open_store(settings)
        assert isinstance(store, RedisStore)
        try:
            await RedisClients(store.scripts, store.nodes, settings.store.buckets).add(client)
        finally:
            await store.aclose()

    asyncio.run(write())


def claims_of(token: str) -> dict[str, Any]:
    """Unverified."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims
