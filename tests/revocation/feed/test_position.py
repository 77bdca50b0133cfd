"""How far a bucket has been followed, and what is to be read next."""

import json
from typing import Any

import pytest
from revocation.entries import token_entry

from authz.revocation.entry import EntryError
from authz.revocation.feed.position import MAX_AHEAD, NOTHING, Position, Push, Step, Tip
from support.revocations import named_ref

E1, E2 = "epoch-1", "epoch-2"


def tip(seq: int, *, epoch: str = E1, of: str = "") -> Tip:
    """`of`: the history, where there is more than one."""
    return Tip(epoch, seq, f"{seq}-{of or 0}")


def push(first: int, last: int = 0, *, epoch: str = E1, of: str = "", prev: Tip = NOTHING) -> Push:
    """Of the entries `first` to `last`. `prev`: where that isn't the one before in the history."""
    before = prev.id or (tip(first - 1, epoch=epoch, of=of).id if first > 1 else "")
    end = tip(last or first, epoch=epoch, of=of)
    entry = token_entry(named_ref(), 2e9)
    return Push(epoch, before, first, end, [entry] * (end.seq - first + 1))


def position(at: Tip | None = None) -> Position:
    one = Position()
    if at is not None:
        one.read_up_to(at)
    return one


# Pushes


def test_it_begins_nowhere_and_calls_for_all_of_the_stream() -> None:
    one = position()
    assert one.at is None
    assert not one.pushed(push(1))
    assert one.judge(None, tip(1)) is Step.RESYNC


def test_pushes_that_follow_take_it_along() -> None:
    one = position(tip(5))
    assert one.pushed(push(6))
    assert one.pushed(push(7, 9))
    assert one.at == tip(9)


def test_the_first_revocation_of_a_bucket_follows_on_nothing() -> None:
    one = position(NOTHING)
    assert one.pushed(push(1, 2))
    assert one.at == tip(2)


def test_a_push_that_is_repeated_changes_nothing() -> None:
    one = position(tip(5))
    one.pushed(push(6))
    for again in (push(6), push(3), push(4, 5)):
        assert one.pushed(again)
    assert one.at == tip(6)


@pytest.mark.parametrize(
    "ahead",
    [
        push(7),
        push(8, 9),
        push(6, prev=tip(5, of="other")),
        push(6, epoch=E2, prev=tip(5)),
        push(1, epoch=E2),
    ],
    ids=["one was lost", "two were lost", "another before it", "another epoch", "a new beginning"],
)
def test_a_push_that_does_not_follow_is_a_gap(ahead: Push) -> None:
    one = position(tip(5))
    assert not one.pushed(ahead)
    assert one.at == tip(5)


def test_pushes_that_came_while_the_stream_was_read_follow_on_it_in_any_order() -> None:
    one = position(tip(5))
    for number in (9, 7, 8, 8):
        assert not one.pushed(push(number))
    one.read_up_to(tip(6))
    assert one.at == tip(9)


def test_pushes_of_before_anything_was_read_follow_too() -> None:
    one = position()
    for number in (3, 2, 1):
        one.pushed(push(number))
    one.read_up_to(NOTHING)
    assert one.at == tip(3)


def test_what_was_read_and_pushed_counts_once() -> None:
    one = position(tip(5))
    for number in (7, 8, 9):
        one.pushed(push(number))
    one.read_up_to(tip(8))
    assert one.at == tip(9)


def test_a_push_that_still_does_not_follow_waits_for_the_next_reading() -> None:
    one = position(tip(5))
    one.pushed(push(9))
    one.read_up_to(tip(6))
    assert one.at == tip(6)
    one.read_up_to(tip(8))
    assert one.at == tip(9)


def test_of_very_many_that_are_ahead_the_rest_costs_another_reading() -> None:
    one = position(tip(5))
    for number in range(7, 7 + MAX_AHEAD + 10):
        one.pushed(push(number))
    one.read_up_to(tip(6))
    assert one.at == tip(6 + MAX_AHEAD)
    assert one.judge(one.at, tip(6 + MAX_AHEAD + 10)) is Step.CATCH_UP


def test_pushes_of_a_data_set_that_is_gone_take_no_room() -> None:
    one = position(tip(5))
    for number in range(1000, 1000 + MAX_AHEAD):
        one.pushed(push(number))
    one.read_up_to(tip(1, epoch=E2))
    one.pushed(push(3, epoch=E2))
    one.read_up_to(tip(2, epoch=E2))
    assert one.at == tip(3, epoch=E2)


# Tips


def test_the_tip_of_what_is_known_calls_for_nothing() -> None:
    for at in (tip(5), NOTHING):
        assert position(at).judge(at, at) is Step.NOTHING
    trimmed = Tip(E1, 5, "5-0", first=3)
    assert position(tip(5)).judge(tip(5), trimmed) is Step.NOTHING


def test_a_tip_that_is_ahead_calls_for_what_follows() -> None:
    assert position(tip(5)).judge(tip(5), tip(6)) is Step.CATCH_UP
    assert position(NOTHING).judge(NOTHING, tip(1)) is Step.CATCH_UP


@pytest.mark.parametrize("named", [
    tip(4), tip(5, of="other"), tip(5, epoch=E2), tip(6, epoch=E2), tip(1, epoch=E2), NOTHING,
], ids=repr)  # fmt: skip
def test_a_tip_of_another_history_says_that_the_one_known_is_lost(named: Tip) -> None:
    assert position(tip(5)).judge(tip(5), named) is Step.LOST


