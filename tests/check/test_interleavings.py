"""Whatever happens in whatever order: each answer is that of a plain model, to the byte.

Checks remember a lot: the token, its verdict and answer, that it was not revoked a moment ago.
Here tokens of several users are checked on several routes, with and without forged headers, while
revocations arrive, the feed is live or isn't, the store answers late or not at all or loses its
history, keys are rotated and the clock is set forward and back.
"""

import asyncio
import math
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from check.fakes import (
    NOW,
    FakeKeys,
    FakeRecorder,
    claims,
    make_verifier,
    public_keys,
)
from check.model import (
    LEEWAY,
    Heard,
    Learnt,
    Lost,
    Model,
    Token,
    conclude,
    plain_answer,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from revocation.entries import cutoff_entry, token_entry

from authz.check.authorizer import Authorizer
from authz.check.claims import identity_of
from authz.check.credentials import CredentialFinder
from authz.check.guards import all_guards
from authz.check.policy import RoutePolicies
from authz.check.request import PlainRequest
from authz.check.verdict import Decision, Verdict, deny
from authz.envoy_api import check_pb2 as pb
from authz.envoy_api.codec import encode
from authz.envoy_api.service import CheckService
from authz.revocation.known.filter import Presence
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.known.versions import slot_of
from authz.revocation.record import (
    ANY_USER,
    POSSIBLY_REVOKED,
    Answer,
    Clear,
    Finding,
    Revoked,
    TokenRef,
    Unavailable,
)
from authz.revocation.store import Acknowledgement, TokenRevocation, UserRevocation
from authz.revocation.view import Revocations
from authz.settings import IssuerlessSettings
from authz.uses.ledger import Ledger
from support.jwks import ISSUER, PrivateKey, ec_key, rsa_key, sign

REQUEST_ID = "7d1c"
BOTH = {"old", "new"}
KEYS: dict[str, PrivateKey] = {"old": rsa_key(), "new": ec_key()}


def make_token(name: str, kid: str, **changes: Any) -> Token:
    values = claims(**changes)
    text = sign(values, KEYS[kid], kid=kid)
    identity = identity_of(values, ISSUER, text.rpartition(".")[0].encode(), 16)
    usable_from = max(identity.ref.issued_at, values.get("nbf", 0))
    return Token(name, text, kid, usable_from, identity)


TOKENS = [
    make_token("plain", "old", sub="ann", jti="a-1", iat=NOW - 100),
    make_token("renewed", "old", sub="ann", jti="a-1", iat=NOW),
    make_token("no jti", "new", sub="ann", jti=..., iat=NOW - 50, scope="admin"),
    make_token("short", "old", sub="bob", jti="b-1", iat=NOW - 100, exp=NOW + 2),
    make_token("early", "new", sub="bob", jti="b-2", nbf=NOW + 7, scope=""),
]
ROUTES = [
    {},
    {"virtual_host": "shop"},
    {"authz.scopes": "admin"},
    {"authz.audience": "billing"},
    {"authz.fail_mode": "closed"},
    {"authz.mode": "optional"},
]
FORGED = ["x-authz-subject", "x_authz_scopes", "x-authz-other"]


@dataclass(slots=True)
class Pending:
    """A check that waits for the store."""

    token: Token
    extensions: dict[str, str]
    forged: list[str]
    task: "asyncio.Task[bytes]"


NAMES = {name for token in TOKENS for name in (token.ref.user, token.ref.token)}
SHARED = len({slot_of(name) for name in NAMES}) < len(NAMES)
"""Two of them share a counter by chance, so that what is learnt of one concerns both."""


class Store:
    """Answers a look-up when and as it is told."""

    def __init__(self) -> None:
        self.at_once: Answer | None = None
        self.asked: list[tuple[TokenRef, asyncio.Future[Answer]]] = []
        self.questions = 0

    def find(self, ref: TokenRef) -> Answer | Awaitable[Answer]:
        self.questions += 1
        if self.at_once is not None:
            return self.at_once
        answer = asyncio.get_event_loop().create_future()
        self.asked.append((ref, answer))
        return answer

    async def revoke_token(self, revocation: TokenRevocation) -> Acknowledgement:
        raise NotImplementedError

    async def revoke_user(self, revocation: UserRevocation) -> Acknowledgement:
        raise NotImplementedError

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    def status(self) -> dict[str, Any]:
        return {}


class Uncounted:
    def count(self, verdict: Verdict, seconds: float) -> None: ...


tokens = st.sampled_from(TOKENS)
routes = st.sampled_from(ROUTES)
forged_headers = st.lists(st.sampled_from(FORGED), unique=True)
untils = st.sampled_from([NOW + 0.5, NOW + 1.0, NOW + 3.0, NOW + 1000.0])
cutoffs = st.sampled_from([NOW - 99.0, NOW - 40.0, NOW + 1.0])
revocations = st.builds(Revoked, untils, st.none() | cutoffs)
heard = st.sampled_from(["token", "token", "token of any user", "cut-off"])
unavailable = st.just(Unavailable("timeout"))


Happening = Revoked | tuple[str, float, float, bool] | str
happenings: st.SearchStrategy[Happening] = st.one_of(
    revocations,
    st.tuples(heard, untils, cutoffs, st.booleans()),
    st.sampled_from(["live", "later", "lost"]),
)


class Interleavings(RuleBasedStateMachine):
    """One sidecar, from its start."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.pending: list[Pending] = []

    def teardown(self) -> None:
        for _, answer in self.store.asked:
            if not answer.done():
                answer.set_result(Unavailable("timeout"))
        self.turn()
        self.loop.close()

    @initialize(negative_ttl=st.sampled_from([1.0, 1.0, 4.0, 0.0]), room=st.sampled_from([100, 2]))
    def start(self, negative_ttl: float, room: int) -> None:
        self.now = float(NOW)
        self.monotonic = 100.0
        self.model = Model(negative_ttl)
        self.store = Store()
        self.store.at_once = Clear()
        self.latest = TOKENS[0]
        self.keys = FakeKeys(None)
        self.recorder = FakeRecorder()
        self.keys_are_rotated(BOTH, audit_works=True)
        # Room for all revocations: what is pushed out is forgotten, and that has its own tests.
        self.knowledge = Knowledge(
            revocations=100, negative_ttl=negative_ttl, false_positives=1e-9, buckets=16
        )
        self.view = Revocations(self.knowledge, lambda: self.now, lambda: self.monotonic)
        self.view._tidied_at = math.inf  # when the filter believes a clock is not this model's
        self.view.use(self.store)
        authorizer = Authorizer(
            credentials=CredentialFinder(["header:authorization", "cookie:__Host-access"]),
            verifier=make_verifier(self.keys, leeway=LEEWAY, cache_size=room),
            revocations=self.view,
            policies=RoutePolicies("open"),
            guards=all_guards(IssuerlessSettings()),
            ledger=Ledger(None),
            recorder=self.recorder,
            clock=lambda: self.now,
        )
        self.service = CheckService(authorizer, Uncounted())

    # What happens

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 5.0, -0.25, -0.5, -1.0, -5.0]))
    def the_clock_goes(self, seconds: float) -> None:
        """The one that can be set, back too; the other one only goes on."""
        self.now = max(NOW - 6.0, self.now + seconds)
        self.monotonic += max(0.25, seconds)

    @rule(
        kids=st.sampled_from([BOTH, BOTH, BOTH, {"old"}, {"new"}, set()]), audit_works=st.booleans()
    )
    def keys_are_rotated(self, kids: set[str], audit_works: bool) -> None:
        self.kids = kids
        # New objects each time, so that sets are compared and not only looked at.
        self.keys.keys = public_keys(*((KEYS[kid], kid) for kid in sorted(kids)))
        self.recorder.works = audit_works

    @rule(token=tokens, finding=revocations)
    def a_revocation_arrives(self, token: Token, finding: Revoked) -> None:
        """By an answer that came too late for who asked."""
        self.learn(token.ref, finding)

    @rule(token=tokens, what=heard, until=untils, before=cutoffs, just_now=st.booleans())
    def the_feed_tells(
        self, token: Token, what: str, until: float, before: float, just_now: bool
    ) -> None:
        ref = token.ref
        if what == "cut-off":
            entry, told = cutoff_entry(ref, before), Heard(ref.user, "", before, just_now, self.now)
        else:
            any_user = what == "token of any user"
            entry = token_entry(ref, until, any_user=any_user)
            user = ANY_USER if any_user else ref.user
            told = Heard(user, ref.token, until, just_now, self.now)
        self.knowledge.hear(entry, self.now, just_now=just_now)
        self.model.events.append(told)

    @rule(token=tokens, just_now=st.booleans())
    def the_feed_tells_of_the_token(self, token: Token, just_now: bool) -> None:
        self.latest = token
        self.the_feed_tells(token, "token", NOW + 1000.0, 0.0, just_now)

    @rule(token=tokens, seconds=st.sampled_from([0.25, 1.0, 2.0, 10.0]))
    def the_feed_of_a_bucket_is_verified(self, token: Token, seconds: float) -> None:
        until = self.monotonic + seconds
        self.knowledge.live_until[token.ref.bucket] = until
        self.model.live_until[token.ref.bucket] = until

    @rule()
    def the_store_is_found_to_have_lost_its_history(self) -> None:
        self.knowledge.lose_history()
        self.model.events.append(Lost(self.now))

    @rule(answer=st.sampled_from([None, None, Clear(), Clear()]) | revocations | unavailable)
    def the_store_answers_at_once(self, answer: Answer | None) -> None:
        self.store.at_once = answer

    @rule(finding=st.just(Clear()) | revocations | unavailable, data=st.data())
    def the_store_answers(self, finding: Answer, data: st.DataObject) -> None:
        """One of those who asked before."""
        open_questions = [one for one in self.store.asked if not one[1].done()]
        if not open_questions:
            return
        self.settle(*data.draw(st.sampled_from(open_questions)), finding)

    def settle(self, ref: TokenRef, answer: asyncio.Future[Answer], finding: Answer) -> None:
        if not isinstance(finding, Unavailable):
            self.learn(ref, finding)
        waiting = [one for one in self.pending if one.token.ref == ref]
        answer.set_result(finding)
        self.turn()
        for one in waiting:
            self.pending.remove(one)
            self.expect_conclusion(one, finding)

    # What is asked

    @rule(extensions=routes, forged=forged_headers)
    def the_token_comes_again(self, extensions: dict[str, str], forged: list[str]) -> None:
        self.a_request_comes(self.latest, extensions, forged)

    @rule(seconds=st.sampled_from([0.25, 1.0, -0.25, -1.0]), extensions=routes)
    def the_token_comes_at_another_time(self, seconds: float, extensions: dict[str, str]) -> None:
        self.the_clock_goes(seconds)
        self.a_request_comes(self.latest, extensions, [])

    @rule(what=happenings)
    def something_happens_between_two_requests(self, what: Happening) -> None:
        self.a_request_comes(self.latest, {}, [])
        self.happen(what)
        self.a_request_comes(self.latest, {}, [])

    @rule(what=happenings, answer=st.just(Clear()) | revocations | unavailable)
    def something_happens_while_the_store_is_asked(self, what: Happening, answer: Answer) -> None:
        at_once, self.store.at_once = self.store.at_once, None
        self.a_request_comes(self.latest, {}, [])
        self.happen(what)
        for ref, asked in self.store.asked:
            if ref == self.latest.ref and not asked.done():
                self.settle(ref, asked, answer)
        self.a_request_comes(self.latest, {}, [])
        self.store.at_once = at_once

    def happen(self, what: Happening) -> None:
        """To the token that came last."""
        match what:
            case Revoked():
                self.learn(self.latest.ref, what)
            case (word, until, before, just_now):
                self.the_feed_tells(self.latest, word, until, before, just_now)
            case "live":
                self.the_feed_of_a_bucket_is_verified(self.latest, 2.0)
            case "later":
                self.the_clock_goes(2.0)
            case "lost":
                self.the_store_is_found_to_have_lost_its_history()

    @rule(token=tokens, extensions=routes, forged=forged_headers)
    def a_request_comes(self, token: Token, extensions: dict[str, str], forged: list[str]) -> None:
        self.latest = token
        asked_before, learnt_before = self.store.questions, len(self.store.asked)
        in_flight = any(ref == token.ref and not one.done() for ref, one in self.store.asked)
        data = request_bytes(token, extensions, forged)
        task = self.loop.create_task(self.ask(data))
        self.turn()
        asked = self.store.questions > asked_before
        one = Pending(token, extensions, forged, task)

        refusal = self.model.refusal(token, self.kids, self.now)
        if refusal is not None:
            assert not asked
            self.expect_bytes(one, task.result(), deny(refusal))
            return
        if self.model.is_revoked(token.ref, self.now):
            assert not asked
            self.expect(one, task.result(), Revoked(0.0))
            return
        presence = self.model.presence(token.ref)
        followed = presence is Presence.NO and self.model.is_live(token.ref, self.monotonic)
        if not asked and not (in_flight and not task.done()):
            assert followed or self.model.may_repeat(token.ref, self.now)
            known = POSSIBLY_REVOKED if presence is Presence.FORGOTTEN else Clear()
            self.expect(one, task.result(), known)
            return
        assert not followed
        assert SHARED or not self.model.must_repeat(token.ref, self.now)
        assert asked != in_flight, "equal questions are shared"
        if self.store.at_once is not None and not in_flight:
            assert len(self.store.asked) == learnt_before
            if not isinstance(self.store.at_once, Unavailable):  # which the view has done itself
                self.model.events.append(Learnt(token.ref, self.store.at_once, self.now))
            self.expect_conclusion(one, self.store.at_once)
            return
        assert not task.done()
        self.pending.append(one)

    @invariant()
    def nobody_is_left_waiting(self) -> None:
        questions = {ref for ref, one in self.store.asked if not one.done()}
        assert all(one.token.ref in questions for one in self.pending)

    # How it is compared

    def learn(self, ref: TokenRef, finding: Revoked | Clear) -> None:
        self.view.learn(ref, finding)
        self.model.events.append(Learnt(ref, finding, self.now))

    def expect_conclusion(self, one: Pending, answer: Answer) -> None:
        finding = self.model.conclude(one.token.ref, answer, self.now, self.monotonic)
        self.expect(one, one.task.result(), finding)

    def expect(self, one: Pending, answer: bytes, finding: Finding) -> None:
        verdict = conclude(one.token, one.extensions, finding, audit_works=self.recorder.works)
        self.expect_bytes(one, answer, verdict)

    def expect_bytes(self, one: Pending, answer: bytes, verdict: Verdict) -> None:
        forged = tuple(one.forged)
        fresh = encode(verdict, PlainRequest(request_id=REQUEST_ID, forged=forged))
        assert pb.CheckResponse.FromString(answer) == pb.CheckResponse.FromString(fresh)
        if verdict.decision is not Decision.DENY:
            assert pb.CheckResponse.FromString(answer) == plain_answer(verdict, forged)

    async def ask(self, data: bytes) -> bytes:
        answer = self.service.check(data)
        return answer if isinstance(answer, bytes) else await answer

    def turn(self) -> None:
        """Let everything that can go on do so."""
        for _ in range(8):
            self.loop.run_until_complete(asyncio.sleep(0))


def request_bytes(token: Token, extensions: dict[str, str], forged: list[str]) -> bytes:
    message = pb.CheckRequest()
    headers = message.attributes.request.http.headers
    headers["authorization"] = f"Bearer {token.text}".encode()
    headers["x-request-id"] = REQUEST_ID.encode()
    for name in forged:
        headers[name] = b"forged"
    for name, value in extensions.items():
        message.attributes.context_extensions[name] = value
    return message.SerializeToString()


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no bug
)
