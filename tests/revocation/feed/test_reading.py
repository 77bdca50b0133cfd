"""Reading a bucket's stream: what is told, and what is found missing."""

import asyncio
from collections.abc import Sequence

import pytest
from revocation.entries import token_entry

from authz.revocation.feed.position import NOTHING, Tip
from authz.revocation.feed.reading import Reading, read_all, read_on
from authz.revocation.feed.source import PAGE, Row, SourceError
from support.revocations import named_ref

EPOCH = "epoch-1"
BUCKET = 3


def tip(seq: int, of: str = "0", first: int = 0) -> Tip:
    """`of`: the history, where there is more than one."""
    return Tip(EPOCH, seq, row(seq, of).id, first)


def row(seq: int, of: str = "0", *, numbered: bool = True, readable: bool = True) -> Row:
    entry = token_entry(named_ref(f"t-{seq}"), 2e9) if readable else None
    return Row(f"{1000 + seq}-{of}", seq if numbered else 0, entry)


def rows(first: int, last: int, of: str = "0") -> list[Row]:
    return [row(seq, of) for seq in range(first, last + 1)]


class Stream:
    """Of one bucket. Fails at the page of the number `fails_at`, if that is asked for."""

    def __init__(self, content: Sequence[Row], fails_at: int = -1) -> None:
        self.content = list(content)
        self.pages: list[str] = []
        self._fails_at = fails_at

    async def page(self, bucket: int, start: str) -> list[Row]:
        assert bucket == BUCKET
        self.pages.append(start)
        if len(self.pages) - 1 == self._fails_at:
            raise SourceError("timed out")
        after, wanted = start.startswith("("), start.removeprefix("(")
        found = [
            one for one in self.content
            if wanted == "-" or (one.id > wanted if after else one.id >= wanted)
        ]  # fmt: skip
        return found[:PAGE]


class Told(list[Row]):
    """What was heard."""

    @property
    def numbers(self) -> list[int]:
        return [one.seq for one in self]


def on(stream: Stream, at: Tip, to: Tip) -> tuple[Reading, Told]:
    told = Told()
    return asyncio.run(read_on(stream, BUCKET, at, to, told.append)), told


def whole(stream: Stream, to: Tip) -> tuple[Reading, Told]:
    told = Told()
    return asyncio.run(read_all(stream, BUCKET, to, told.append)), told


# Onwards from an entry


def test_what_follows_is_told_and_nothing_twice() -> None:
    """Not the entry that reading goes on from: it is known, and old perhaps."""
    reading, told = on(Stream(rows(1, 7)), tip(5), tip(7))
    assert reading == Reading(tip(7))
    assert told.numbers == [6, 7]


def test_from_nothing_all_of_it_follows() -> None:
    reading, told = on(Stream(rows(1, 3)), NOTHING, tip(3))
    assert reading == Reading(tip(3))
    assert told.numbers == [1, 2, 3]


def test_it_goes_on_to_the_end_beyond_the_tip_that_was_named() -> None:
    reading, told = on(Stream(rows(1, 9)), tip(5), tip(7))
    assert reading == Reading(tip(9))
    assert told.numbers == [6, 7, 8, 9]


@pytest.mark.parametrize("more", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE - 1, 2 * PAGE])
def test_a_page_that_is_full_to_the_last_entry_is_followed_by_another(more: int) -> None:
    reading, told = on(Stream(rows(1, 5 + more)), tip(5), tip(5 + more))
    assert reading == Reading(tip(5 + more))
    assert told.numbers == list(range(6, 6 + more))


def test_a_gap_is_found_and_the_rest_is_told_all_the_same() -> None:
    stream = Stream([*rows(1, 6), *rows(8, 9)])
    reading, told = on(stream, tip(5), tip(9))
    assert reading.end is None
    assert not reading.lost
    assert told.numbers == [6, 8, 9]


