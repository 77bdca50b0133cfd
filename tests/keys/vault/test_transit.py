"""Keys of the transit engine, in a real OpenBao: it signs, and the private key never leaves it."""

from pathlib import Path
from typing import Any

import jwt
import pytest
from hvac.exceptions import InvalidRequest
from keys.vault.conftest import StartKeys, signing

from authz.keys.errors import KeySourceError
from authz.keys.issuing.followed import FollowedKeys
from authz.keys.issuing.open import open_key_store
from authz.keys.signer import SigningUnavailableError, sign_token
from support.openbao import OpenBao
from support.waiting import eventually

CLAIMS = {"iss": "https://issuer.example", "sub": "alice", "aud": "api"}
POLICY = """
path "transit/keys/{0}" {{ capabilities = ["read"] }}
path "transit/sign/{0}" {{ capabilities = ["update"] }}
"""
"""The least that a token service needs, as in authz/keys/README.md."""
ROTATES = """
path "transit/keys/{0}/rotate" {{ capabilities = ["update"] }}
"""


README = Path(__file__).parents[3] / "authz/keys/README.md"


def test_the_readme_has_these_policies() -> None:
    written = " ".join(README.read_text().split())
    for line in (POLICY + ROTATES).format("tokens").strip().splitlines():
        assert " ".join(line.split()) in written


async def issue(keys: FollowedKeys) -> tuple[str, str]:
    """A token and the `kid` in its header; it is good by what is published."""
    token = await sign_token(CLAIMS, await keys.current())
    header = jwt.get_unverified_header(token)
    published = {key.key_id: key for key in jwt.PyJWKSet.from_dict(keys.jwks()).keys}
    key = published[header["kid"]]
    assert jwt.decode(token, key, algorithms=[header["alg"]], audience="api") == CLAIMS
    return token, header["kid"]


def kids(keys: FollowedKeys) -> list[str]:
    return [key["kid"] for key in keys.jwks()["keys"]]


@pytest.mark.parametrize(
    ("algorithm", "key_type"),
    [("RS256", "rsa-2048"), ("RS256", "rsa-3072"), ("ES256", "ecdsa-p256"), ("EdDSA", "ed25519")],
)
async def test_what_vault_signs_is_verified_by_what_is_published(
    openbao: OpenBao, token_file: str, start_keys: StartKeys, algorithm: str, key_type: str
) -> None:
    openbao.transit(f"good-{key_type}", key_type)
    vault = {"address": openbao.address, "key": f"good-{key_type}", "token_file": token_file}
    keys = await start_keys(vault, algorithm=algorithm)
    token, kid = await issue(keys)
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "typ": "at+jwt", "kid": kid}
    (published,) = keys.jwks()["keys"]
    assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & published.keys()
    (verifying,) = keys.verification()
    assert (verifying.kid, set(verifying.algorithms)) == (kid, {algorithm})


async def test_a_version_that_an_operator_makes_is_published_before_it_signs(
    openbao: OpenBao, token_file: str, start_keys: StartKeys
) -> None:
    """By Vault's own tools; all that is known of it is when Vault made it."""
    transit = openbao.transit("ahead", "ecdsa-p256")
    vault = {"address": openbao.address, "key": "ahead", "token_file": token_file}
    keys = await start_keys(vault, publish_ahead=1.0)
    _, first = await issue(keys)
    transit.rotate_key("ahead")
    await keys.refresh()
    assert len(kids(keys)) == 2
    assert (await issue(keys))[1] == first

    async def follows() -> bool:
        return (await issue(keys))[1] != first

    await eventually(follows, "the new version signs by itself")
    assert kids(keys) == [(await issue(keys))[1], first]


async def test_several_processes_come_to_the_same_plan_and_make_one_version(
    openbao: OpenBao, token_file: str, start_keys: StartKeys
) -> None:
    openbao.transit("replicas", "ecdsa-p256")
    vault = {"address": openbao.address, "key": "replicas", "token_file": token_file}
    store = open_key_store(signing(vault))
    try:
        (first,) = await store.read()
        made = await store.rotate(0, ahead=0, newest=first.times.name)
        assert await store.rotate(0, ahead=0, newest=first.times.name) is None
    finally:
        await store.aclose()
    one, other = await start_keys(vault), await start_keys(vault)
    assert kids(one) == kids(other) == [first.times.name, made]


