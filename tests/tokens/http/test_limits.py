"""Whoever asks too often is told when to come back, with Redis and without."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import httpx
import pytest

from authz.tokens.clients.client import CLIENT_CREDENTIALS, REFRESH_TOKEN, TOKEN_EXCHANGE, Client
from authz.tokens.refresh import RefreshToken
from support.token_service import (
    NO_LIMITS,
    SECRET,
    TokenServer,
    app,
    assertion,
    login_service,
    new_client,
)
from support.valkey import ValkeyServer
from support.waiting import wait_until

LIMITS = {
    **NO_LIMITS,
    "issue_client": "5/hour",
    "issue_user": "2/hour",
    "issue_address": "20/hour",
    "refresh_client": "12/hour",
    "refresh_user": "3/hour",
    "refresh_address": "20/hour",
    "failures_client": "3/hour",
    "failures_user": "2/hour",
    "failures_address": "8/hour",
}


@dataclass(frozen=True)
class Limited:
    server: TokenServer
    valkey: ValkeyServer

    def add(self, client: Client) -> Client:
        self.server.add(client)
        return client

    def token(self, client: Client, secret: str | None = None, address: str = "") -> httpx.Response:
        """client_credentials, from this address."""
        form = {"grant_type": CLIENT_CREDENTIALS, "client_id": client.id}
        given = {} if secret is None else {"client_secret": secret}
        headers = {"x-forwarded-for": address} if address else {}
        return self.server.http.post("/oauth2/token", data={**form, **given}, headers=headers)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    folder = tmp_path_factory.mktemp("limited")
    tokens = {"limits": LIMITS, "trusted_hops": 1}
    with (
        ValkeyServer(folder / "valkey") as valkey,
        TokenServer(
            folder, valkey.url, tokens, store={"url": valkey.url, "write_timeout": "500ms"}
        ) as server,
    ):
        yield Limited(server, valkey)


_addresses = (f"10.0.0.{n}" for n in range(1, 255))


@pytest.fixture(autouse=True)
def _from_an_address_of_its_own(limited: Limited) -> None:
    limited.server.http.headers["x-forwarded-for"] = next(_addresses)


def assert_limited(answer: httpx.Response, what: str) -> None:
    assert answer.status_code == 429, answer.text
    assert answer.json()["error"] == "too_many_requests"
    assert what in answer.json()["error_description"]
    assert 1 <= int(answer.headers["retry-after"]) <= 3600


def test_a_client_gets_so_many_tokens(limited: Limited) -> None:
    client, other = limited.add(new_client()), limited.add(new_client())
    for _ in range(5):
        assert limited.token(client, SECRET).status_code == 200
    assert_limited(limited.token(client, SECRET), "client")
    assert limited.token(other, SECRET).status_code == 200


def test_a_user_logs_in_and_refreshes_so_often(limited: Limited) -> None:
    login, public = limited.add(login_service()), limited.add(app())
    given = {}
    for _ in range(2):
        said = assertion(login, "alice", azp=public.id)
        answer = limited.server.exchange(public.id, said, None)
        assert answer.status_code == 200, answer.text
        given = answer.json()
    said = assertion(login, "alice", azp=public.id)
    for _ in range(2):  # it wasn't used up by being refused
        assert_limited(limited.server.exchange(public.id, said, None), "user")
    for _ in range(3):
        form = {"grant_type": REFRESH_TOKEN, "refresh_token": given["refresh_token"]}
        answer = limited.server.token(public.id, None, **form)
        assert answer.status_code == 200, answer.text
        given = answer.json()
    form = {"grant_type": REFRESH_TOKEN, "refresh_token": given["refresh_token"]}
    assert_limited(limited.server.token(public.id, None, **form), "user")


@pytest.mark.parametrize(
    ("grant", "allowed", "what"),
    [
        (CLIENT_CREDENTIALS, 20, "address"),
        (REFRESH_TOKEN, 12, "client"),
        (REFRESH_TOKEN, 20, "address"),
    ],
)
def test_what_is_refused_for_itself_counts_as_well(
    limited: Limited, grant: str, allowed: int, what: str
) -> None:
    """Of an address, whichever client it names; of a client, from wherever it asks."""
    clients = [limited.add(login_service()) for _ in range(1 if what == "client" else 2)]
    other = {"x-forwarded-for": "198.51.100.50"}

    def ask(n: int, headers: dict[str, str] | None = None) -> httpx.Response:
        client = clients[n % len(clients)]
        form = {"grant_type": grant, "client_id": client.id, "client_secret": SECRET}
        return limited.server.http.post("/oauth2/token", data=form, headers=headers)

    assert {ask(n).status_code for n in range(allowed)} == {400}
    assert_limited(ask(0), what)
    assert ask(0, other).status_code == (429 if what == "client" else 400)


def made_up(token: str) -> str:
    """A refresh token of the same user, as anybody can write it who knows the user's name."""
    shown = RefreshToken.read(token)
    assert shown is not None
    return replace(shown, family=b"f" * 16, secret=b"s" * 32).dump()


