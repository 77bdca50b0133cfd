"""Whatever is thrown at the verifier. PyJWT is the oracle."""

import time
from typing import Any

import jwt
from check.fakes import KEYS, KID, NOW, FakeKeys, accepted, claims, make_verifier, public_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.check.verifier import Refused, Verified
from authz.settings import ALGORITHMS
from support import jwks
from support.jwks import AUDIENCE, ISSUER, b64, ec_key, ed25519_key, rsa_key, sign

ANY_KEYS = {
    ISSUER: FakeKeys(
        public_keys(
            (rsa_key(), KID),
            (ec_key(), "ec"),
            (ec_key(curve="P-384"), "ec384"),
            (ed25519_key(), "ed"),
        )
    )
}

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
CLAIM_NAMES = ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "scope", "scp"]
HEADER_NAMES = ["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "cty"]
algorithms = st.sampled_from([*ALGORITHMS, "none", "ES512"])


@given(st.text(max_size=100) | st.from_regex(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"))
def test_no_text_is_accepted_or_raises(text: str) -> None:
    assert isinstance(make_verifier(ANY_KEYS).verify(text, NOW), Refused)


@given(
    st.dictionaries(st.sampled_from(HEADER_NAMES), json_values),
    st.dictionaries(st.sampled_from(CLAIM_NAMES), json_values),
    st.binary(max_size=100),
    algorithms,
    st.sampled_from([KID, "ec", "ec384", "ed", None]),
)
def test_no_header_claims_or_signature_raise(
    header: dict[str, Any], changes: dict[str, Any], raw: bytes, algorithm: str, kid: str | None
) -> None:
    """And without a signature none is accepted."""
    values = {"alg": algorithm, "kid": kid, **header}
    text = sign(claims(**changes), b"", alg="none", headers=values) + b64(raw)
    assert isinstance(make_verifier(ANY_KEYS).verify(text, NOW), Refused)


SIGNERS = {"RS256": KID, "PS384": KID, "ES256": "ec", "ES384": "ec384", "EdDSA": "ed"}


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(SIGNERS)),
    st.dictionaries(st.sampled_from(HEADER_NAMES[2:]), json_values, max_size=2),
    st.dictionaries(st.sampled_from(CLAIM_NAMES), json_values, max_size=2)
    | st.dictionaries(st.sampled_from(["exp", "iat", "nbf"]), st.integers(-700, 700)),
    st.booleans(),
)
def test_pyjwt_accepts_every_token_that_is_accepted(
    algorithm: str, header: dict[str, Any], changes: dict[str, Any], named: bool
) -> None:
    """`jwt.decode` with the same key, audience, issuer and leeway is the oracle. Ours may be the
    stricter, never the laxer.
    """
    now = time.time()
    values = {
        name: int(now) + value if name in {"exp", "iat", "nbf"} and type(value) is int else value
        for name, value in changes.items()
    }
    key = KEYS[algorithm]
    assert not isinstance(key, bytes)
    kid = SIGNERS[algorithm] if named else None
    text = sign(jwks.claims(**values), key, kid=kid, alg=algorithm, headers=header)
    found = make_verifier(ANY_KEYS).verify(text, now)
    if isinstance(found, Refused):
        return
    read = jwt.decode(
        text,
        key.public_key(),
        algorithms=[algorithm],
        audience=AUDIENCE,
        issuer=ISSUER,
        leeway=6,  # a second more, since its clock goes on
        options={"require": ["exp", "iat", "sub"]},
    )
    assert read["sub"] == found.identity.subject
    assert read.get("jti", found.identity.ref.token) == found.identity.token_id


GOOD = {
    algorithm: sign(claims(), KEYS[algorithm], kid=kid, alg=algorithm)
    for algorithm, kid in SIGNERS.items()
}


@settings(max_examples=200)
@given(st.sampled_from(sorted(SIGNERS)), st.integers(0, 2000), st.sampled_from("A_.z-0 ,\n"))
def test_no_token_with_one_character_changed_is_another_token(
    algorithm: str, position: int, character: str
) -> None:
    """It is refused, or it is one that only spells its signature otherwise."""
    text = GOOD[algorithm]
    position %= len(text)
    changed = text[:position] + character + text[position + 1 :]
    verifier = make_verifier(ANY_KEYS)
    original = accepted(verifier, text).identity
    found = verifier.verify(changed, NOW)
    if isinstance(found, Verified):
        assert found.identity == original
        assert changed.rpartition(".")[0] == text.rpartition(".")[0]
