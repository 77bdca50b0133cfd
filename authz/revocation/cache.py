"""What this process knows about revocations, without asking anyone.

Two bounded memories stand side by side, so that no flood of `not revoked` answers can push out a
known revocation: what is known to be revoked stays revoked (DESIGN section 3, promise 2). They
differ in what a wrong answer would cost: a revocation is believed until the token has expired,
a `not revoked` only for a moment.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

from cachetools import LRUCache

from authz.revocation.record import CLEAR, Clear, Revoked, TokenRef

_Key = tuple[str, str]
"""User and TID; a user's cut-off has `_WHOLE_USER` for TID."""

_ClearKey = tuple[str, str, int]
"""User, TID and `iat`: an issuer that gives a renewed token the `jti` of the old one must not lend
the old one, which a cut-off revoked, the answer about the new one."""

_WHOLE_USER = ""
"""Cut-offs and tokens share the memory for revocations. No TID is empty, so the two can't meet."""


@dataclass(frozen=True, slots=True)
class _Known:
    revoked: Revoked
    learnt_at: float
    """When this was first known as it stands. Seconds since 1970."""


class RevocationCache:
    """Findings of the store, by token, and cut-offs, by user.

    Times are seconds since 1970; the caller passes the present one in. The counters are plain
    integers that only grow, for metrics to read.
    """

    def __init__(self, revocations: int, negative_ttl: float) -> None:
        """`revocations`: how many are kept, and as many `not revoked` answers, each of these for
        `negative_ttl` seconds (0: none is kept).
        """
        self.hits_revoked = 0
        self.hits_clear = 0
        self.misses = 0
        self.evictions_revoked = 0
        """Revocations that were pushed out while they still counted: `cache.revocations` is too
        small, and during an outage of the store these tokens would be let through."""
        self.evictions_clear = 0
        """`Not revoked` answers that were pushed out before their time."""
        self.epoch = 0
        """Grows with every revocation that is learnt. Whoever remembers that a token was clear, and
        at which epoch, needn't ask again while it is the same: see `find`."""
        self._negative_ttl = negative_ttl
        self._revoked: LRUCache[_Key, _Known] = LRUCache(revocations)
        self._clear_max = revocations
        self._clear: OrderedDict[_ClearKey, float] = OrderedDict()
        """To when it was stored, in that order: all are believed for the same time."""

    @property
    def size_revoked(self) -> int:
        """Entries held, cut-offs of users included, whether or not they still count."""
        return len(self._revoked)

    @property
    def size_clear(self) -> int:
        """Entries held, whether or not they still count."""
        return len(self._clear)

    def find(self, ref: TokenRef, now: float, last: Clear = CLEAR) -> Revoked | Clear | None:
        """What is known of the token; None where the store has to be asked.

        `last`: what this said of the same token the time before. It is repeated without looking
        anything up while nothing was learnt since (`epoch`) and its time is not over. Not before
        it was said, either: where a clock is set back, a revocation that had run out may count
        again.

        Revocations that ran out are not believed, but not erased either: a clock that was wrong for
        a moment must not make us forget one. Nobody uses them, so they are pushed out.
        """
        if last.epoch == self.epoch and last.since <= now < last.until:
            self.hits_clear += 1
            return last
        revoked = self.revocation_of(ref, now)
        if revoked is not None:
            self.hits_revoked += 1
            return revoked
        stored_at = self._clear.get(_clear_key(ref))
        if (
            stored_at is not None
            and stored_at <= now < stored_at + self._negative_ttl  # not ahead of a clock set back
            and stored_at >= self._cutoff_learnt_at(ref.user)
        ):
            self.hits_clear += 1
            return Clear(self.epoch, now, stored_at + self._negative_ttl)
        self.misses += 1
        return None

    def remember(self, ref: TokenRef, finding: Revoked | Clear, now: float) -> None:
        """Keep what the store said. Nothing ever lowers what is known: not a `Clear` that was
        under way when the revocation came, not an earlier cut-off, not a shorter `until`.
        """
        match finding:
            case Clear():
                if self._negative_ttl > 0 and self.revocation_of(ref, now) is None:
                    self._remember_clear(_clear_key(ref), now)
            case Revoked(not_before=None):
                self.forget_clear(ref)
                self._keep((ref.user, ref.token), finding, now)
            case Revoked():
                self.forget_clear(ref)
                self._keep((ref.user, _WHOLE_USER), finding, now)

    def forget_clear(self, ref: TokenRef) -> None:
        """Ask the store the next time, unless the token is known to be revoked."""
        self._clear.pop(_clear_key(ref), None)
        self.epoch += 1  # what was given out counts no more

    def revocation_of(self, ref: TokenRef, now: float) -> Revoked | None:
        """The revocation that is known of the token. Counts as neither hit nor miss."""
        token = self._revoked.get((ref.user, ref.token))
        if token is not None and now < token.revoked.until:
            return token.revoked
        cutoff = self._revoked.get((ref.user, _WHOLE_USER))
        if cutoff is not None and _covers(cutoff.revoked, ref, now):
            return cutoff.revoked
        return None

    def _cutoff_learnt_at(self, user: str) -> float:
        """Answers about this user from before then are void: they may be of the time before the
        cut-off. Those since, about tokens of a new log-in, count.
        """
        cutoff = self._revoked.get((user, _WHOLE_USER))
        return -math.inf if cutoff is None else cutoff.learnt_at

    def _keep(self, key: _Key, finding: Revoked, now: float) -> None:
        known = self._revoked.get(key)
        if known is None:
            if len(self._revoked) >= self._revoked.maxsize:
                _, pushed_out = self._revoked.popitem()
                self.evictions_revoked += now < pushed_out.revoked.until
            self._revoked[key] = _Known(finding, now)
            return
        merged = _later(known.revoked, finding)
        if merged != known.revoked:
            self._revoked[key] = _Known(merged, now)

    def _remember_clear(self, key: _ClearKey, now: float) -> None:
        """What ran out leaves by this: with many tokens that come once, it would be most."""
        clear = self._clear
        clear[key] = now
        clear.move_to_end(key)
        while True:
            oldest, stored_at = next(iter(clear.items()))
            counts = now < stored_at + self._negative_ttl
            if counts and len(clear) <= self._clear_max:
                return
            del clear[oldest]
            self.evictions_clear += counts


def _clear_key(ref: TokenRef) -> _ClearKey:
    return (ref.user, ref.token, ref.issued_at)


def _covers(cutoff: Revoked, ref: TokenRef, now: float) -> bool:
    return (
        cutoff.not_before is not None and ref.issued_at < cutoff.not_before and now < cutoff.until
    )


def _later(known: Revoked, new: Revoked) -> Revoked:
    """The stronger of two revocations of the same thing, in each field."""
    until = max(known.until, new.until)
    if known.not_before is None or new.not_before is None:
        return Revoked(until, known.not_before)
    return Revoked(until, max(known.not_before, new.not_before))
