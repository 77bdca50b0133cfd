"""Whatever happens to pushes, streams, replies, clocks and the store itself: what was acknowledged
is known as soon as it was verified that nothing is missing, what is known stays, and nobody else is
refused.

The feed is the real one, with its positions, readings and knowledge. Instead of nodes and
connections it has a store in memory whose every reply comes when the test says so.
"""

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from revocation.entries import cutoff_entry, token_entry
from revocation.feed.followed import (
    BUCKETS,
    LEEWAY,
    LIFETIMES,
    MAX_STALENESS,
    ROUNDS,
    START,
    TICK,
    TOKENS,
    TURNS,
    Acknowledged,
    Event,
    Listening,
    Quiet,
)
from revocation.feed.world import PAGE, Data, World

from authz.revocation.entry import TOKEN, Entry
from authz.revocation.feed import feed as feed_module
from authz.revocation.feed import reading
from authz.revocation.feed.feed import Feed
from authz.revocation.feed.reader import READ_AGAIN
from authz.revocation.known.filter import Presence
from authz.revocation.known.knowledge import NEVER
from authz.revocation.record import (
    CLEAR,
    Answer,
    Clear,
    Finding,
    Revoked,
    TokenRef,
    Unavailable,
)
from authz.revocation.redis.nodes import Nodes
from authz.settings import FeedSettings, StoreSettings


