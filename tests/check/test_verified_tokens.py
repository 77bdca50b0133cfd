"""The memory of verified tokens: what it spares, what it must not, and how large it grows."""

import pytest
from check.fakes import KID, NOW, FakeKeys, accepted, make_verifier, public_keys, reason, token

from authz.check.verdict import Reason, allow, deny
from authz.check.verifier import Refused, Verifier
from authz.keys.jwk import parse_jwks
from authz.keys.keyset import KeySet
from authz.settings import ALGORITHMS
from support import jwks
from support.jwks import AUDIENCE, b64, rsa_key


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys(public_keys((rsa_key(), KID)))


@pytest.fixture
def verifier(keys: FakeKeys) -> Verifier:
    return make_verifier(keys)


def test_a_token_is_verified_once(verifier: Verifier) -> None:
    text = token()
    first = accepted(verifier, text)
    assert accepted(verifier, text) is first
    assert (verifier.hits, verifier.misses, verifier.size) == (1, 1, 1)


def test_what_follows_from_a_token_is_worked_out_once(verifier: Verifier) -> None:
    """Its verdicts, which keep their answers."""
    text = token()
    first = accepted(verifier, text)
    again = accepted(verifier, text)
    assert again.allowed is first.allowed
    assert again.revoked is first.revoked
    assert first.allowed == allow(first.identity)
    assert first.revoked == deny(Reason.TOKEN_REVOKED, identity=first.identity)


def test_equal_lists_of_two_tokens_are_kept_once(verifier: Verifier) -> None:
    one, other = (accepted(verifier, token(aud=[AUDIENCE, "b"])).identity for _ in range(2))
    assert one.scopes is other.scopes
    assert one.audiences is other.audiences
    assert one.issuer is other.issuer


def test_of_a_full_memory_the_token_unused_for_longest_goes(keys: FakeKeys) -> None:
    verifier = make_verifier(keys, cache_size=2)
    used, unused, new = (token() for _ in range(3))
    for text in (used, unused, used, new, used):
        accepted(verifier, text)
    assert (verifier.hits, verifier.misses) == (2, 3)
    accepted(verifier, unused)
    assert (verifier.hits, verifier.misses) == (2, 4)


def test_refusals_are_not_remembered(verifier: Verifier) -> None:
    for text in (token(rsa_key("attacker")), token(aud="other"), "a.b.c"):
        for _ in range(2):
            assert reason(verifier, text) is not None
    assert (verifier.size, verifier.hits) == (0, 0)


def test_another_signature_on_a_remembered_token_misses(verifier: Verifier) -> None:
    text = token()
    accepted(verifier, text)
    head = text.rpartition(".")[0]
    assert reason(verifier, f"{head}.{b64(bytes(256))}") is Reason.SIGNATURE_INVALID
    assert reason(verifier, f"{head}.") is Reason.SIGNATURE_INVALID
    assert reason(verifier, f"{text}A") is not None
    assert verifier.hits == 0


def test_other_claims_under_a_remembered_signature_miss(verifier: Verifier) -> None:
    text = token()
    accepted(verifier, text)
    head, _, tail = text.split(".")
    forged = f"{head}.{token(sub='root').split('.')[1]}.{tail}"
    assert reason(verifier, forged) is Reason.SIGNATURE_INVALID


def test_a_remembered_token_still_expires(verifier: Verifier) -> None:
    text = token(exp=NOW + 600)
    accepted(verifier, text)
    assert reason(verifier, text, NOW + 605) is Reason.TOKEN_EXPIRED
    assert reason(verifier, text, NOW - 100) is Reason.TOKEN_NOT_YET_VALID
    accepted(verifier, text)


def test_a_key_that_was_removed_takes_its_remembered_tokens_along(
    verifier: Verifier, keys: FakeKeys
) -> None:
    text = token()
    accepted(verifier, text)
    keys.keys = public_keys((rsa_key("next"), "next"))
    assert reason(verifier, text) is Reason.KEY_UNKNOWN
    keys.keys = KeySet()
    assert reason(verifier, text) is Reason.KEY_UNKNOWN
    assert verifier.size == 0


def test_a_key_replaced_under_its_kid_takes_its_remembered_tokens_along(
    verifier: Verifier, keys: FakeKeys
) -> None:
    text = token()
    accepted(verifier, text)
    keys.keys = public_keys((rsa_key("next"), KID))
    assert reason(verifier, text) is Reason.SIGNATURE_INVALID


def test_a_key_that_lost_its_algorithm_takes_its_remembered_tokens_along(keys: FakeKeys) -> None:
    verifier = make_verifier(keys)
    text = token()
    accepted(verifier, text)
    document = jwks.jwks(jwks.jwk(rsa_key(), KID, alg="PS256"))
    keys.keys = parse_jwks(document.encode(), ALGORITHMS, strict=True).keys
    assert reason(verifier, text) is Reason.KEY_UNKNOWN


def test_keys_that_were_lost_altogether_refuse_what_is_remembered(
    verifier: Verifier, keys: FakeKeys
) -> None:
    text = token()
    accepted(verifier, text)
    keys.keys = None
    found = verifier.verify(text, NOW)
    assert isinstance(found, Refused)
    assert (found.reason, found.ring) == (Reason.KEYS_UNAVAILABLE, keys)


def test_a_rotation_that_keeps_the_key_costs_no_signature(
    verifier: Verifier, keys: FakeKeys
) -> None:
    text = token()
    accepted(verifier, text)
    keys.keys = public_keys((rsa_key("next"), "next"), (rsa_key(), KID))
    accepted(verifier, text)
    accepted(verifier, text)
    assert (verifier.hits, verifier.misses) == (2, 1)


def test_no_more_tokens_are_remembered_than_allowed(keys: FakeKeys) -> None:
    verifier = make_verifier(keys, cache_size=3)
    texts = [token() for _ in range(5)]
    for text in texts:
        accepted(verifier, text)
    assert verifier.size == 3
    accepted(verifier, texts[4])
    assert verifier.hits == 1
    accepted(verifier, texts[0])  # pushed out, verified again
    assert (verifier.hits, verifier.misses, verifier.size) == (1, 6, 3)
