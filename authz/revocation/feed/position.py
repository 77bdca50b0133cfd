"""How far one bucket's revocations have been followed, and what is to be read next.

No socket and no clock: what was pushed and what a node said of its stream come in, and out comes
whether something is missing. Entries are numbered without a gap, a push names the entry before it,
and the tip of the stream has the number, the id and the epoch of its last one. So everything that
can go wrong shows in one of these: a lost push (a gap), a stream that was cut (its first entry), a
failover or a restart that lost entries (a number that went back, or has another id), another data
set (another epoch).

Whatever is pushed or read is believed at once, in any order: revocations only ever add. The
position merely says whether that was all.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto, unique
from typing import Any, Self

from authz.revocation.entry import Entry, EntryError
from authz.revocation.feed.news import announced

MAX_AHEAD = 1024
"""Pushes of a bucket that are kept while its stream is being read, to go on from there without a
gap: a second of a thousand revocations each second. Those beyond cost one more reading. As many are
remembered of those that followed, for a tip that is older than the last."""


_ID = re.compile(r"\d{1,16}-\d{1,20}", re.ASCII)
"""Of a stream entry: milliseconds since 1970, and a number within them."""


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a stream ends. The fields of the hash `jwt:{B}:tip`."""

    epoch: str
    """Of the data set: drawn anew where there was no tip. Empty: nothing was ever revoked."""
    seq: int
    """Number of the last entry, counted from 1 in the epoch."""
    id: str
    """Its id in the stream."""
    first: int = 0
    """Number of the oldest entry that the stream's own trimming by age has left; 0: unknown."""
    keys: int = field(default=0, compare=False)
    """The last word of signing keys that were withdrawn; 0: none. No matter of the stream's."""

    @classmethod
    def of_reply(cls, values: Sequence[bytes | None]) -> Self:
        """Of HMGET with `FIELDS`, and `news.KEYS` where that is wanted. EntryError: it can't be
        read.
        """
        epoch, seq, last, first, *rest = values
        keys = announced(rest[0]) if rest else 0
        if epoch is None:
            return cls("", 0, "", keys=keys)
        try:
            return cls(epoch.decode(), int(seq or 0), (last or b"").decode(), int(first or 0), keys)
        except ValueError as error:
            raise EntryError(f"not a tip: {error}") from None


FIELDS = ("epoch", "seq", "id", "first")

NOTHING = Tip("", 0, "")
"""Of a bucket without any revocation so far."""


@dataclass(frozen=True, slots=True)
class Push:
    """What is published when revocations were written: one call's, all of one bucket."""

    epoch: str
    prev: str
    """Id of the entry before the first; empty where there was none."""
    first: int
    """Number of the first entry."""
    last: Tip
    entries: Sequence[Entry]

    @classmethod
    def of_message(cls, message: Mapping[str, Any]) -> Self:
        """EntryError: it can't be read."""
        try:
            rows = message["entries"]
            epoch, prev = str(message["epoch"]), str(message["prev"])
            first, last = int(rows[0]["seq"]), int(rows[-1]["seq"])
            entries = [Entry.of_fields(row) for row in rows]
            tip = Tip(epoch, last, str(rows[-1]["id"]))
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise EntryError(f"not a push: {error!r}") from None
        if last - first + 1 != len(entries):
            raise EntryError("not a push: its numbers have a gap")
        if not _ID.fullmatch(tip.id):
            raise EntryError("not a push: its id is none of a stream")
        return cls(epoch, prev, first, tip, entries)


@unique
class Step(Enum):
    """What a bucket needs."""

    NOTHING = auto()
    """All that the stream holds is known."""
    CATCH_UP = auto()
    """Read the stream from here on."""
    RESYNC = auto()
    """Read all of it, and what is known of it stays in force."""
    LOST = auto()
    """The same, and the store has lost entries that are known here."""


