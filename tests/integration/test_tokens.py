"""The whole way, through the real Envoy: a token that the service gave is let through, refreshed,
and refused everywhere once it was taken back.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from integration.conftest import PATIENT_STORE, Deploy, Deployment

from authz.tokens.clients.client import REFRESH_TOKEN, TOKEN_EXCHANGE, Client
from support.cluster import ValkeyCluster
from support.dpop import ProofKey
from support.http import HeaderLines
from support.token_service import (
    ISSUER,
    TokenServer,
    app,
    assertion,
    login_service,
)
from support.waiting import wait_until


@dataclass(frozen=True)
class World:
    tokens: TokenServer
    deployment: Deployment
    login: Client
    app: Client

    def call(self, token: str) -> int:
        """The status that Envoy answers to a request with this token."""
        return self.deployment.get("/hello", token=token).status

    def is_refused(self, token: str) -> None:
        """Wait for it: a revocation is known to the sidecar within milliseconds."""
        wait_until(lambda: self.call(token) == 401, "the token is refused")

    def log_in(self, subject: str) -> dict[str, str]:
        said = assertion(self.login, subject, azp=self.app.id)
        answer = self.tokens.exchange(self.app.id, said, None)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def refresh(self, token: str) -> tuple[int, dict[str, str]]:
        answer = self.tokens.token(self.app.id, None, grant_type=REFRESH_TOKEN, refresh_token=token)
        return answer.status_code, answer.json()


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, deploy: Deploy, _shared_cluster: ValkeyCluster
) -> Iterator[World]:
    """The token service, and a sidecar that trusts it by its published keys."""
    store = {"url": _shared_cluster.url, "write_timeout": "1s", **PATIENT_STORE}
    folder = tmp_path_factory.mktemp("tokens")
    with TokenServer(folder, _shared_cluster.url, {"refresh_grace": 0}, store=store) as tokens:
        keys = {"jwks_url": f"{tokens.url}/.well-known/jwks.json"}
        trusted = {
            "issuer": ISSUER,
            "audiences": ["api"],
            "algorithms": ["ES256"],
            "keys": keys,
        }
        deployment = deploy({"issuers": [trusted]}, routes={})
        login, public = login_service(), app(scopes=("read", "sessions"))
        tokens.add(login)
        tokens.add(public)
        yield World(tokens, deployment, login, public)


def test_a_reused_refresh_token_takes_everything_of_its_session_along(world: World) -> None:
    """Log in by exchange, call, refresh, call; then somebody comes with the old refresh token: one
    of the two is a thief, so both are out (RFC 9700 section 4.14.2). Other sessions go on.
    """
    elsewhere = world.log_in("alice")
    first = world.log_in("alice")
    assert world.call(first["access_token"]) == 200
    status, second = world.refresh(first["refresh_token"])
    assert status == 200
    assert world.call(second["access_token"]) == 200
    assert world.call(first["access_token"]) == 200  # good until it expires

    status, body = world.refresh(first["refresh_token"])
    assert (status, body["error"]) == (400, "invalid_grant")
    for token in (first["access_token"], second["access_token"]):
        world.is_refused(token)
    assert world.refresh(second["refresh_token"])[0] == 400
    assert world.call(elsewhere["access_token"]) == 200
    assert world.refresh(elsewhere["refresh_token"])[0] == 200


def test_log_out_everywhere_refuses_all_that_was_issued_and_nothing_after(world: World) -> None:
    """Also a token that is issued in the very second of the log-out."""
    phone, laptop, other = world.log_in("bob"), world.log_in("bob"), world.log_in("carol")
    for one in (phone, laptop, other):
        assert world.call(one["access_token"]) == 200
    answer = world.tokens.http.delete(
        "/users/bob/sessions", headers={"authorization": f"Bearer {phone['access_token']}"}
    )
    assert answer.json() == {"ended": 2}
    again = world.log_in("bob")
    for one in (phone, laptop):
        world.is_refused(one["access_token"])
        assert world.refresh(one["refresh_token"])[0] == 400
    assert world.call(again["access_token"]) == 200
    assert world.call(other["access_token"]) == 200


def test_a_page_s_cookie_is_let_through_and_from_another_site_it_is_not(world: World) -> None:
    """What the token service puts into the browser is what the sidecar looks for."""
    page = app("page", scopes=("read",), cookies=True)
    world.tokens.add(page)
    said = assertion(world.login, "dora", azp=page.id)
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "client_id": page.id,
        "subject_token": said,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    }
    answer = world.tokens.http.post("/oauth2/token", data=form, headers={"origin": ISSUER})
    (cookie,) = (
        line.partition(";")[0]
        for line in answer.headers.get_list("set-cookie")
        if line.startswith("__Host-access=")
    )

    def call(method: str, site: str) -> int:
        headers = [("cookie", f"theme=dark; {cookie}"), ("sec-fetch-site", site)]
        return world.deployment.get("/hello", method=method, headers=headers).status

    assert call("GET", "cross-site") == 200  # a link from elsewhere
    assert call("POST", "same-origin") == 200
    assert call("POST", "cross-site") == 403


def test_with_one_session_too_many_the_oldest_is_logged_out(world: World) -> None:
    """Ten devices by default: with the eleventh, the first is refused everywhere."""
    devices = [world.log_in("erik") for _ in range(10)]
    assert [world.call(one["access_token"]) for one in devices] == [200] * 10
    devices.append(world.log_in("erik"))
    world.is_refused(devices[0]["access_token"])
    assert world.refresh(devices[0]["refresh_token"])[0] == 400
    assert [world.call(one["access_token"]) for one in devices[1:]] == [200] * 10


def test_a_token_that_was_asked_for_with_a_proof_passes_with_one_only(world: World) -> None:
    """The key to which the token service bound it is the one that the sidecar asks for."""
    key, endpoint = ProofKey(), f"{ISSUER}/oauth2/token"
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "client_id": world.app.id,
        "subject_token": assertion(world.login, "fay", azp=world.app.id),
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    }

    def ask(**form: str) -> dict[str, str]:
        proof = {"dpop": key.prove("POST", endpoint)}
        answer = world.tokens.http.post("/oauth2/token", data=form, headers=proof)
        assert answer.status_code == 200, answer.text
        assert answer.json()["token_type"] == "DPoP"
        return answer.json()  # type: ignore[no-any-return]

    first = ask(**form)
    again = {"grant_type": REFRESH_TOKEN, "client_id": world.app.id}
    second = ask(**again, refresh_token=first["refresh_token"])
    for token in (first["access_token"], second["access_token"]):
        proof = key.prove("GET", "http://app.example/hello", token)
        shown: HeaderLines = [("authorization", f"DPoP {token}"), ("dpop", proof)]
        assert world.deployment.get("/hello", headers=shown).status == 200
        replayed = world.deployment.get("/hello", headers=shown)
        assert (replayed.status, replayed.json()["reason"]) == (401, "proof_replayed")
        stolen = world.deployment.get("/hello", token=token)
        assert (stolen.status, stolen.json()["reason"]) == (401, "scheme_mismatch")