@pytest.mark.parametrize("named", [tip(5), tip(9)], ids=repr)
def test_without_a_place_any_tip_calls_for_all_of_the_stream(named: Tip) -> None:
    """Also where it was lost, or found, since the tip was asked for."""
    assert position().judge(None, named) is Step.RESYNC
    assert position(tip(5)).judge(None, named) is Step.RESYNC
    lost = position(tip(5))
    lost.lose()
    assert lost.judge(tip(5), named) is Step.RESYNC


@pytest.mark.parametrize(
    ("asked_at", "pushes"),
    [(tip(5), [push(6), push(7, 9)]), (NOTHING, [push(1), push(2)])],
    ids=["some", "the first ones"],
)
def test_a_tip_that_pushes_overtook_is_no_loss(asked_at: Tip, pushes: list[Push]) -> None:
    """Whichever of them it has seen: as of when it was asked for, nothing is missing."""
    for named in (asked_at, *(one.last for one in pushes)):
        one = position(asked_at)
        for each in pushes:
            assert one.pushed(each)
        assert one.judge(asked_at, named) is Step.NOTHING


@pytest.mark.parametrize("named", [tip(5, of="other"), tip(6, of="other"), tip(7, of="other")])
def test_a_tip_of_another_history_is_a_loss_wherever_pushes_lead(named: Tip) -> None:
    """Those of a master that doesn't know yet that it is none any more."""
    one = position(tip(5))
    one.pushed(push(6))
    one.pushed(push(7))
    assert one.judge(tip(5), named) is Step.LOST


def test_a_tip_of_before_it_was_asked_for_is_a_loss_though_we_were_there_once() -> None:
    """An older copy took over."""
    one = position(tip(5))
    one.pushed(push(6))
    one.pushed(push(7))
    assert one.judge(tip(7), tip(6)) is Step.LOST


def test_a_push_that_led_astray_after_a_loss_calls_for_what_is_missing_again() -> None:
    """At NOTHING a late push of the old history looks like a first one."""
    one = position(NOTHING)
    one.pushed(push(1))
    assert one.judge(NOTHING, tip(1, epoch=E2)) is Step.LOST


@pytest.mark.parametrize("named", [tip(4), tip(5, of="other"), tip(1, epoch=E2), NOTHING], ids=repr)
def test_a_loss_shows_also_while_there_is_no_place(named: Tip) -> None:
    """The place was lost, or the first reading hasn't come to its end: some entries are known."""
    lost = position(tip(5))
    lost.lose()
    beginning = position()
    beginning.judge(None, tip(5))
    for one in (lost, beginning):
        assert one.judge(None, named) is Step.LOST
        assert one.judge(None, named) is Step.RESYNC  # once


def test_after_a_loss_the_place_is_lost() -> None:
    one = position(tip(5))
    assert one.judge(tip(5), tip(4)) is Step.LOST
    assert one.at is None
    one.lose()
    assert one.judge(None, tip(4)) is Step.RESYNC


# What is read of the wire


def message(**changes: Any) -> dict[str, Any]:
    fields = {"kind": "token", "user": "u", "before": "", "expires": "1800000000000"}
    rows = [{**fields, "token": f"t-{n}", "seq": str(n), "id": f"{n}-0"} for n in (6, 7)]
    return {"epoch": E1, "prev": "5-0", "entries": rows, **changes}


def test_a_push_is_what_the_script_published() -> None:
    read = Push.of_message(json.loads(json.dumps(message())))
    assert (read.epoch, read.prev, read.first, read.last) == (E1, "5-0", 6, tip(7))
    assert [entry.token for entry in read.entries] == ["t-6", "t-7"]


ROW = message()["entries"][0]


@pytest.mark.parametrize("bad", [
    [], "text", 7, None, {},
    message(entries=[]), message(entries={}), message(entries="ab"), message(entries=[7]),
    message(entries=[{**ROW, "seq": "x"}]),
    message(entries=[{**ROW, "seq": float("inf")}]),
    message(entries=[{**ROW, "expires": float("inf")}]),
    message(entries=[{**ROW, "token": ["x"]}]),
    message(entries=[{**ROW, "kind": "device"}]),
    message(entries=[ROW, ROW]),
    message(entries=[ROW, {**ROW, "seq": "8"}]),
    message(entries=[{name: value for name, value in ROW.items() if name != "id"}]),
], ids=repr)  # fmt: skip
def test_what_is_no_push_is_an_error_and_nothing_else(bad: Any) -> None:
    with pytest.raises(EntryError):
        Push.of_message(bad)


def test_a_tip_is_read_from_its_hash() -> None:
    assert Tip.of_reply([b"epoch-1", b"5", b"5-0", b"3"]) == Tip(E1, 5, "5-0", 3)
    assert Tip.of_reply([b"epoch-1", b"5", b"5-0", None]) == Tip(E1, 5, "5-0", 0)
    assert Tip.of_reply([None, None, None, None]) == NOTHING


@pytest.mark.parametrize("reply", [
    [b"epoch-1", b"x", b"5-0", None],
    [b"\xff", b"5", b"5-0", None],
    [b"epoch-1", b"5", b"5-0", b"x"],
], ids=repr)  # fmt: skip
def test_what_is_no_tip_is_an_error(reply: list[bytes | None]) -> None:
    with pytest.raises(EntryError):
        Tip.of_reply(reply)


def test_word_of_withdrawn_keys_is_no_matter_of_the_streams() -> None:
    """A tip that has only that is of a bucket without any revocation so far."""
    told = Tip.of_reply([None, None, None, None, b"1800000000000"])
    assert (told, told.keys) == (NOTHING, 1_800_000_000_000)
    told = Tip.of_reply([b"epoch-1", b"5", b"5-0", b"3", b"7"])
    assert (told, told.keys) == (Tip(E1, 5, "5-0", 3), 7)
    assert Tip.of_reply([b"epoch-1", b"5", b"5-0", b"3", None]).keys == 0
