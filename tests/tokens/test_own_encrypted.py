"""Tokens that were issued encrypted, and come back to be looked at, used and revoked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.tokens.clients.client import CLIENT_CREDENTIALS, Client
from support.grpc import status_of
from support.jwe import encrypt, private_jwk
from support.jwks import claims, ec_key, jwk, jwks, sign
from support.sidecar import Sidecar
from support.token_service import ISSUER, TokenServer, assertion, login_service, new_client
from support.valkey import ValkeyServer
from support.waiting import wait_until

KEY = ec_key("billing")
CONFIDENTIAL = {"audience": "billing"}
IDP = "https://idp.example"
"""An identity provider that encrypts to the same key."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the key of `billing`, both halves."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "private.json").write_text(json.dumps({"keys": [private_jwk(KEY, "billing")]}))
    (folder / "public.json").write_text(jwks(jwk(KEY, "billing", use="enc")))
    (folder / "tokens.json").write_text(jwks(jwk(ec_key("tokens"), "sign-1")))
    return folder


def trusting(folder: Path) -> dict[str, Any]:
    """The issuer's settings of whoever has the private key."""
    return {
        "issuer": ISSUER,
        "audiences": ["api", "billing"],
        "algorithms": ["ES256"],
        "keys": {"jwks_file": str(folder / "tokens.json")},
        "decryption": {"key_file": str(folder / "private.json")},
    }


def served(folder: Path, store: ValkeyServer, name: str, **settings: Any) -> TokenServer:
    tokens = {
        "encryption": [{"audience": "billing", "jwks_file": str(folder / "public.json")}],
        "exchange": {"issuers": [{**trusting(folder), "issuer": IDP, "subject_prefix": "idp|"}]},
    }
    return TokenServer(folder / name, store.url, tokens, **settings)


@pytest.fixture(scope="module")
def reading(folder: Path, store: ValkeyServer) -> Iterator[TokenServer]:
    """A service that has the private key."""
    with served(folder, store, "reading", issuers=[trusting(folder)]) as server:
        yield server


@pytest.fixture(scope="module")
def blind(folder: Path, store: ValkeyServer) -> Iterator[TokenServer]:
    """One that has not, on the same store."""
    with served(folder, store, "blind") as server:
        yield server


@pytest.fixture(scope="module")
def sidecar(folder: Path, store: ValkeyServer) -> Iterator[Sidecar]:
    settings = {"store": {"url": store.url, "timeout": "2s"}, "issuers": [trusting(folder)]}
    with Sidecar(folder / "sidecar", settings) as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def login(blind: TokenServer) -> Client:
    client = login_service(scopes=("read", "sessions"))
    blind.add(client)
    return client


def log_in(server: TokenServer, login: Client, subject: str, **form: Any) -> dict[str, Any]:
    answer = server.exchange(login.id, assertion(login, subject), **{**CONFIDENTIAL, **form})
    assert answer.status_code == 200, answer.text
    given: dict[str, Any] = answer.json()
    return given


def revoke(server: TokenServer, login: Client, token: str) -> tuple[int, str]:
    form = {"client_id": login.id, "client_secret": "a-secret-of-a-test-client-which-is-no-secret"}
    answer = server.http.post("/oauth2/revoke", data={**form, "token": token})
    return answer.status_code, answer.json().get("error", "")


def test_an_audience_gets_its_tokens_encrypted_and_its_sidecar_reads_them(
    blind: TokenServer, sidecar: Sidecar, login: Client
) -> None:
    """After a refresh as well; those of other audiences are as they were."""
    given = log_in(blind, login, "ann")
    refreshed = blind.token(
        login.id, grant_type="refresh_token", refresh_token=given["refresh_token"]
    ).json()
    for token in (given["access_token"], refreshed["access_token"]):
        assert token.count(".") == 4
        assert status_of(sidecar.client.check(token=token)) == 200
    assert log_in(blind, login, "ann", audience="api")["access_token"].count(".") == 2


def test_audiences_that_want_different_things_get_no_token_in_common(blind: TokenServer) -> None:
    machine = new_client("machine")
    blind.add(machine)
    answer = blind.token(machine.id, grant_type=CLIENT_CREDENTIALS, audience=["api", "billing"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


def test_a_token_that_cannot_be_read_is_not_said_to_be_revoked(
    blind: TokenServer, sidecar: Sidecar, login: Client
) -> None:
    """RFC 7009 section 2.2.1. Its refresh token ends it all the same."""
    given = log_in(blind, login, "ben")
    assert revoke(blind, login, given["access_token"]) == (400, "unsupported_token_type")
    assert status_of(sidecar.client.check(token=given["access_token"])) == 200
    assert revoke(blind, login, given["refresh_token"]) == (200, "")
    wait_until(
        lambda: status_of(sidecar.client.check(token=given["access_token"])) == 401, "it is over"
    )


def test_who_has_the_key_revokes_and_lists_by_the_token_itself(
    reading: TokenServer, sidecar: Sidecar, login: Client
) -> None:
    given = log_in(reading, login, "cay")
    token = given["access_token"]
    own = {"authorization": f"Bearer {token}"}
    sessions = reading.http.get("/users/cay/sessions", headers=own).json()["sessions"]
    assert [one["current"] for one in sessions] == [True]
    assert revoke(reading, login, token) == (200, "")
    wait_until(lambda: status_of(sidecar.client.check(token=token)) == 401, "it is over")
    assert reading.http.get("/users/cay/sessions", headers=own).status_code == 401


def test_what_is_encrypted_to_a_stranger_is_not_said_to_be_revoked_either(
    reading: TokenServer, login: Client
) -> None:
    """It may be a live token of an audience whose key isn't here."""
    foreign = encrypt("a.b.c", ec_key("stranger"), kid="stranger")
    assert revoke(reading, login, foreign) == (400, "unsupported_token_type")
    assert revoke(reading, login, encrypt("a.b.c", KEY, kid="billing")) == (200, "")


def test_a_login_service_may_bring_an_encrypted_token_of_a_trusted_issuer(
    reading: TokenServer, login: Client
) -> None:
    """An identity provider's ID tokens may be encrypted (OpenID Connect Core section 10.2)."""
    said = sign(claims(iss=IDP), ec_key("tokens"), kid="sign-1")
    kind = "urn:ietf:params:oauth:token-type:id_token"
    for text, status in (
        (encrypt(said, KEY, kid="billing"), 200),
        (encrypt(said, ec_key("stranger"), kid="billing"), 400),
    ):
        answer = reading.exchange(login.id, text, subject_token_type=kind, scope="read")
        assert answer.status_code == status, answer.text
