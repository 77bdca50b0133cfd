"""A revocation as the store keeps it."""

import json
from typing import Any

import pytest

from authz.revocation.entry import LATEST, Entry, EntryError
from authz.revocation.record import ANY_USER, blacklist_key, not_before_key
from support.revocations import of_token, of_user, token_ref

FIELDS = {
    "kind": "token",
    "user": "u",
    "token": "t",
    "before": "",
    "expires": "1800000060000",
    "note": "{}",
}


def read(**changes: Any) -> Entry:
    fields = {**FIELDS, **changes}
    return Entry.of_fields({name: value for name, value in fields.items() if value is not ...})


def test_a_tokens_entry_may_go_when_no_leeway_can_bring_the_token_back() -> None:
    ref = token_ref(issued_at=1000, lifetime=600)
    entry = Entry.of_token(of_token(ref))
    assert (entry.kind, entry.user, entry.token) == ("token", ref.user, ref.token)
    assert (entry.before, entry.expires) == (0, 1_660_000)
    assert json.loads(entry.note)["reason"] == "stolen"
    assert entry.key(3) == blacklist_key(3, ref.user, ref.token)


def test_a_token_whose_user_is_not_known_is_any_users() -> None:
    ref = token_ref()
    entry = Entry.of_token(of_token(ref, userless=True))
    assert entry.user == ANY_USER
    assert entry.key(3) == blacklist_key(3, ANY_USER, ref.token)


def test_a_cutoff_is_taken_up_to_the_next_millisecond_and_never_down() -> None:
    """Down, it would spare a token that was issued in that millisecond."""
    ref = token_ref()
    entry = Entry.of_user(of_user(ref, 1000.0001))
    assert (entry.kind, entry.user, entry.token) == ("user", ref.user, "")
    assert (entry.before, entry.expires) == (1_000_001, 87_460_000)
    assert entry.key(3) == not_before_key(3, ref.user)


@pytest.mark.parametrize(
    "entry",
    [
        Entry.of_token(of_token(token_ref())),
        Entry.of_token(of_token(token_ref(), userless=True)),
        Entry.of_user(of_user(token_ref(), 1000.5)),
    ],
    ids=["token", "token of any user", "user"],
)
def test_what_is_written_is_read_again(entry: Entry) -> None:
    """The script's arguments are what its stream entry has, under other names."""
    kind, note, expires, before, user, token = entry.arguments()
    fields = {"kind": kind, "note": note, "expires": expires, "before": before}
    assert Entry.of_fields({**fields, "user": user, "token": token}) == entry


def test_a_push_needs_no_note_and_what_is_more_is_left_alone() -> None:
    assert read(note=...).note == ""
    assert read(seq="7", region="eu") == read()


@pytest.mark.parametrize("changes", [
    {"kind": ...}, {"kind": "device"}, {"kind": ["token"]},
    {"user": ...}, {"user": ""}, {"user": 7},
    {"token": ...}, {"token": ""}, {"token": ["t"]}, {"token": None},
    {"expires": ...}, {"expires": ""}, {"expires": "soon"}, {"expires": None},
    {"expires": float("nan")}, {"expires": float("inf")}, {"expires": [1]},
    {"kind": "user", "token": "", "before": ""},
    {"kind": "user", "token": "", "before": ...},
    {"kind": "user", "token": "t", "before": "1"},
], ids=repr)  # fmt: skip
def test_what_is_no_revocation_is_an_error_and_nothing_else(changes: dict[str, Any]) -> None:
    with pytest.raises(EntryError):
        read(**changes)


@pytest.mark.parametrize("digits", ["9" * 30, "9" * 400, 10**30])
def test_an_expiry_beyond_all_times_is_the_last_one_and_the_token_is_revoked(digits: Any) -> None:
    """Else who wrote the year 30,000 would have revoked nothing."""
    assert read(expires=digits).expires == LATEST
    assert read(kind="user", token="", before=digits).before == LATEST


def test_an_expiry_before_all_times_is_over() -> None:
    assert read(expires="-" + "9" * 400).expires == 0