def test_nobody_can_use_up_what_another_may_do(limited: Limited) -> None:
    """Made-up refresh tokens count for the failures alone, and lock out neither user nor client."""
    login, public = limited.add(login_service()), limited.add(app())
    given = limited.server.exchange(public.id, assertion(login, "bob", azp=public.id), None).json()
    form = {"grant_type": REFRESH_TOKEN, "refresh_token": made_up(given["refresh_token"])}
    answers = [limited.server.token(public.id, None, **form) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [400, 400, 429, 429]
    assert_limited(answers[-1], "user")
    form = {"grant_type": REFRESH_TOKEN, "refresh_token": given["refresh_token"]}
    assert limited.server.token(public.id, None, **form).status_code == 200
    for _ in range(6):
        refused = limited.server.exchange(public.id, "x.y.z", None)
        assert refused.status_code in {400, 429}
    said = assertion(login, "carol", azp=public.id)
    headers = {"x-forwarded-for": "198.51.100.99"}
    good = {
        "grant_type": TOKEN_EXCHANGE,
        "client_id": public.id,
        "subject_token": said,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    }
    assert limited.server.http.post("/oauth2/token", data=good, headers=headers).is_success


def test_whoever_guesses_secrets_is_stopped_and_its_owner_is_not(limited: Limited) -> None:
    """Or anybody could lock a client out by naming it."""
    known, new = limited.add(new_client()), limited.add(new_client())
    assert limited.token(known, SECRET, "192.0.2.1").status_code == 200
    for client, guessers in ((known, "192.0.2.10"), (new, "192.0.2.11")):
        for _ in range(3):
            assert limited.token(client, "guess", guessers).status_code == 401
        assert_limited(limited.token(client, "guess", guessers), "client")
        assert limited.token(client, SECRET, "192.0.2.1").status_code == 200
    assert limited.token(known, SECRET, "192.0.2.10").status_code == 200  # it is remembered
    assert_limited(limited.token(new, SECRET[:-1], "192.0.2.11"), "client")


def test_an_address_that_guesses_is_stopped_whomever_it_names(limited: Limited) -> None:
    """By what the trusted proxy says, not by what the client says. An IPv6 site counts as one."""
    refused = limited.server.metric("authz_tokens_limited_total", limit="failures_address")
    for n in range(8):
        forged = f"{n}.{n}.{n}.{n}, 2001:db8:0:1::{n}"
        assert limited.token(new_client(f"none-{n}"), "guess", forged).status_code == 401
    assert_limited(limited.token(new_client("none"), "guess", "2001:db8:0:1:f::"), "address")
    assert limited.token(new_client("none"), "guess", "2001:db8:0:2::1").status_code == 401
    after = limited.server.metric("authz_tokens_limited_total", limit="failures_address")
    assert after == refused + 1


def test_without_redis_all_is_still_limited_and_nothing_is_issued(limited: Limited) -> None:
    """503 with Retry-After for what needs the store, 429 for whoever asks too often."""
    client = limited.add(new_client())
    limited.valkey.kill()
    with ThreadPoolExecutor(22) as pool:
        asked = [pool.submit(limited.token, client, SECRET, "198.51.100.7") for _ in range(22)]
        answers = sorted((one.result() for one in asked), key=lambda answer: answer.status_code)
    for answer in answers[:2]:
        assert_limited(answer, "address")
    for answer in answers[2:]:
        assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert limited.server.metric("authz_tokens_limits_shared") == 0
    assert limited.server.metric("authz_tokens_errors_total", error="store") >= 1
    assert limited.server.admin("/readyz").status_code == 200
    assert limited.server.http.get("/.well-known/jwks.json").json()["keys"]
    limited.valkey.restart()

    def counted_in_redis() -> bool:
        limited.token(client, SECRET, "198.51.100.8")
        return limited.server.metric("authz_tokens_limits_shared") == 1

    wait_until(counted_in_redis, "requests are counted in Redis again")
