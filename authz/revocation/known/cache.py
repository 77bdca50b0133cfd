"""What this process was told about single tokens, in bounded memory.

Two memories stand side by side, so that no flood of `not revoked` answers can push out a known
revocation: what is known to be revoked stays revoked (DESIGN section 3, promise 2). They differ in
what a wrong answer would cost: a revocation is believed until the token has expired, a `not
revoked` only for a moment.
"""

from collections import OrderedDict

from cachetools import LRUCache

from authz.revocation.record import ANY_USER, Revoked, TokenRef

_Key = tuple[str, str]
"""User, or `ANY_USER`, and TID."""

_ClearKey = tuple[str, str, int]
"""User, TID and `iat`: an issuer that gives a renewed token the `jti` of the old one must not lend
the old one, which a cut-off revoked, the answer about the new one."""


class RevocationCache:
    """Revoked tokens, and the store's recent words about tokens that are not.

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
        """Revocations that were pushed out while they still counted. Those that the feed told of
        are in its filter; without a feed `cache.revocations` is too small."""
        self.evictions_clear = 0
        """`Not revoked` answers that were pushed out before their time."""
        self.negative_ttl = negative_ttl
        self._revoked: LRUCache[_Key, float] = LRUCache(revocations)
        self._clear_max = revocations
        self._clear: OrderedDict[_ClearKey, tuple[float, int]] = OrderedDict()
        """To when it was stored, in that order (all are believed for the same time), and the
        version of what was known then."""

    @property
    def size_revoked(self) -> int:
        """Entries held, whether or not they still count."""
        return len(self._revoked)

    @property
    def size_clear(self) -> int:
        """Entries held, whether or not they still count."""
        return len(self._clear)

    def revoked(self, ref: TokenRef, now: float) -> Revoked | None:
        """The revocation of the token itself, if one is known.

        One that ran out is not believed, but not erased either: a clock that was wrong for a moment
        must not make us forget it. Nobody uses it, so it is pushed out.
        """
        for user in (ref.user, ANY_USER):
            until = self._revoked.get((user, ref.token))
            if until is not None and now < until:
                return Revoked(until)
        return None

    def keep_revoked(self, user: str, token: str, until: float, now: float) -> bool:
        """Remember it. Whether that says more than what was known: a shorter `until` doesn't."""
        key = (user, token)
        known = self._revoked.get(key)
        if known is None and len(self._revoked) >= self._revoked.maxsize:
            _, pushed_out = self._revoked.popitem()
            self.evictions_revoked += now < pushed_out
        if known is not None and known >= until:
            return False
        self._revoked[key] = until
        return True

    def clear_since(self, ref: TokenRef, version: int, now: float) -> float | None:
        """When the store said that the token is not revoked, if that may still be repeated: it is
        not too old, not ahead of a clock set back, and nothing was learnt of the token since.
        """
        stored = self._clear.get(_clear_key(ref))
        if stored is None or stored[1] != version:
            return None
        return stored[0] if stored[0] <= now < stored[0] + self.negative_ttl else None

    def keep_clear(self, ref: TokenRef, version: int, now: float) -> None:
        """Remember that the store said so. What ran out leaves by this: with many tokens that come
        once, it would be most.
        """
        if self.negative_ttl <= 0:
            return
        clear = self._clear
        key = _clear_key(ref)
        clear[key] = (now, version)
        clear.move_to_end(key)
        while True:
            oldest, (stored_at, _) = next(iter(clear.items()))
            counts = now < stored_at + self.negative_ttl
            if counts and len(clear) <= self._clear_max:
                return
            del clear[oldest]
            self.evictions_clear += counts


def _clear_key(ref: TokenRef) -> _ClearKey:
    return (ref.user, ref.token, ref.issued_at)
