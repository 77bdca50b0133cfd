"""`/users/{subject}/sessions`: who sees and ends whose."""

from uuid import uuid4

import httpx
import pytest
from tokens.conftest import World

from authz.tokens.clients.client import CLIENT_CREDENTIALS, REFRESH_TOKEN
from support.token_service import assertion, claims_of


def log_in(world: World, subject: str, scope: str = "read sessions", **form: str) -> dict[str, str]:
    said = assertion(world.login, subject)
    answer = world.server.exchange(world.login.id, said, scope=scope, **form)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def ask(world: World, path: str, token: str | None, method: str = "GET") -> httpx.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return world.server.http.request(method, path, headers=headers)


@pytest.fixture
def user() -> str:
    return f"user-{uuid4().hex[:8]}"


def admin(world: World) -> str:
    answer = world.server.token(
        world.machine.id, grant_type=CLIENT_CREDENTIALS, scope="sessions:all"
    )
    return str(answer.json()["access_token"])


def test_a_user_sees_where_he_is_logged_in(world: World, user: str) -> None:
    log_in(world, user, device="laptop", address="2001:db8::7")
    phone = log_in(world, user, device="phone\x07", address="192.0.2.7")
    sessions = ask(world, f"/users/{user}/sessions", phone["access_token"]).json()["sessions"]
    assert [(one["device"], one["address"], one["current"]) for one in sessions] == [
        ("phone", "192.0.2.7", True),
        ("laptop", "2001:db8::7", False),
    ]
    first = sessions[0]
    assert first["id"] == claims_of(phone["access_token"])["sid"]
    assert first["issued"] <= first["refreshed"] < first["expires"]
    assert (first["client_id"], first["tokens"], first["refreshable"]) == (world.login.id, 1, True)
    assert phone["refresh_token"] not in str(sessions)
    for one in sessions:
        path = f"/users/{user}/sessions/{one['id']}"
        assert ask(world, path, phone["access_token"]).json() == one
    answer = ask(world, f"/users/{user}/sessions/another", phone["access_token"])
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


def test_ending_one_session_leaves_the_others(world: World, user: str) -> None:
    laptop, phone = log_in(world, user), log_in(world, user)
    sid = claims_of(laptop["access_token"])["sid"]
    path = f"/users/{user}/sessions/{sid}"
    assert ask(world, path, phone["access_token"], "DELETE").status_code == 204
    assert ask(world, path, phone["access_token"], "DELETE").json()["error"] == "not_found"
    assert ask(world, f"/users/{user}/sessions", laptop["access_token"]).status_code == 401
    answer = world.server.token(
        world.login.id, grant_type=REFRESH_TOKEN, refresh_token=laptop["refresh_token"]
    )
    assert answer.json()["error"] == "invalid_grant"
    listed = ask(world, f"/users/{user}/sessions", phone["access_token"]).json()["sessions"]
    assert len(listed) == 1


def test_an_administrator_s_client_ends_all_of_a_user(world: World, user: str) -> None:
    tokens = [log_in(world, user) for _ in range(2)]
    token = admin(world)
    assert len(ask(world, f"/users/{user}/sessions", token).json()["sessions"]) == 2
    assert ask(world, f"/users/{user}/sessions", token, "DELETE").json() == {"ended": 2}
    assert ask(world, f"/users/{user}/sessions", token).json() == {"sessions": []}
    assert ask(world, f"/users/{user}/sessions", token, "DELETE").json() == {"ended": 0}
    for one in tokens:
        assert ask(world, f"/users/{user}/sessions", one["access_token"]).status_code == 401


def test_a_subject_may_have_a_slash_in_it(world: World) -> None:
    subject = f"tenant/{uuid4().hex[:8]}|7"
    token = log_in(world, subject)["access_token"]
    quoted = subject.replace("/", "%2F").replace("|", "%7C")
    assert len(ask(world, f"/users/{quoted}/sessions", token).json()["sessions"]) == 1


def test_who_may_not_is_told_what_is_missing(world: World, user: str) -> None:
    """RFC 6750 section 3.1."""
    path = f"/users/{user}/sessions"
    own = log_in(world, user)
    plain = log_in(world, user, scope="read")["access_token"]
    other = log_in(world, f"{user}-2")["access_token"]
    machine = world.server.token(
        world.machine.id, grant_type=CLIENT_CREDENTIALS, scope="read"
    ).json()["access_token"]
    cases = [
        (None, 401, "invalid_token"),
        ("no token", 401, "invalid_token"),
        (own["refresh_token"], 401, "invalid_token"),
        (own["access_token"][:-4] + "AAAA", 401, "invalid_token"),
        (plain, 403, "insufficient_scope"),
        (other, 403, "insufficient_scope"),
        (machine, 403, "insufficient_scope"),
    ]
    for token, status, error in cases:
        for method in ("GET", "DELETE"):
            answer = ask(world, path, token, method)
            assert (answer.status_code, answer.json()["error"]) == (status, error), token
            assert error in answer.headers["www-authenticate"]
    assert ask(world, path, own["access_token"]).status_code == 200
