"""What a token's claims say of its holder."""

from typing import Any

import pytest
from check.fakes import NOW
from hypothesis import given
from hypothesis import strategies as st

from authz.check.claims import (
    MAX_NUMERIC_DATE,
    confirmation_of,
    identity_of,
    not_before,
    numeric_date,
)
from authz.check.jose import BadTokenError
from authz.check.token import Confirmation, Identity
from authz.check.verdict import Reason
from support import jwks
from support.jwks import ISSUER


def claims(**changes: Any) -> dict[str, Any]:
    return jwks.claims(now=NOW, **{"jti": "token-1", **changes})


def identity(signing_input: bytes = b"header.claims", **changes: Any) -> Identity:
    return identity_of(claims(**changes), ISSUER, signing_input, buckets=16)


def refusal(**changes: Any) -> tuple[Reason, str]:
    with pytest.raises(BadTokenError) as caught:
        identity(**changes)
    return caught.value.reason, caught.value.detail


def test_the_holder_of_a_good_token() -> None:
    found = identity(aud=["api", "other"], scope="read write", exp=NOW + 600)
    assert (found.issuer, found.subject, found.token_id) == (ISSUER, "alice", "token-1")
    assert found.scopes == ("read", "write")
    assert found.audiences == ("api", "other")
    assert (found.ref.issued_at, found.ref.expires_at) == (NOW, NOW + 600)


@pytest.mark.parametrize("name", ["exp", "iat"])
@pytest.mark.parametrize(
    "value",
    [..., None, str(NOW), NOW + 0.5, float(NOW), True, False, [NOW], -1, MAX_NUMERIC_DATE + 1],
)
def test_a_date_is_a_whole_number_of_seconds(name: str, value: object) -> None:
    assert refusal(**{name: value}) == (Reason.CLAIM_INVALID, name)


def test_an_integer_in_the_costume_of_a_float_is_refused() -> None:
    """`1e9` and `1000000000.0` are numbers to one parser and floats to another."""
    with pytest.raises(BadTokenError):
        numeric_date({"exp": 1e9}, "exp")


def test_a_token_that_expires_before_it_was_issued_is_refused() -> None:
    assert refusal(exp=NOW) == (Reason.CLAIM_INVALID, "exp")
    assert refusal(exp=NOW - 1) == (Reason.CLAIM_INVALID, "exp")


def test_a_token_may_be_used_from_the_later_of_nbf_and_iat() -> None:
    assert not_before({"iat": 5}) == 5
    assert not_before({"iat": 5, "nbf": 9}) == 9
    assert not_before({"iat": 9, "nbf": 5}) == 9
    with pytest.raises(BadTokenError, match="nbf"):
        not_before({"iat": 5, "nbf": None})


@pytest.mark.parametrize("subject", [..., None, ""])
def test_a_token_without_a_subject_is_refused(subject: object) -> None:
    assert refusal(sub=subject)[0] is Reason.SUBJECT_MISSING


@pytest.mark.parametrize("name", ["sub", "jti"])
@pytest.mark.parametrize(
    "value",
    [
        7,
        ["alice"],
        {"a": "lice"},
        True,
        "a\r\nx-authz-scopes: admin",
        "a\x00",
        "a\x7f",
        "a\x85b",
        "a\x9f",
        " alice",
        "alice ",
        "alice\t",
        "\u00a0alice",
        "alice\u2003",
        "\ud800",
        "alice\udfff",
    ],
)
def test_what_could_not_stand_in_a_header_as_it_is_is_refused(name: str, value: object) -> None:
    assert refusal(**{name: value}) == (Reason.CLAIM_INVALID, name)


@pytest.mark.parametrize("value", ["a b", "Zoë", "名前", "a,b", 'a"b', "😀", "a|b"])
def test_other_texts_may_be_subjects(value: str) -> None:
    assert identity(sub=value).subject == value


def test_an_empty_jti_is_refused_and_a_missing_one_is_not() -> None:
    """An empty one would give all such tokens of an issuer one TID. `null` is not the same as
    none: PyJWT and others refuse it.
    """
    assert refusal(jti="") == (Reason.CLAIM_INVALID, "jti")
    assert refusal(jti=None) == (Reason.CLAIM_INVALID, "jti")
    assert identity(jti=...).token_id == identity(jti=...).ref.token


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [("", ()), ("a", ("a",)), ("a b", ("a", "b")), ("a  b ", ("a", "b")), (["a", "b"], ("a", "b"))],
)
def test_scopes_are_separated_by_spaces_or_a_list(scope: object, scopes: tuple[str, ...]) -> None:
    assert identity(scope=scope).scopes == scopes
    assert identity(scope=..., scp=scope).scopes == scopes


@pytest.mark.parametrize(
    "scope",
    [
        None,
        7,
        {"a": 1},
        ["a b"],
        ["a", 1],
        [["a"]],
        [""],
        'a"b',
        "a\\b",
        "read\tadmin",
        "read\nadmin",
        "read\x1fadmin",  # blanks to Python's str.split
        "read\x85admin",
        "read\u00a0admin",
        "read\u2003admin",
        "read\u3000admin",
        "ré",
    ],
)
def test_a_scope_that_someone_could_take_for_two_is_refused(scope: object) -> None:
    assert refusal(scope=scope) == (Reason.CLAIM_INVALID, "scope")


