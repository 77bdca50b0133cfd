"""The record of a client: nothing in it can be misread into fewer restrictions."""

import json
from dataclasses import replace

import pytest

from authz.tokens.clients.client import (
    CLIENT_CREDENTIALS,
    REFRESH_TOKEN,
    TOKEN_EXCHANGE,
    BadClientError,
    Client,
    Secret,
)

CLIENT = Client(
    id="billing",
    created=1_800_000_000.0,
    grants=(CLIENT_CREDENTIALS, REFRESH_TOKEN),
    scopes=("orders:read",),
    audiences=("api",),
    secrets=(Secret("$argon2id$one", 1_800_000_000.0),),
    lifetime=60.0,
)
NOW = 1_800_000_100.0


def test_a_record_is_read_back_as_it_was_written() -> None:
    login = replace(
        CLIENT, grants=(TOKEN_EXCHANGE,), may_exchange=True, keys=({"kty": "EC", "kid": "1"},)
    )
    for client in (CLIENT, login, replace(CLIENT, disabled=True)):
        assert Client.load(client.dump()) == client


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "no json",
        '{"id": "x"}',
        pytest.param(json.dumps({**json.loads(CLIENT.dump()), "more": 1}), id="a field more"),
        pytest.param(
            json.dumps({k: v for k, v in json.loads(CLIENT.dump()).items() if k != "disabled"}),
            id="a field less",
        ),
        pytest.param(json.dumps({**json.loads(CLIENT.dump()), "secrets": [{}]}), id="no secret"),
        pytest.param(json.dumps({**json.loads(CLIENT.dump()), "grants": []}), id="no grant"),
    ],
)
def test_what_is_no_whole_record_is_an_error(text: str) -> None:
    """A record of another version could lack the very field that restricts."""
    with pytest.raises(BadClientError):
        Client.load(text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": ""}, "id has"),
        ({"id": "a b"}, "id has"),
        ({"id": "x" * 257}, "id has"),
        ({"grants": ("password",)}, "grants"),
        ({"secrets": ()}, "public client has no secret"),
        ({"scopes": ("a b",)}, "scopes"),
        ({"scopes": ('"',)}, "scopes"),
        ({"audiences": ("ü",)}, "audiences"),
        ({"scopes": tuple(f"s{n}" for n in range(65))}, "64 at most"),
        ({"keys": ({},)}, "may_exchange"),
        ({"cookies": True}, "cookies"),
    ],
)
def test_a_client_that_makes_no_sense_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(BadClientError, match=says):
        replace(CLIENT, **change).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("right", ["may_exchange", "may_introspect"])
def test_a_public_client_may_neither_vouch_for_users_nor_look_at_tokens(right: str) -> None:
    public = replace(CLIENT, secrets=(), grants=(REFRESH_TOKEN,))
    assert public.check().public
    with pytest.raises(BadClientError):
        replace(public, **{right: True}).check()  # type: ignore[arg-type]


def test_a_rotated_secret_stays_good_for_the_overlap_alone() -> None:
    new = Secret("$argon2id$two", NOW)
    rotated = CLIENT.with_secret(new, overlap=60, now=NOW)
    assert [one.hash for one in rotated.usable_secrets(NOW)] == ["$argon2id$one", "$argon2id$two"]
    assert rotated.usable_secrets(NOW + 60) == [new]


def test_a_rotation_without_overlap_drops_the_secret_before() -> None:
    new = Secret("$argon2id$two", NOW)
    assert CLIENT.with_secret(new, overlap=0, now=NOW).secrets == (new,)


def test_a_second_rotation_does_not_prolong_the_first_secret() -> None:
    once = CLIENT.with_secret(Secret("$argon2id$two", NOW), overlap=60, now=NOW)
    twice = once.with_secret(Secret("$argon2id$three", NOW + 30), overlap=600, now=NOW + 30)
    assert [one.hash for one in twice.usable_secrets(NOW + 61)] == [
        "$argon2id$two",
        "$argon2id$three",
    ]


def test_a_client_shows_no_hash() -> None:
    assert "argon2id" not in repr(CLIENT)