def test_a_gap_between_two_pages_is_found() -> None:
    last = 5 + PAGE - 1
    stream = Stream([*rows(5, last), *rows(last + 2, last + 9)])
    reading, told = on(stream, tip(5), tip(last + 9))
    assert (reading.end, reading.lost) == (None, False)
    assert told.numbers[-1] == last + 9


@pytest.mark.parametrize("content", [rows(7, 9), []], ids=["cut", "deleted"])
def test_a_stream_that_was_cut_behind_what_is_known_is_no_loss(content: list[Row]) -> None:
    """What was cut may have been missed, or not: the whole of it is to be read."""
    reading, _ = on(Stream(content), tip(5), tip(9))
    assert (reading.end, reading.lost) == (None, False)
    assert "cut" in reading.cause


def test_a_stream_that_was_cut_right_up_to_what_is_known_has_lost_nothing() -> None:
    reading, told = on(Stream(rows(5, 7)), tip(5), tip(7))
    assert reading == Reading(tip(7))
    assert told.numbers == [6, 7]


@pytest.mark.parametrize(
    "content",
    [
        [*rows(1, 4), *rows(5, 9, of="other")],
        rows(1, 9, of="other"),
        [row(4), Row(row(5).id, 6, None)],
    ],
    ids=["from here on", "all", "the same id, another number"],
)
def test_another_history_is_a_loss(content: list[Row]) -> None:
    reading, _ = on(Stream(content), tip(5), tip(9, of="other"))
    assert (reading.end, reading.lost) == (None, True)


def test_a_stream_that_begins_later_than_at_its_first_has_a_gap() -> None:
    reading, told = on(Stream(rows(2, 3)), NOTHING, tip(3))
    assert (reading.end, reading.lost) == (None, False)
    assert told.numbers == [2, 3]


def test_a_stream_without_the_tip_that_was_named_is_not_believed() -> None:
    """It was replaced, or its end deleted, since the tip was named."""
    for content in (rows(1, 6), [*rows(1, 6), row(7, of="other")]):
        reading, _ = on(Stream(content), tip(5), tip(7))
        assert (reading.end, reading.lost) == (None, False)


def test_an_entry_that_cannot_be_read_has_its_place() -> None:
    stream = Stream([*rows(1, 5), row(6, readable=False), row(7)])
    reading, told = on(stream, tip(5), tip(7))
    assert reading == Reading(tip(7))
    assert [one.entry is None for one in told] == [True, False]


def test_entries_without_a_number_are_told_and_are_no_gap() -> None:
    """An earlier version writes them, before the first number or after the last."""
    stream = Stream([row(1, numbered=False), Row(row(2).id, 1, None), row(3, numbered=False)])
    first = Tip(EPOCH, 1, row(2).id)
    reading, told = on(stream, NOTHING, first)
    assert (reading.end, reading.lost, len(told)) == (first, False, 3)
    again, told = whole(stream, first)
    assert (again.end, again.whole, len(told)) == (first, False, 3)


def test_what_was_read_before_a_failure_was_told() -> None:
    told = Told()
    stream = Stream(rows(5, 5 + 2 * PAGE), fails_at=1)
    with pytest.raises(SourceError):
        asyncio.run(read_on(stream, BUCKET, tip(5), tip(5 + 2 * PAGE), told.append))
    assert told.numbers == list(range(6, 5 + PAGE))


# All of it


@pytest.mark.parametrize("count", [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE])
def test_a_stream_from_its_first_entry_on_is_whole(count: int) -> None:
    stream = Stream(rows(1, count))
    reading, told = whole(stream, tip(count, first=1))
    assert reading == Reading(tip(count))
    assert told.numbers == list(range(1, count + 1))
    assert stream.pages[0] == "-"
    assert len(stream.pages) == count // PAGE + 1


def test_a_stream_is_whole_from_the_entry_on_that_its_trimming_by_age_has_left() -> None:
    reading, _ = whole(Stream(rows(4, 9)), tip(9, first=4))
    assert reading == Reading(tip(9))


