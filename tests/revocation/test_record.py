"""Names in Redis: one slot per user, no collisions, nothing readable of user or token."""

import json

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from authz.revocation.record import (
    ANY_USER,
    Note,
    blacklist_key,
    bucket_of,
    feed_key,
    not_before_key,
    token_digest,
    user_digest,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))


def test_keys_are_named_as_the_design_says() -> None:
    assert blacklist_key(7, "USER", "TID") == "jwt:{7}:blacklist:USER:TID"
    assert blacklist_key(7, ANY_USER, "TID") == "jwt:{7}:blacklist:-:TID"
    assert not_before_key(7, "USER") == "jwt:{7}:not-before:USER"
    assert feed_key(7) == "jwt:{7}:feed"


@given(texts, texts, texts, st.integers(1, 1024))
def test_all_keys_of_a_user_share_a_slot(issuer: str, subject: str, jti: str, buckets: int) -> None:
    """Whatever stands in the names: a `}` in a subject must not end the hash tag."""
    bucket = bucket_of(issuer, subject, buckets)
    assert 0 <= bucket < buckets
    user, token = user_digest(issuer, subject), token_digest(issuer, jti, b"")
    slots = {
        key_slot(key.encode())
        for key in (
            blacklist_key(bucket, user, token),
            blacklist_key(bucket, ANY_USER, token),
            not_before_key(bucket, user),
            feed_key(bucket),
        )
    }
    assert len(slots) == 1


def test_sixteen_buckets_spread_over_three_masters() -> None:
    """In equal thirds of the slots, as `redis-cli --cluster create` deals them out."""
    shards = [key_slot(feed_key(bucket).encode()) * 3 // 16_384 for bucket in range(16)]
    assert {shards.count(shard) for shard in range(3)} <= {4, 5, 6, 7}


def test_users_spread_over_the_buckets() -> None:
    counts = [0] * 16
    for number in range(4000):
        counts[bucket_of("https://issuer.example", f"user-{number}", 16)] += 1
    assert min(counts) > 4000 / 16 / 2


@given(texts, texts, texts, texts)
def test_two_users_are_never_one(issuer: str, subject: str, other: str, other_subject: str) -> None:
    """Also where issuer and subject, written one after the other, read the same."""
    same = (issuer, subject) == (other, other_subject)
    assert (user_digest(issuer, subject) == user_digest(other, other_subject)) is same


def test_the_same_parts_cut_elsewhere_are_another_user() -> None:
    assert user_digest("https://a", "bc") != user_digest("https://ab", "c")
    assert user_digest("a", "b") != token_digest("a", "b", b"")


@given(texts, st.binary(), st.binary())
def test_a_jti_names_the_token_whatever_is_signed(jti: str, one: bytes, other: bytes) -> None:
    assert token_digest("i", jti, one) == token_digest("i", jti, other)
    assert token_digest("i", jti, one) != token_digest("j", jti, one)


def test_without_a_jti_the_signing_input_names_the_token() -> None:
    assert token_digest("i", None, b"header.claims") != token_digest("i", None, b"header.claimz")
    assert token_digest("i", None, b"x") != token_digest("i", "", b"x")


@given(texts, texts)
def test_digests_have_a_fixed_length_and_no_separator(issuer: str, subject: str) -> None:
    for digest in (user_digest(issuer, subject), token_digest(issuer, subject, b"")):
        assert len(digest) == 43
        assert not set(digest) & set(":{}= ")


def test_a_note_is_json_on_one_line() -> None:
    text = Note("line\nbreak", "å", 1.23456).dump()
    assert "\n" not in text
    assert json.loads(text) == {"reason": "line\nbreak", "by": "å", "at": 1.235}
