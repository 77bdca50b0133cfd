"""Which keys a token's header leads to."""

import pytest

from authz.keys.keyset import MAX_CANDIDATES, KeySet, VerificationKey


def key(
    kid: str | None, *algorithms: str, thumbprint: str = "", material: object = None
) -> VerificationKey:
    return VerificationKey(
        kid, frozenset(algorithms or ("RS256",)), thumbprint or f"thumb-{kid}", material
    )


def test_a_kid_leads_to_its_key_and_to_no_other() -> None:
    a, b = key("a"), key("b")
    assert KeySet([a, b]).candidates("b", "RS256") == (b,)


def test_a_key_is_not_found_for_an_algorithm_that_does_not_go_with_it() -> None:
    assert KeySet([key("a", "ES256")]).candidates("a", "RS256") == ()
    assert KeySet([key("a", "ES256")]).candidates(None, "HS256") == ()


@pytest.mark.parametrize("kid", ["", "../../etc/passwd", "a' OR 1=1", "\x00", "\ud800", "x" * 9999])
def test_a_strange_kid_is_a_dictionary_key_that_is_not_there(kid: str) -> None:
    assert KeySet([key("a")]).candidates(kid, "RS256") == ()


def test_without_a_kid_every_key_of_the_algorithm_may_have_signed() -> None:
    a, b, c = key("a"), key("b"), key("c", "ES256")
    assert KeySet([a, b, c]).candidates(None, "RS256") == (a, b)


def test_a_token_without_a_kid_costs_at_most_so_many_signatures() -> None:
    """More keys than the limit are none: trying only some would let chance decide."""
    keys = [key(str(number)) for number in range(MAX_CANDIDATES + 1)]
    assert len(KeySet(keys[:MAX_CANDIDATES]).candidates(None, "RS256")) == MAX_CANDIDATES
    assert KeySet(keys).candidates(None, "RS256") == ()
    assert KeySet(keys).candidates("3", "RS256") == (keys[3],)


def test_a_key_without_a_kid_stands_for_any_kid() -> None:
    secret = key(None, "HS256", "HS512")
    assert KeySet([secret]).candidates("whatever", "HS256") == (secret,)
    assert KeySet([secret]).candidates(None, "HS512") == (secret,)


def test_a_key_with_the_kid_is_tried_before_those_without() -> None:
    bare, named, other = key(None), key("a"), key("b")
    assert KeySet([bare, other, named]).candidates("a", "RS256") == (named, bare)
    assert KeySet([bare, other, named]).candidates("c", "RS256") == (bare,)


def test_sets_are_equal_when_their_keys_are_in_any_order() -> None:
    a, b = key("a"), key("b")
    assert KeySet([a, b]) == KeySet([key("b"), key("a")])
    assert hash(KeySet([a, b])) == hash(KeySet([b, a]))
    assert KeySet([a]) != KeySet([b])
    assert KeySet([a]) != KeySet([key("a", thumbprint="other")])
    assert KeySet([a]) != [a]


def test_membership_is_by_content() -> None:
    assert key("a") in KeySet([key("a")])
    assert key("a", "PS256") not in KeySet([key("a")])
    assert len(KeySet([key("a"), key("a")])) == 1


def test_what_did_not_change_keeps_its_identity() -> None:
    """Whoever holds a key or a set compares by `is` first."""
    before = KeySet([key("a"), key("b")])
    assert before.adopt(KeySet([key("b"), key("a")])) is before
    after = before.adopt(KeySet([key("b"), key("c")]))
    assert [each.kid for each in after] == ["b", "c"]
    (b_before,) = before.candidates("b", "RS256")
    (b_after,) = after.candidates("b", "RS256")
    assert b_after is b_before


def test_a_secret_does_not_show_when_a_key_or_a_set_is_printed() -> None:
    secret = key(None, "HS256", material=b"very-secret")
    assert "very-secret" not in repr(secret) + repr(KeySet([secret])) + str(secret)


def test_kids_are_listed_in_order() -> None:
    assert KeySet([key("b"), key(None), key("a")]).kids == ("b", "a")
