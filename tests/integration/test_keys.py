"""Keys that change while the sidecar runs, and issuers of every kind side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import StartEnvoy, StartSidecar
from keys.origin import Answer, Origin

from support import http
from support.grpc import status_of
from support.jwks import (
    AUDIENCE,
    ISSUER,
    PrivateKey,
    claims,
    ec_key,
    ed25519_key,
    jwk,
    jwks,
    rsa_key,
    sign,
)
from support.sidecar import Sidecar
from support.waiting import wait_until

OLD, NEW = rsa_key("old"), rsa_key("new")
SECRET = b"0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment of whoever runs the tests would stand before loopback."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def issuer(keys: dict[str, Any], name: str = ISSUER, *algorithms: str) -> dict[str, Any]:
    return {
        "issuer": name,
        "audiences": [AUDIENCE],
        "algorithms": list(algorithms or ("RS256",)),
        "keys": keys,
    }


def token(key: PrivateKey | bytes, kid: str | None, **options: Any) -> str:
    alg = options.pop("alg", None)
    return sign(claims(**options), key, kid=kid, alg=alg)


def document(*named: str) -> dict[str, Any]:
    keys = {"old": OLD, "new": NEW}
    return {"keys": [jwk(keys[name], name) for name in named]}


def check(sidecar: Sidecar, text: str) -> tuple[int, str]:
    """Status, and the reason as the metadata has it."""
    response = sidecar.client.check(token=text)
    assert response.dynamic_metadata is not None
    return status_of(response), str(response.dynamic_metadata.to_dict()["reason"])


OK = (200, "ok")
KEY_UNKNOWN = (401, "key_unknown")


def test_a_rotation_at_a_url_is_followed_without_a_restart(
    start_sidecar: StartSidecar, origin: Origin
) -> None:
    """The first token of the new key has the keys fetched. After that, unknown keys don't for a
    while: anybody can send them.
    """
    url = origin.put("/jwks.json", document("old"))
    sidecar = start_sidecar({"issuers": [issuer({"jwks_url": url})]})
    old, new = token(OLD, "old"), token(NEW, "new")
    assert check(sidecar, old) == OK
    assert origin.asked == ["/jwks.json"]

    origin.put("/jwks.json", document("new", "old"))
    wait_until(lambda: check(sidecar, new) == OK, "the new key is known")
    assert check(sidecar, old) == OK
    assert origin.asked == ["/jwks.json"] * 2

    for number in range(20):
        assert check(sidecar, token(rsa_key("attacker"), f"evil-{number}")) == KEY_UNKNOWN
    assert origin.asked == ["/jwks.json"] * 2

    origin.pages["/jwks.json"] = Answer(status=500)
    sidecar.reload()
    wait_until(
        lambda: sidecar.metric("authz_key_set_failing", issuer=ISSUER) == 1, "the failure shows"
    )
    assert check(sidecar, new) == OK, "the last good set is kept"

    origin.put("/jwks.json", document("new"))
    sidecar.reload()
    wait_until(lambda: check(sidecar, old) == KEY_UNKNOWN, "SIGHUP: the old key is gone")
    assert check(sidecar, new) == OK
    assert sidecar.metric("authz_key_set_failing", issuer=ISSUER) == 0


def test_a_key_taken_out_of_a_file_takes_its_cached_tokens_along(
    start_sidecar: StartSidecar, start_envoy: StartEnvoy, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(jwks(*document("old", "new")["keys"]))
    sidecar = start_sidecar({"issuers": [issuer({"jwks_file": str(path)})]})
    envoy = start_envoy(sidecar.socket)
    old, new = token(OLD, "old"), token(NEW, "new")
    for text in (old, old, new):
        assert http.request(envoy.port, token=text).status == 200
    assert sidecar.status()["tokens"]["cached"] == 2

    path.write_text(jwks(*document("new")["keys"]))
    wait_until(
        lambda: http.request(envoy.port, token=old).status == 401, "the change is seen by itself"
    )
    assert http.request(envoy.port, token=old).json()["reason"] == "key_unknown"
    assert http.request(envoy.port, token=new).status == 200

    path.write_text("{")
    wait_until(lambda: sidecar.status()["keys"][ISSUER]["failing"], "a damaged file is told")
    assert http.request(envoy.port, token=new).status == 200
    path.unlink()
    sidecar.reload()
    wait_until(lambda: "No such file" in str(sidecar.status()["keys"]), "a missing file is told")
    assert http.request(envoy.port, token=new).status == 200

    path.write_text('{"keys": []}')
    wait_until(
        lambda: http.request(envoy.port, token=new).status == 401, "an empty set is an answer"
    )
    path.write_text(jwks(*document("old")["keys"]))
    wait_until(lambda: http.request(envoy.port, token=old).status == 200, "keys that come back")


def test_issuers_of_every_kind_stand_side_by_side_and_apart(
    start_sidecar: StartSidecar, origin: Origin, tmp_path: Path
) -> None:
    """A key is good for its own issuer and for no other, even where the `kid` is the same."""
    ed, ec = ed25519_key(), ec_key(curve="P-384")
    discovered = origin.url
    origin.put(
        "/.well-known/openid-configuration",
        {"issuer": discovered, "jwks_uri": f"{origin.url}/discovered"},
    )
    origin.put("/discovered", {"keys": [jwk(ed, "k")]})
    url = origin.put("/jwks.json", {"keys": [jwk(ec, "k")]})
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    (tmp_path / "keys.json").write_text(jwks(jwk(OLD, "k")))
    sidecar = start_sidecar(
        {
            "issuers": [
                issuer({"discovery": True}, discovered, "EdDSA"),
                issuer({"jwks_url": url}, "https://url.example", "ES384"),
                issuer({"secret_file": str(tmp_path / "secret")}, "https://hs.example", "HS512"),
                issuer({"secret_env": "THE_SECRET"}, "https://env.example", "HS256"),
                issuer({"jwks_file": str(tmp_path / "keys.json")}, ISSUER, "PS256"),
            ]
        },
        THE_SECRET="another secret of thirty-two bytes or more",
    )
    keys: dict[str, tuple[PrivateKey | bytes, str]] = {
        discovered: (ed, "EdDSA"),
        "https://url.example": (ec, "ES384"),
        "https://hs.example": (SECRET, "HS512"),
        "https://env.example": (b"another secret of thirty-two bytes or more", "HS256"),
        ISSUER: (OLD, "PS256"),
    }
    for name in keys:
        for signer, (key, alg) in keys.items():
            status, reason = check(sidecar, token(key, "k", alg=alg, iss=name))
            if name == signer:
                assert (status, reason) == OK, name
            else:
                assert (status, reason) == (401, "algorithm_not_allowed"), (name, signer)
    assert sidecar.metric("authz_key_set_age_seconds") > 0


def test_an_issuer_that_cannot_be_reached_is_503_until_it_can(
    start_sidecar: StartSidecar, origin: Origin
) -> None:
    """And its start holds up nobody: other issuers are served."""
    url = f"{origin.url}/jwks.json"
    sidecar = start_sidecar({"issuers": [issuer({"jwks_url": url, "refresh": "1s"})]})
    text = token(OLD, "old")
    response = sidecar.client.check(token=text)
    assert status_of(response) == 503
    origin.put("/jwks.json", document("old"))
    wait_until(lambda: check(sidecar, text) == OK, "the keys have come")
