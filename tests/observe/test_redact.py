"""What must not leave the process is masked."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from authz.observe.redact import MASK, is_secret_name, redact, redact_text
from authz.revocation.record import user_digest
from authz.tokens.refresh import RefreshToken

SECRET = "0123456789abcdef0123456789abcdef"
REFRESH_TOKEN = RefreshToken(3, user_digest("i", "ann"), b"f" * 16, b"s" * 32).dump()
TOKEN = jwt.encode({"sub": "ann", "iss": "https://issuer.example"}, SECRET, "HS256")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (TOKEN, MASK),
        (f"Bearer {TOKEN}", f"Bearer {MASK}"),
        (f"cookie __Host-access={TOKEN}; theme=dark", f"cookie __Host-access={MASK}; theme=dark"),
        (f"/reset/{TOKEN}/done", f"/reset/{MASK}/done"),
        (f"session-{TOKEN}", f"session-{MASK}"),
        (TOKEN.rpartition(".")[0], MASK),
        (f"two: {TOKEN}, {TOKEN}", f"two: {MASK}, {MASK}"),
        ("redis://ann:hunter2@127.0.0.1:7001/0", f"redis://{MASK}@127.0.0.1:7001/0"),
        ("rediss+cluster://:hunter2@a:1,b:2", f"rediss+cluster://{MASK}@a:1,b:2"),
        (f"refresh_token={REFRESH_TOKEN}&scope=read", f"refresh_token={MASK}&scope=read"),
        ("token hvs.CAESIJ0123456789abcdefghij was", f"token {MASK} was"),
        ("token s.0123456789abcdefghijABCD was", f"token {MASK} was"),
    ],
)
def test_a_secret_in_a_text_is_masked_and_the_rest_stays(text: str, masked: str) -> None:
    assert redact_text(text) == masked


@pytest.mark.parametrize(
    "header",
    ['{"alg":"RS256"}', '{ "alg": "RS256" }', '{\n  "alg": "RS256"\n}', '{\r\n\t"alg": "RS256"}'],
)
def test_a_token_is_recognised_however_its_header_is_spaced(header: str) -> None:
    token = jwt.utils.base64url_encode(header.encode()).decode() + ".eyJzdWIiOiJhIn0.c2ln"
    assert redact_text(f"bad token {token}") == f"bad token {MASK}"


@pytest.mark.parametrize(
    "text",
    [
        "authz.default.svc.cluster.local:9191",
        "https://eyewitness-reports.example.org/news",
        "cache.revocations must be at least 1, see README.md",
        "mail to ann@example.org",
        "2027-01-15T08:00:00.250Z",
        "unix:/run/authz/authz.sock",
    ],
)
def test_ordinary_texts_are_left_alone(text: str) -> None:
    assert redact_text(text) == text


def test_a_private_key_is_masked_whole() -> None:
    pem = (
        ed25519.Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )
    assert redact_text(f"could not parse {pem}") == f"could not parse {MASK}\n"
    assert redact_text(f"cut short {pem[:60]}") == f"cut short {MASK}"


@pytest.mark.parametrize(
    "name",
    [
        "password", "Authorization", "set-cookie", "access_token", "token", "client_secret",
        "store.password", "private_key", "API-Key", "credentials",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert redact({name: "x"}) == {name: MASK}


@pytest.mark.parametrize("name", ["token_id", "tokens", "key_set_age", "kid", "cookies_seen", "by"])
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


def test_nested_values_are_masked_and_nothing_is_changed_in_place() -> None:
    value: dict[str, Any] = {"store": {"url": "redis://u:p@h", "password": "p"}, "seen": [TOKEN, 3]}
    before = json.dumps(value)
    assert redact(value) == {
        "store": {"url": f"redis://{MASK}@h", "password": MASK},
        "seen": [MASK, 3],
    }
    assert json.dumps(value) == before


def test_what_is_nested_too_deep_is_masked_whole() -> None:
    value: Any = SECRET
    for _ in range(1000):
        value = {"inner": value}
    assert SECRET not in json.dumps(redact(value))


@given(st.text(alphabet="abcXYZ019-_.:/@ ", max_size=40), st.text(" ,;'\"/=:", max_size=3))
def test_a_token_is_found_wherever_it_stands(before: str, after: str) -> None:
    assert TOKEN[40:60] not in redact_text(before + TOKEN + after)