class Position:
    """One bucket's. Begins nowhere: the first step is RESYNC."""

    def __init__(self) -> None:
        self.at: Tip | None = None
        """The last entry up to which nothing is missing. None: the stream was never read whole."""
        self.losses = 0
        """How often `lose` was called: whoever began to read before that read too little."""
        self._ahead: list[Push] = []
        self._named: Tip | None = None
        """How far the stream was known to go when it was last judged, or when `at` was lost."""
        self._passed: dict[int, str] = {}
        """The number and id of each push's last entry since the last judgement."""

    def pushed(self, push: Push) -> bool:
        """A push came; its entries are believed already. Whether it follows on what is known; if
        not, the stream has to be read.
        """
        if self.at is None:
            self._keep(push)
            return False
        if self._advance(push):
            return True
        if push.epoch == self.at.epoch and push.last.seq <= self.at.seq:
            return True  # read from the stream before it arrived
        self._keep(push)
        return False

    def judge(self, asked_at: Tip | None, tip: Tip) -> Step:
        """What the tip that a node named calls for. `asked_at`: where we were when it was asked,
        for pushes may have overtaken its answer.
        """
        step = self._step(asked_at, tip)
        self._named, self._passed = tip, {}
        if step is Step.LOST:
            self.at = None
        return step

    def shows_loss(self, asked_at: Tip | None, tip: Tip) -> bool:
        """Whether `judge` would say LOST. Changes nothing, so it may be asked in between."""
        return self._step(asked_at, tip) is Step.LOST

    def _step(self, asked_at: Tip | None, tip: Tip) -> Step:
        at = self.at
        if at is None or asked_at is None:
            return Step.LOST if _is_gone(self._named, tip) else Step.RESYNC
        if (tip.epoch, tip.seq, tip.id) == (asked_at.epoch, asked_at.seq, asked_at.id):
            return Step.NOTHING  # also where a push of something newer overtook the answer
        if tip.epoch != at.epoch:
            # A bucket's first revocation has the epoch drawn; everywhere else a new one means that
            # the old history is gone.
            return Step.CATCH_UP if at == NOTHING else Step.LOST
        if tip.seq > at.seq:
            return Step.CATCH_UP
        # A tip is always the last entry of a call, and so of a push.
        is_ours = tip.seq > asked_at.seq and tip.id == self._passed.get(tip.seq)
        return Step.NOTHING if is_ours else Step.LOST

    def read_up_to(self, tip: Tip) -> None:
        """The stream was read without a gap up to this entry. What was pushed meanwhile follows,
        or has led further already.
        """
        if self.at is None or self.at.epoch != tip.epoch or self.at.seq < tip.seq:
            self.at = tip
        ahead, self._ahead = sorted(self._ahead, key=lambda push: push.first), []
        for push in ahead:
            if self._advance(push):
                continue
            # One of a data set that is gone would wait for ever.
            if push.epoch == tip.epoch and push.last.seq > tip.seq:
                self._keep(push)

    def lose(self) -> None:
        """Start over: read the whole stream. Whether the store loses entries meanwhile is judged by
        how far it was known to go.
        """
        self._named, self.at = self.at or self._named, None
        self.losses += 1

    def _advance(self, push: Push) -> bool:
        at = self.at
        if at is None or push.first != at.seq + 1 or push.prev != at.id:
            return False
        if push.epoch != at.epoch and at != NOTHING:
            return False
        self.at = push.last
        self._passed[push.last.seq] = push.last.id
        if len(self._passed) > MAX_AHEAD:
            del self._passed[next(iter(self._passed))]
        return True

    def _keep(self, push: Push) -> None:
        if len(self._ahead) < MAX_AHEAD:
            self._ahead.append(replace(push, entries=()))


def _is_gone(named: Tip | None, tip: Tip) -> bool:
    """Whether the history in which `named` was the last entry is not the one of `tip`."""
    if named is None or named == NOTHING:
        return False
    if tip.epoch != named.epoch or tip.seq < named.seq:
        return True
    return tip.seq == named.seq and tip.id != named.id