class FollowedStore(RuleBasedStateMachine):
    """One sidecar's feed, and the store that it follows."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.patches: list[Any] = [
            patch.object(feed_module, "log", Quiet()),
            patch.object(reading, "PAGE", PAGE),
        ]
        for one in self.patches:
            one.start()
        self.world = World(BUCKETS)
        self.monotonic = 1000.0
        self.ahead = 0.0
        """Seconds that our clock is ahead of the true time."""
        self.acknowledged: list[Acknowledged] = []
        self.round: asyncio.Task[bool] | None = None
        self.prolonged = 0
        """Seconds by which a revocation said more than the one before it."""
        self.store_is_sound = True
        """It never forgot anything."""

    def teardown(self) -> None:
        self.stop()
        self.loop.close()
        for one in self.patches:
            one.stop()

    @initialize(negative_ttl=st.sampled_from([0.0, 1.0]))
    def start(self, negative_ttl: float) -> None:
        self.negative_ttl = negative_ttl
        self.knowledge = Listening(negative_ttl)
        self.knowledge.tidy(self.clock(), self.monotonic)
        self.last: dict[TokenRef, Clear] = {}
        self.cleared: dict[TokenRef, float] = {}
        """When the store last said so, monotonic."""
        self.verified: dict[int, tuple[float, float]] = {}
        """By bucket: until when it is live, and when that was found out."""
        nodes = SimpleNamespace(on_recovery=None)
        self.feed = Feed(
            FeedSettings(max_staleness=MAX_STALENESS),
            StoreSettings(buckets=BUCKETS),
            cast("Nodes", nodes),
            self.knowledge,
            clock=self.clock,
            monotonic=lambda: self.monotonic,
            observe_lag=lambda _: None,
        )
        self.feed._source = self.feed._reader._source = cast("Any", self.world)
        self.world.named_at = 0.0
        for one in self.acknowledged:
            one.was_named = False  # to this one, nothing was named yet

    def stop(self) -> None:
        self.loop.run_until_complete(self.feed.aclose())
        if self.round is not None:
            self.round.cancel()
            self.loop.run_until_complete(asyncio.gather(self.round, return_exceptions=True))
        self.round = None
        self.world.requests.clear()

    def clock(self) -> float:
        return self.world.now + self.ahead

    def turn(self) -> None:
        """Let everything that can go on do so, and some time pass."""
        for _ in range(TURNS):
            self.loop.run_until_complete(asyncio.sleep(0))
        if self.round is not None and self.round.done():
            self.round.result()
            self.round = None
        self.pass_time(TICK)

    def pass_time(self, seconds: float) -> None:
        self.monotonic += seconds
        self.world.now += seconds
        self.knowledge.tidy(self.clock(), self.monotonic)

    # Revocations

    @rule(ref=st.sampled_from(TOKENS), lifetime=st.sampled_from(LIFETIMES), whose=st.booleans())
    def a_token_is_revoked(self, ref: TokenRef, lifetime: float, whose: bool) -> None:
        """Or that is prolonged. `whose`: with its user; else it is any user's."""
        entry = token_entry(ref, START + lifetime, any_user=not whose)
        if entry.expires <= self.world.now * 1000:
            return
        self.acknowledge(entry, [ref.bucket] if whose else range(BUCKETS))

    @rule(ref=st.sampled_from(TOKENS), before=st.sampled_from([-75, -25, 0.5, 10]))
    def a_user_is_logged_out(self, ref: TokenRef, before: float) -> None:
        self.acknowledge(cutoff_entry(ref, START + before), [ref.bucket])

    def acknowledge(self, entry: Entry, buckets: Any) -> None:
        for bucket in buckets:
            self.world.write(bucket, entry)
        self.acknowledged += [Acknowledged(bucket, entry, self.world.now) for bucket in buckets]
        self.turn()

    # Pushes

    @precondition(lambda self: self.world.pushes)
    @rule(data=st.data(), again=st.booleans())
    def a_push_arrives(self, data: st.DataObject, again: bool) -> None:
        """In whatever order. `again`: it will once more."""
        number = data.draw(st.integers(0, len(self.world.pushes) - 1))
        bucket, push = self.world.pushes[number]
        if not again:
            del self.world.pushes[number]
        self.feed._on_push(bucket, push)
        self.turn()

    @precondition(lambda self: self.world.pushes)
    @rule()
    def all_pushes_arrive(self) -> None:
        while self.world.pushes:
            self.feed._on_push(*self.world.pushes.pop(0))
        self.turn()

    @precondition(lambda self: self.world.pushes)
    @rule(data=st.data())
    def a_push_is_lost(self, data: st.DataObject) -> None:
        del self.world.pushes[data.draw(st.integers(0, len(self.world.pushes) - 1))]

    # What the feed asks

    @precondition(lambda self: self.round is None)
    @rule()
    def a_round_begins(self) -> None:
        self.round = self.loop.create_task(self.feed._verify())
        self.turn()

    @precondition(lambda self: self.world.requests)
    @rule(data=st.data(), what=st.sampled_from(["make", "arrive", "arrive", "fail"]))
    def a_request_goes_on(self, data: st.DataObject, what: str) -> None:
        request = data.draw(st.integers(0, len(self.world.requests) - 1))
        getattr(self.world, what)(self.world.requests[request])
        self.turn()

    @rule()
    def all_requests_are_answered(self) -> None:
        while self.world.requests:
            self.world.arrive(self.world.requests[0])
            self.turn()

    @rule()
    def all_is_well_for_a_while(self) -> None:
        """Then the feed becomes live, whatever was before."""
        for _ in range(ROUNDS):
            self.all_requests_are_answered()
            self.pass_time(READ_AGAIN)
            if self.round is None:
                self.a_round_begins()
            self.all_requests_are_answered()
            self.all_that_was_verified_is_known()
        assert self.feed.live_buckets == BUCKETS, self.feed.status()
        for ref in TOKENS:
            self.a_token_is_checked(ref, reachable=True)

    @precondition(lambda self: self.round is None)
    @rule(what=st.sampled_from([*Event]), ref=st.sampled_from(TOKENS), data=st.data())
    def something_happens_while_tips_are_under_way(
        self, what: Event, ref: TokenRef, data: st.DataObject
    ) -> None:
        self.all_requests_are_answered()
        self.a_round_begins()
        for request in self.world.requests:
            self.world.make(request)
        self.happen(what, ref, data)
        self.all_requests_are_answered()

    @precondition(lambda self: self.ahead <= 0)
    @rule(what=st.sampled_from([*Event]), ref=st.sampled_from(TOKENS), data=st.data())
    def something_happens_after_all_was_read_anew(
        self, what: Event, ref: TokenRef, data: st.DataObject
    ) -> None:
        """What is known is in the filter alone then."""
        self.the_sidecar_restarts()
        self.all_is_well_for_a_while()
        self.happen(what, ref, data)

    @precondition(lambda self: self.ahead <= 0)
    @rule(
        what=st.sampled_from([*Event]),
        ref=st.sampled_from(TOKENS),
        steps=st.integers(1, 6),
        data=st.data(),
    )
    def something_happens_while_all_is_read_anew(
        self, what: Event, ref: TokenRef, steps: int, data: st.DataObject
    ) -> None:
        self.the_sidecar_restarts()
        self.a_round_begins()
        for _ in range(steps):
            if self.world.requests:
                self.world.arrive(self.world.requests[0])
                self.turn()
        self.happen(what, ref, data)
        self.all_requests_are_answered()

    @rule(
        bursts=st.lists(
            st.tuples(st.integers(1, 3), st.sampled_from(["pushed", "lost", "cut"])),
            min_size=2,
            max_size=4,
        ),
        ref=st.sampled_from(TOKENS),
    )
    def revocations_come_in_bursts(self, bursts: list[tuple[int, str]], ref: TokenRef) -> None:
        """Of one bucket, followed in between. `cut`: all but the last entry of each."""
        for count, fate in bursts:
            self.all_is_well_for_a_while()
            for _ in range(count):
                self.prolonged += 1
                self.a_token_is_revoked(ref, LIFETIMES[-1] + self.prolonged, whose=True)
            if fate == "pushed":
                self.all_pushes_arrive()
            self.world.pushes.clear()
            if fate == "cut":
                self.a_stream_is_cut(ref.bucket, 1)
        self.all_is_well_for_a_while()

    @rule(
        lost=st.lists(st.sampled_from(TOKENS), min_size=1, max_size=3),
        new=st.lists(st.sampled_from(TOKENS), max_size=3),
        pushed=st.booleans(),
    )
    def an_older_copy_goes_on(
        self, lost: list[TokenRef], new: list[TokenRef], pushed: bool
    ) -> None:
        """By as many entries as it lost, or fewer, or more."""
        self.a_replica_gets_this_far()
        for ref in lost:
            self.a_token_is_revoked(ref, LIFETIMES[-1], whose=True)
        self.all_is_well_for_a_while()
        self.take_over(self.world.copies[-1])
        for ref in new:
            self.a_token_is_revoked(ref, LIFETIMES[-1], whose=True)
        if not pushed:
            self.world.pushes.clear()
        self.all_is_well_for_a_while()

    def happen(self, what: Event, ref: TokenRef, data: st.DataObject) -> None:
        match what:
            case Event.REVOCATION:
                self.a_token_is_revoked(ref, LIFETIMES[-1], whose=True)
            case Event.FLUSH:
                self.everything_is_flushed()
            case Event.FAILOVER if self.world.copies:
                self.an_older_copy_takes_over(data)
            case Event.PUSHES:
                self.all_pushes_arrive()
            case Event.CUT:
                self.a_stream_is_cut(ref.bucket, 1)
            case Event.FAILURE if self.world.requests:
                self.world.fail(self.world.requests[0])
                self.turn()

    # What becomes of the store, of time and of the sidecar

    @rule()
    def a_replica_gets_this_far(self) -> None:
        self.world.copy()
        del self.world.copies[:-3]

    @precondition(lambda self: self.world.copies)
    @rule(data=st.data())
    def an_older_copy_takes_over(self, data: st.DataObject) -> None:
        self.take_over(data.draw(st.sampled_from(self.world.copies)))

    def take_over(self, copy: Data) -> None:
        self.world.fail_over(copy)
        self.note_what_is_lost()

    @rule()
    def everything_is_flushed(self) -> None:
        self.world.flush()
        self.note_what_is_lost()

    def note_what_is_lost(self) -> None:
        self.store_is_sound = False
        data, now = self.world.data, self.world.now
        for one in self.acknowledged:
            kept = data.entry(one.bucket, one.entry.user, one.entry.token, now)
            if one.lost_at is None and (
                kept is None or kept.before < one.entry.before or kept.expires < one.entry.expires
            ):
                one.lost_at = self.world.now
                one.was_named = one.at < self.world.named_at
        self.turn()

    @rule(bucket=st.sampled_from(range(BUCKETS)), left=st.integers(0, 3))
    def a_stream_is_cut(self, bucket: int, left: int) -> None:
        self.world.cut(bucket, left)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0, 12.0]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)

    @precondition(lambda self: self.ahead == 0)
    @rule()
    def much_time_passes(self) -> None:
        """Hours of the filter are over and dropped."""
        for _ in range(20):
            self.pass_time(300.0)

    @rule(ahead=st.sampled_from([0.0, 0.0, -3600.0, -3.0, 3.0, 3600.0, 90_000.0]))
    def the_clock_is_set(self, ahead: float) -> None:
        self.ahead = ahead

    @precondition(lambda self: self.ahead <= 0)
    @rule()
    def the_sidecar_restarts(self) -> None:
        """Not while its clock is ahead: what has expired by that is not taken in."""
        self.stop()
        self.start(self.negative_ttl)

    # What has to be so

    @invariant()
    def all_that_was_verified_is_known(self) -> None:
        """Acknowledged before it was asked for, and not lost before it could be read."""
        for bucket, live_until in enumerate(self.knowledge.live_until):
            if live_until != self.verified.get(bucket, (NEVER, 0.0))[0]:
                self.verified[bucket] = live_until, self.world.now
        for one in self.acknowledged:
            live_until, verified_at = self.verified.get(one.bucket, (NEVER, 0.0))
            if self.world.now * 1000 >= one.entry.expires:
                continue
            is_there = one.lost_at is None or one.lost_at > verified_at
            if one.at < self.true_time(live_until - MAX_STALENESS) and is_there:
                assert self.is_known(one.entry), one

    @invariant()
    def a_sound_store_is_never_said_to_have_lost_its_history(self) -> None:
        assert self.knowledge.losses == 0 or not self.store_is_sound

    def is_known(self, entry: Entry) -> bool:
        if entry.kind == TOKEN:
            return self.knowledge.filter.find(entry.token) is not Presence.NO
        return self.knowledge.cutoffs.revokes(entry.user, int(entry.before / 1000) - 1)

    @rule(ref=st.sampled_from(TOKENS), reachable=st.booleans())
    def a_token_is_checked(self, ref: TokenRef, reachable: bool) -> None:
        now, true = self.clock(), self.world.now
        if now >= ref.expires_at + LEEWAY or true >= ref.expires_at + LEEWAY:
            return
        recalled = self.knowledge.recall(ref, now, self.monotonic, self.last.get(ref, CLEAR))
        if isinstance(recalled, Clear):
            self.last[ref] = recalled
        finding = recalled if recalled is not None else self.ask(ref, reachable=reachable)
        if self.is_certain(ref, now):
            assert isinstance(recalled, Revoked)
        elif true < self.knowledge.heard.get(ref.token, 0.0):
            self.check_what_the_filter_has(ref, recalled, finding)
        if not self.was_ever_revoked(ref):
            assert isinstance(finding, Clear | Unavailable)
        self.turn()

    def ask(self, ref: TokenRef, *, reachable: bool) -> Finding:
        answer: Answer = Unavailable("timeout")
        if reachable:
            answer = self.world.data.find(ref, self.world.now)
        if isinstance(answer, Clear):
            self.cleared[ref] = self.monotonic
        if isinstance(answer, Revoked | Clear):
            self.knowledge.learn(ref, answer, self.clock())
        return self.knowledge.conclude(ref, answer, self.clock(), self.monotonic)

    def is_certain(self, ref: TokenRef, now: float) -> bool:
        """It was pushed, or its user's cut-off told."""
        is_pushed = now < self.knowledge.exact.get(ref.token, 0.0)
        return is_pushed or ref.issued_at < self.knowledge.cuts.get(ref.user, 0.0)

    def check_what_the_filter_has(
        self, ref: TokenRef, recalled: Finding | None, finding: Finding
    ) -> None:
        """Only the store can clear it, and only one that the feed doesn't know to have lost it."""
        if isinstance(recalled, Clear):
            assert ref in self.cleared
        if isinstance(finding, Clear):
            assert ref in self.cleared
            losses = self.losses_of(ref)
            assert losses
            asked_at = self.true_time(self.knowledge.live_until[ref.bucket] - MAX_STALENESS)
            for one in losses:
                assert not one.was_named or asked_at <= (one.lost_at or 0.0), "its loss is unseen"
        assert not isinstance(finding, Unavailable)

    def losses_of(self, ref: TokenRef) -> list[Acknowledged]:
        return [
            one
            for one in self.acknowledged
            if one.entry.token == ref.token and one.bucket == ref.bucket and one.lost_at
        ]

    def true_time(self, monotonic: float) -> float:
        """Of a moment in the past."""
        return self.world.now - (self.monotonic - monotonic)

    def was_ever_revoked(self, ref: TokenRef) -> bool:
        return any(
            one.entry.token == ref.token
            or (one.entry.user == ref.user and ref.issued_at < one.entry.before / 1000)
            for one in self.acknowledged
        )


TestFollowedStore = FollowedStore.TestCase
TestFollowedStore.settings = settings(
    max_examples=120,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no bug
)


def test_a_loss_is_noticed_also_while_all_is_being_read() -> None:
    """There is no position then that would show it, but tips were named before."""
    machine = FollowedStore()
    machine.start(0.0)
    first = [ref for ref in TOKENS if ref.bucket == 0]
    for ref in first:
        machine.a_token_is_revoked(ref, LIFETIMES[-1], whose=True)
    machine.world.pushes.clear()
    machine.a_round_begins()
    for _ in range(2):  # the tips and a page of two entries
        machine.world.arrive(machine.world.requests[0])
        machine.turn()
    assert set(machine.knowledge.heard) == {ref.token for ref in first[:PAGE]}
    machine.world.fail(machine.world.requests[0])
    machine.turn()
    machine.everything_is_flushed()
    machine.all_is_well_for_a_while()
    assert machine.knowledge.losses == 1
    assert machine.knowledge.filter.find(first[0].token) is Presence.FORGOTTEN
    machine.teardown()
