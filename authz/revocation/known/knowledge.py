"""What this process knows about revocations, without asking anyone.

Four memories, from the most to the least exact: revoked tokens it heard of lately (`cache`), the
cut-offs of users (`cutoffs`), the store's recent words about tokens that are not revoked (`cache`),
and a filter over all revoked tokens that are still alive (`filter`), which may be wrong in one
direction only. The filter's "no" counts as long as the feed is live: when it was last verified
that nothing is missing (`live_until`).

They only ever learn: nothing that the store says, or forgets, takes a revocation back.
"""

from authz.revocation.entry import TOKEN, Entry
from authz.revocation.known.cache import RevocationCache
from authz.revocation.known.cutoffs import Cutoffs
from authz.revocation.known.filter import Presence, RevocationFilter
from authz.revocation.known.versions import Versions, slot_of
from authz.revocation.record import (
    CLEAR,
    POSSIBLY_REVOKED,
    Answer,
    Clear,
    Finding,
    PossiblyRevoked,
    Revoked,
    TokenRef,
)
from authz.settings import MAX_LEEWAY, MAX_LIFETIME

NEVER = float("-inf")


class Knowledge:
    """Of one process.

    `now` is in seconds since 1970, `monotonic` in seconds of a clock that isn't set: the latter for
    what must not hold longer because a clock was set back.
    """

    def __init__(
        self, *, revocations: int, negative_ttl: float, false_positives: float, buckets: int
    ) -> None:
        """`revocations`, `negative_ttl`: as for `RevocationCache`. `false_positives`: the share of
        good tokens that the filter may take for revoked ones.
        """
        self.cache = RevocationCache(revocations, negative_ttl)
        self.filter = RevocationFilter(false_positives)
        self.cutoffs = Cutoffs()
        self.live_until = [NEVER] * buckets
        """By bucket: until when (`monotonic`) what is known of it counts as all there is."""
        self.filtered = dict.fromkeys(Presence, 0)
        """Tokens that were looked for in the filter, by what it said."""
        self._versions = Versions()
        self._counters = self._versions.counters

    def recall(
        self, ref: TokenRef, now: float, monotonic: float, last: Clear = CLEAR
    ) -> Revoked | PossiblyRevoked | Clear | None:
        """What is known of the token; None where the store has to be asked.

        `last`: what this said of the same token the time before. It is repeated without looking
        anything up while nothing was learnt of the token and its time is not over. Not before
        it was said, either: where a clock is set back, a revocation that had run out may count
        again.
        """
        counters = self._counters
        if (
            counters[last.token_slot] + counters[last.user_slot] == last.version
            and last.since <= now
            and (monotonic < self.live_until[ref.bucket] if last.followed else now < last.until)
        ):
            self.cache.hits_clear += 1
            return last
        revoked = self.revocation_of(ref, now)
        if revoked is not None:
            self.cache.hits_revoked += 1
            return revoked
        return self._look_up(ref, now, monotonic)

    def _look_up(
        self, ref: TokenRef, now: float, monotonic: float
    ) -> PossiblyRevoked | Clear | None:
        presence = self.filter.find(ref.token)
        self.filtered[presence] += 1
        token_slot, user_slot = slot_of(ref.token), slot_of(ref.user)
        version = self._counters[token_slot] + self._counters[user_slot]
        if presence is Presence.NO and monotonic < self.live_until[ref.bucket]:
            self.cache.hits_clear += 1
            return Clear(token_slot, user_slot, version, followed=True, since=now)
        clear_since = self.cache.clear_since(ref, version, now)
        if clear_since is None:
            self.cache.misses += 1
            return None
        self.cache.hits_clear += 1
        until = clear_since + self.cache.negative_ttl
        return Clear(token_slot, user_slot, version, since=now, until=until)

    def conclude(self, ref: TokenRef, answer: Answer, now: float, monotonic: float) -> Finding:
        """What the store's answer, or its silence, means together with what is known by now: the
        answer may be of the time before a revocation that came in meanwhile.
        """
        known = self.revocation_of(ref, now)
        if known is not None:
            return known
        if isinstance(answer, Revoked):
            return answer
        presence = self.filter.find(ref.token)
        if isinstance(answer, Clear):
            # A store that lost its memory clears everybody.
            return POSSIBLY_REVOKED if presence is Presence.FORGOTTEN else answer
        if presence is not Presence.NO:
            return POSSIBLY_REVOKED
        return CLEAR if monotonic < self.live_until[ref.bucket] else answer

    def suspects(self, ref: TokenRef) -> bool:
        """Whether the filter takes the token for revoked."""
        return self.filter.find(ref.token) is not Presence.NO

    def revocation_of(self, ref: TokenRef, now: float) -> Revoked | None:
        """The revocation that is known of the token, without doubt. Counts as neither hit nor
        miss.
        """
        if self.cutoffs.revokes(ref.user, ref.issued_at):
            return self._by_cutoff(ref)
        return self.cache.revoked(ref, now)

    def _by_cutoff(self, ref: TokenRef) -> Revoked:
        cut = float(self.cutoffs.get(ref.user) or 0)
        return Revoked(cut + MAX_LIFETIME + MAX_LEEWAY, cut)

    def hear(self, entry: Entry, now: float, *, just_now: bool) -> None:
        """The feed has this revocation. `just_now`: it was written a moment ago, so its token is
        one that somebody may be using: it is remembered exactly, too.
        """
        if entry.kind != TOKEN:
            if self.cutoffs.add(entry.user, entry.before / 1000, now):
                self._versions.touch(entry.user)
            return
        until = entry.expires / 1000
        self.filter.add(entry.token, until - MAX_LEEWAY, now)
        if just_now:
            self.cache.keep_revoked(entry.user, entry.token, until, now)
        self._versions.touch(entry.token)

    def learn(self, ref: TokenRef, finding: Revoked | Clear, now: float) -> None:
        """The store said this of the token. Nothing ever lowers what is known: not a `Clear` that
        was under way when the revocation came, not an earlier cut-off, not a shorter `until`.
        """
        if isinstance(finding, Clear):
            if self.revocation_of(ref, now) is None and not self.suspects(ref):
                version = self._counters[slot_of(ref.token)] + self._counters[slot_of(ref.user)]
                self.cache.keep_clear(ref, version, now)
            return
        if finding.not_before is not None:
            if self.cutoffs.add(ref.user, finding.not_before, now):
                self._versions.touch(ref.user)
        elif self.cache.keep_revoked(ref.user, ref.token, finding.until, now):
            self._versions.touch(ref.token)

    def lose_history(self) -> None:
        """The store no longer has all that the filter was told: its word that a token is clear
        doesn't count against the filter any more.
        """
        self.filter.mark_forgotten()
        self._versions.touch_all()

    def tidy(self, now: float, monotonic: float) -> None:
        """Let go of what has expired. Called about once a second."""
        self.filter.tidy(now, monotonic)
        self.cutoffs.tidy(now, monotonic)