@pytest.mark.parametrize("first", [0, 1, 3, 6])
def test_a_stream_that_was_cut_otherwise_is_not_whole(first: int) -> None:
    """It has an end all the same: up to there, the keys tell."""
    reading, told = whole(Stream(rows(5, 9)), tip(9, first=first))
    assert (reading.end, reading.whole) == (tip(9), False)
    assert told.numbers == [5, 6, 7, 8, 9]


def test_a_stream_with_a_gap_is_not_whole() -> None:
    reading, told = whole(Stream([*rows(1, 4), *rows(6, 9)]), tip(9, first=1))
    assert (reading.end, reading.whole) == (tip(9), False)
    assert told.numbers == [1, 2, 3, 4, 6, 7, 8, 9]


def test_a_new_epoch_behind_the_entries_of_the_old_one_is_not_whole() -> None:
    stream = Stream([*rows(1, 4), Row(row(5).id, 1, None)])
    reading, _ = whole(stream, Tip(EPOCH, 1, row(5).id, first=1))
    assert (reading.end, reading.whole) == (Tip(EPOCH, 1, row(5).id), False)


def test_it_goes_on_to_the_end_beyond_the_tip() -> None:
    reading, told = whole(Stream(rows(1, 9)), tip(7, first=1))
    assert reading == Reading(tip(9))
    assert told.numbers[-1] == 9


def test_where_nothing_was_ever_revoked_nothing_is_missing() -> None:
    """Most buckets of a new deployment: walking over all keys for them would be waste."""
    reading, told = whole(Stream([]), NOTHING)
    assert (reading.end, reading.whole, told) == (NOTHING, True, [])


def test_a_stream_that_is_gone_ends_at_its_tip() -> None:
    reading, _ = whole(Stream([]), tip(9, first=1))
    assert (reading.end, reading.whole) == (tip(9, first=1), False)


def test_a_stream_whose_last_entry_is_gone_ends_at_its_tip() -> None:
    reading, told = whole(Stream(rows(1, 8)), tip(9, first=1))
    assert (reading.end, reading.whole) == (tip(9, first=1), False)
    assert told.numbers[-1] == 8


@pytest.mark.parametrize(
    "content",
    [
        rows(1, 9, of="other"),
        rows(1, 12, of="other"),
    ],
    ids=["as long", "longer"],
)
def test_a_stream_that_is_another_than_the_tips_has_no_end(content: list[Row]) -> None:
    """It was replaced while we read: the next tip is of it."""
    reading, told = whole(Stream(content), tip(9, first=1))
    assert reading.end is None
    assert len(told) == len(content)


@pytest.mark.parametrize(
    "content",
    [
        [row(1, numbered=False), row(2, numbered=False)],
        rows(1, 2),
    ],
    ids=["of before entries were numbered", "whose tip was deleted"],
)
def test_a_stream_without_a_tip_is_told_and_ends_at_nothing(content: list[Row]) -> None:
    """So that it can be followed, beginning with the next entry, which will be the first one."""
    reading, told = whole(Stream(content), NOTHING)
    assert (reading.end, reading.whole) == (NOTHING, False)
    assert len(told) == 2


def test_entries_without_a_number_are_told_and_leave_the_stream_not_whole() -> None:
    first = Row(row(3).id, 1, None)
    stream = Stream([row(1, numbered=False), row(2, numbered=False), first])
    reading, told = whole(stream, Tip(EPOCH, 1, first.id, first=0))
    assert (reading.end, reading.whole) == (Tip(EPOCH, 1, first.id), False)
    assert len(told) == 3


def test_entries_that_cannot_be_read_leave_the_stream_whole() -> None:
    stream = Stream([row(1, readable=False), row(2), row(3, readable=False)])
    reading, told = whole(stream, tip(3, first=1))
    assert reading == Reading(tip(3))
    assert len(told) == 3


def test_a_failure_on_the_way_is_told_to_whoever_reads() -> None:
    told = Told()
    stream = Stream(rows(1, 2 * PAGE), fails_at=1)
    with pytest.raises(SourceError):
        asyncio.run(read_all(stream, BUCKET, tip(2 * PAGE), told.append))
    assert len(told) == PAGE