def test_scope_goes_before_scp() -> None:
    assert identity(scope="a", scp=["b"]).scopes == ("a",)


@pytest.mark.parametrize("audience", [7, {"api": 1}, ["api", 7], [["api"]], True])
def test_an_audience_is_a_text_or_a_list_of_texts(audience: object) -> None:
    assert refusal(aud=audience) == (Reason.CLAIM_INVALID, "aud")


def test_a_token_without_an_audience_has_none() -> None:
    assert identity(aud=...).audiences == ()


# What a revocation is called


def test_tokens_of_one_jti_and_issuer_are_one_to_revocation() -> None:
    assert identity(b"one").ref.token == identity(b"two").ref.token


def test_without_a_jti_the_signing_input_tells_tokens_apart() -> None:
    assert identity(b"one", jti=...).ref.token != identity(b"two", jti=...).ref.token
    assert identity(b"one", jti=...).ref.token == identity(b"one", jti=...).ref.token


texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=12)


@given(texts, texts, texts, texts)
def test_no_two_of_issuer_and_jti_share_a_tid(
    issuer: str, jti: str, other_issuer: str, other_jti: str
) -> None:
    """Not even where the end of one could be read as the beginning of the other."""
    one = identity_of(claims(jti=jti), issuer, b"x", 16).ref
    moved = identity_of(claims(jti=issuer[-1:] + jti), issuer[:-1], b"x", 16).ref
    assert one.token != moved.token
    if (issuer, jti) != (other_issuer, other_jti):
        assert identity_of(claims(jti=other_jti), other_issuer, b"x", 16).ref.token != one.token


@given(texts)
def test_a_jti_never_names_the_token_of_a_signing_input(text: str) -> None:
    named = identity(b"any", jti=text).ref.token
    assert identity(text.encode(), jti=...).ref.token != named


@given(texts, texts)
def test_users_of_two_issuers_are_two_users(subject: str, other: str) -> None:
    one = identity_of(claims(sub=subject), "https://a.example", b"x", 16).ref
    assert identity_of(claims(sub=subject), "https://b.example", b"x", 16).ref.user != one.user
    assert (identity(sub=subject).ref.user == identity(sub=other).ref.user) == (subject == other)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["exp", "iat", "nbf", "sub", "jti", "aud", "scope", "scp"]), json_values
    )
)
def test_no_claims_raise_anything_but_a_bad_token(changes: dict[str, Any]) -> None:
    """And an identity's texts can always be written into a header."""
    try:
        found = identity(**changes)
        not_before(claims(**changes))
    except BadTokenError:
        return
    for text in (found.subject, found.token_id, *found.scopes):
        assert text.strip() == text
        assert text.encode()
        assert text.isprintable() or not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in text)


# Whom it is bound to

THUMBPRINT = "A" * 42 + "E"


def test_a_token_without_cnf_is_bound_to_nobody() -> None:
    assert confirmation_of(claims()) is None


def test_a_token_may_be_bound_to_a_key_a_certificate_or_both() -> None:
    other = "B" * 43
    assert confirmation_of({"cnf": {"jkt": THUMBPRINT}}) == Confirmation(jkt=THUMBPRINT)
    assert confirmation_of({"cnf": {"x5t#S256": THUMBPRINT}}) == Confirmation(
        certificate=THUMBPRINT
    )
    both = {"cnf": {"jkt": THUMBPRINT, "x5t#S256": other}}
    assert confirmation_of(both) == Confirmation(jkt=THUMBPRINT, certificate=other)


@pytest.mark.parametrize(
    "cnf",
    [
        {"jwk": {"kty": "RSA"}},
        {"kid": "key-1"},
        {"x5t": THUMBPRINT},
        {"x5t#s256": THUMBPRINT},
        {"jkt": THUMBPRINT, "osc": "x"},
        {"": THUMBPRINT},
    ],
)
def test_a_binding_that_is_not_known_is_not_ignored(cnf: dict[str, Any]) -> None:
    """Or whoever holds the token could use it."""
    with pytest.raises(BadTokenError) as caught:
        confirmation_of({"cnf": cnf})
    assert caught.value.reason is Reason.BINDING_UNSUPPORTED


@pytest.mark.parametrize(
    "cnf",
    [
        None,
        {},
        [],
        "",
        "jkt",
        True,
        {"jkt": None},
        {"jkt": ""},
        {"jkt": THUMBPRINT[:-1]},
        {"jkt": f"{THUMBPRINT}="},
        {"jkt": THUMBPRINT.replace("A", "+")},
        {"jkt": [THUMBPRINT]},
        {"x5t#S256": f"{THUMBPRINT}\n"},
        {"x5t#S256": THUMBPRINT, "jkt": 7},
    ],
)
def test_a_binding_that_cannot_be_read_is_refused(cnf: object) -> None:
    with pytest.raises(BadTokenError) as caught:
        confirmation_of({"cnf": cnf})
    assert (caught.value.reason, caught.value.detail) == (Reason.CLAIM_INVALID, "cnf")