async def test_a_version_is_made_by_schedule(
    openbao: OpenBao, token_file: str, start_keys: StartKeys
) -> None:
    openbao.transit("scheduled", "ecdsa-p256")
    vault = {"address": openbao.address, "key": "scheduled", "token_file": token_file}
    keys = await start_keys(vault, rotate_every=1.0, publish_ahead=0.5)
    _, first = await issue(keys)

    async def follows() -> bool:
        return (await issue(keys))[1] != first

    await eventually(follows, "the next version signs")
    assert keys.figures.rotations["ok"] >= 1
    assert first in kids(keys)


async def test_a_withdrawn_version_is_gone_at_once_and_signs_nothing_more(
    openbao: OpenBao, token_file: str, start_keys: StartKeys
) -> None:
    """With its elders, which Vault can't keep without it; the next signs although nobody has it
    yet, for there is no other.
    """
    transit = openbao.transit("leaked", "ecdsa-p256")
    vault = {"address": openbao.address, "key": "leaked", "token_file": token_file}
    transit.rotate_key("leaked")
    keys = await start_keys(vault, publish_ahead=0.0)
    await eventually(lambda: len(kids(keys)) == 2, "both versions")
    old_signer = await keys.current()
    leaked, elder = kids(keys)
    store = open_key_store(signing(vault))
    try:
        assert set(await store.withdraw(leaked, 0)) == {leaked, elder}
        with pytest.raises(KeySourceError, match="has no version with the kid"):
            await store.withdraw(leaked, 0)
    finally:
        await store.aclose()
    await keys.refresh()
    _, kid = await issue(keys)
    assert kids(keys) == [kid]
    assert kid not in {leaked, elder}
    with pytest.raises(SigningUnavailableError):
        await old_signer.sign(b"x")


async def test_withdrawing_an_older_version_leaves_the_one_that_signs(
    openbao: OpenBao, token_file: str, start_keys: StartKeys
) -> None:
    transit = openbao.transit("old", "ecdsa-p256")
    vault = {"address": openbao.address, "key": "old", "token_file": token_file}
    keys = await start_keys(vault, publish_ahead=0.0)
    (older,) = kids(keys)
    transit.rotate_key("old")
    await keys.refresh()
    signs = kids(keys)[0]
    assert await keys._store.withdraw(older, 0) == [older]
    await keys.refresh()
    assert kids(keys) == [signs]
    assert (await issue(keys))[1] == signs


async def test_the_smallest_policy_signs_and_nothing_else(
    openbao: OpenBao, start_keys: StartKeys, tmp_path: Any
) -> None:
    transit = openbao.transit("least", "rsa-2048")
    openbao.policy("least", POLICY.format("least"))
    token = str(openbao.token(tmp_path, policy="least"))
    vault = {"address": openbao.address, "key": "least", "token_file": token}
    keys = await start_keys(vault, algorithm="RS256")
    await issue(keys)
    with pytest.raises(KeySourceError, match="permission denied on transit/keys/least/rotate"):
        await keys._store.rotate(0, ahead=0)
    with pytest.raises(InvalidRequest):  # nobody can read the private key, root neither
        transit.export_key("least", key_type="signing-key")
    openbao.policy("least", POLICY.format("least") + ROTATES.format("least"))
    assert await keys._store.rotate(0, ahead=0) is not None


@pytest.mark.parametrize(
    ("name", "key_type", "problem"),
    [
        ("missing", None, "there is no transit/keys/missing; make it: vault write -f"),
        ("wrong", "rsa-2048", "is of type rsa-2048; ES256 .* needs ecdsa-p256"),
        ("cipher", "aes256-gcm96", "is of type aes256-gcm96"),
    ],
)
async def test_a_key_that_can_not_sign_says_what_to_do(
    openbao: OpenBao,
    token_file: str,
    start_keys: StartKeys,
    name: str,
    key_type: str | None,
    problem: str,
) -> None:
    if key_type:
        openbao.transit(name, key_type)
    vault = {"address": openbao.address, "key": name, "token_file": token_file}
    keys = await start_keys(vault)
    for published in (keys.jwks, keys.verification):  # an empty set would be taken at its word
        with pytest.raises(SigningUnavailableError, match=problem):
            published()
    with pytest.raises(SigningUnavailableError, match=problem) as unavailable:
        await keys.current()
    assert unavailable.value.retry_after > 0
