"""What becomes of a user's sessions."""

from dataclasses import replace

import pytest

from authz.revocation.redis.writer import MAX_ENTRIES
from authz.settings import MAX_LEEWAY
from authz.tokens.book import MAX_ENDED, Book, Change
from authz.tokens.refresh import Family
from authz.tokens.session import MAX_LIVE_TOKENS, Session

NOW = 1_800_000_000.0
LATER = int(NOW) + 900


def a_session(sid: str, *, issued: float = NOW, tokens: int = 1, **values: object) -> Session:
    session = Session(
        sid=sid, subject="alice", client_id="web", scopes=("read",), audiences=("api",),
        issued=issued, refreshed=issued, expires=NOW + 1000, ends=NOW + 5000,
        tokens={f"{sid}-{n}": LATER for n in range(tokens)}, family=Family("current"),
    )  # fmt: skip
    return replace(session, **values)  # type: ignore[arg-type]


def a_book(*sessions: Session, cut_off: float = 0.0) -> Book:
    return Book({session.sid: session for session in sessions}, cut_off=cut_off)


def test_a_session_that_is_over_or_cut_off_does_not_live() -> None:
    book = a_book(
        a_session("over", issued=NOW - 9, expires=NOW, tokens=0),
        a_session("cut", issued=NOW - 3),
        a_session("young", issued=NOW - 1),
        a_session("at-the-cut", issued=NOW - 2),
        cut_off=NOW - 2,
    )
    assert list(book.living(NOW)) == ["at-the-cut", "young"]


def test_what_does_not_live_is_cleared_away_with_the_next_change() -> None:
    book = Book({"over": a_session("over", expires=NOW, tokens=0)}, unreadable=["junk"])
    change = book.begin(a_session("new"), most=10, now=NOW)
    assert change == Change(
        kept=(a_session("new"),), gone=("over", "junk"), reason="too many sessions"
    )


def test_with_one_too_many_the_oldest_is_ended_and_its_tokens_are_revoked() -> None:
    old, middle = a_session("old", issued=NOW - 2, tokens=2), a_session("middle", issued=NOW - 1)
    change = a_book(middle, old).begin(a_session("new"), most=2, now=NOW)
    assert change.gone == ("old",)
    assert change.ended == 1
    assert change.revoked == {"old-0": LATER, "old-1": LATER}


def test_a_cap_that_was_lowered_takes_several_log_ins() -> None:
    """So many revocations as one call can write, whatever the sessions have."""
    book = a_book(*(a_session(f"S{n}", tokens=MAX_LIVE_TOKENS) for n in range(20)))
    change = book.begin(a_session("new"), most=5, now=NOW)
    assert len(change.gone) == MAX_ENDED
    assert len(change.revoked) == MAX_ENDED * MAX_LIVE_TOKENS <= MAX_ENTRIES


def test_to_end_a_session_revokes_its_living_tokens() -> None:
    session = replace(a_session("S"), tokens={"dead": int(NOW - MAX_LEEWAY), "alive": LATER})
    change = a_book(session, a_session("other")).end("S", "bored", NOW)
    assert change == Change(gone=("S",), ended=1, revoked={"alive": LATER}, reason="bored")
    assert a_book(session).end("other", "bored", NOW) is None


@pytest.mark.parametrize("ahead", [0.0, 0.3, 3.0])
def test_the_end_of_all_comes_after_whatever_was_issued(ahead: float) -> None:
    """Also where the clock of whoever issued it is ahead, or it was dated ahead."""
    book = a_book(a_session("S", refreshed=NOW + ahead), a_session("T"))
    change = book.end_all("stolen", NOW)
    assert change.gone == ("S", "T")
    assert change.ended == 2
    assert change.cut_off is not None
    assert change.cut_off > NOW + ahead - 0.0005
    assert change.cut_off < NOW + ahead + 0.002


def test_to_revoke_the_only_token_of_a_session_without_refresh_ends_it() -> None:
    plain = a_session("S", family=None)
    change = a_book(plain).revoke_token("S", "S-0", LATER, NOW)
    assert (change.gone, change.revoked) == (("S",), {"S-0": LATER})
    change = a_book(a_session("S")).revoke_token("S", "S-0", LATER, NOW)
    assert (change.gone, change.kept) == ([], (a_session("S", tokens=0),))


@pytest.mark.parametrize("sid", [None, "unknown", "S"])
def test_a_token_that_no_session_has_is_revoked_all_the_same(sid: str | None) -> None:
    change = a_book(a_session("S")).revoke_token(sid, "T", LATER, NOW)
    assert (change.revoked, change.gone, change.kept) == ({"T": LATER}, (), ())
