"""What follows on a cursor, and what calls for a new beginning: decided without a socket."""

import pytest

from authz.relay.cursor import Broken, Cursor, Step, following, judge, milliseconds
from authz.revocation.feed.position import NOTHING, Tip
from authz.revocation.feed.source import Row

AT_5 = Cursor("e", 5, "50-0")
EMPTY = Cursor.at(NOTHING)


def tip(seq: int, *, epoch: str = "e", last: str = "", first: int = 1) -> Tip:
    return Tip(epoch, seq, last or f"{seq}0-0", first)


def row(seq: int, entry_id: str = "") -> Row:
    return Row(entry_id or f"{seq}0-0", seq, None)


@pytest.mark.parametrize(
    ("cursor", "end", "step"),
    [
        (None, NOTHING, Step.START_OVER),
        (None, tip(3), Step.START_OVER),
        (EMPTY, NOTHING, Step.NOTHING),
        (EMPTY, tip(3), Step.READ_ON),
        (AT_5, tip(5), Step.NOTHING),
        (AT_5, tip(6), Step.READ_ON),
        (AT_5, tip(4), Step.START_OVER),
        (AT_5, tip(5, last="51-0"), Step.START_OVER),
        (AT_5, tip(5, epoch="f"), Step.START_OVER),
        (AT_5, tip(9, epoch="f"), Step.START_OVER),
        (AT_5, NOTHING, Step.START_OVER),
    ],
)
def test_the_end_of_the_stream_says_what_is_to_be_done(
    cursor: Cursor | None, end: Tip, step: Step
) -> None:
    found, cause = judge(cursor, end)
    assert found is step
    assert bool(cause) == (step is Step.START_OVER)


@pytest.mark.parametrize(
    ("rows", "copied"),
    [
        ([row(5)], []),
        ([row(5), row(6), row(7)], [6, 7]),
        ([], None),
        ([row(6)], None),  # ours is gone, though nothing seems to be missing: see below
        ([row(5), row(7)], None),
        ([row(5), row(6), row(6, "61-0")], None),
        ([row(5), row(0, "55-0")], None),  # of a version that did not number them
        ([row(4, "50-0"), row(5, "51-0")], None),
        ([row(5, "51-0"), row(6)], None),
    ],
)
def test_a_page_follows_on_the_cursor_or_is_broken(
    rows: list[Row], copied: list[int] | None
) -> None:
    """An entry that is missing before the first of the page could have been another failover's."""
    found = following(AT_5, tip(9), rows)
    if copied is None:
        assert isinstance(found, Broken)
        assert found.cause
    else:
        assert not isinstance(found, Broken)
        assert [one.seq for one in found] == copied


@pytest.mark.parametrize(
    ("cursor", "first", "rows", "follows"),
    [
        (AT_5, 6, [row(6), row(7)], True),
        (AT_5, 9, [row(9)], True),  # those between have expired unread
        (AT_5, 5, [row(6)], False),
        (AT_5, 9, [row(8), row(9)], False),
        (Cursor("e", 0, ""), 9, [row(9)], True),
        (Cursor("e", 0, ""), 9, [row(1), row(2)], True),
        (Cursor("e", 0, ""), 9, [row(8), row(9)], False),
        (Cursor("e", 0, ""), 1, [row(2)], False),
        (Cursor("e", 0, ""), 0, [row(0, "1-0"), row(1)], False),
    ],
)
def test_what_age_has_trimmed_is_not_missed(
    cursor: Cursor, first: int, rows: list[Row], follows: bool
) -> None:
    """The tip names the entry that age has left as the first; only that may stand there."""
    assert isinstance(following(cursor, tip(9, first=first), rows), Broken) is not follows


@pytest.mark.parametrize("cursor", [AT_5, EMPTY])
def test_a_cursor_is_read_as_it_was_written(cursor: Cursor) -> None:
    written = [str(value).encode() for value in cursor.fields()[1::2]]
    assert Cursor.of_reply(written) == cursor


@pytest.mark.parametrize(
    "values",
    [(None, None, None), (b"e", None, b"1-0"), (b"e", b"-1", b"1-0"), (b"e", b"x", b"1-0")],
)
def test_what_is_no_cursor_is_none(values: tuple[bytes | None, ...]) -> None:
    assert Cursor.of_reply(values) is None


def test_a_cursor_reaches_the_ends_of_its_own_stream_only() -> None:
    assert AT_5.reaches(tip(5))
    assert AT_5.reaches(tip(4))
    assert not AT_5.reaches(tip(6))
    assert not AT_5.reaches(tip(5, epoch="f"))


def test_the_id_of_an_entry_says_when_it_was_written() -> None:
    assert milliseconds("1700000000000-7") == 1_700_000_000_000
    assert milliseconds("nonsense") == milliseconds("") == 0
