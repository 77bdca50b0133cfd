"""What a sidecar has to answer, worked out plainly each time: the model of `test_interleavings`.

It remembers what was told and when, in a list, and nothing that was derived from it.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

from authz.check.token import Identity
from authz.check.verdict import (
    Reason,
    Verdict,
    allow,
    allow_fail_open,
    deny,
)
from authz.envoy_api import check_pb2 as pb
from authz.envoy_api.codec import OWN_HEADERS
from authz.revocation.known.filter import Presence
from authz.revocation.record import (
    POSSIBLY_REVOKED,
    Answer,
    Clear,
    Finding,
    PossiblyRevoked,
    Revoked,
    TokenRef,
    Unavailable,
)

LEEWAY = 5.0


@dataclass(frozen=True, slots=True)
class Token:
    """A token and what is true of it."""

    name: str
    text: str = field(repr=False)
    kid: str = field(repr=False)
    usable_from: int = field(repr=False)
    identity: Identity = field(repr=False)

    @property
    def ref(self) -> TokenRef:
        return self.identity.ref


@dataclass(frozen=True, slots=True)
class Learnt:
    """The store said it."""

    ref: TokenRef
    finding: Revoked | Clear
    at: float


@dataclass(frozen=True, slots=True)
class Heard:
    """The feed told it. `just_now`: of a push."""

    user: str
    """Or `ANY_USER`."""
    token: str
    """Empty for a cut-off."""
    number: float
    """Until when the token is revoked, or which tokens the cut-off speaks of. Seconds."""
    just_now: bool
    at: float


@dataclass(frozen=True, slots=True)
class Lost:
    """It was found out that the store lost its history."""

    at: float


@dataclass(slots=True)
class Model:
    """All that came to be known, in its order, and until when the feed of each bucket is live."""

    negative_ttl: float
    events: list[Learnt | Heard | Lost] = field(default_factory=list)
    live_until: dict[int, float] = field(default_factory=dict)
    """By bucket, on the clock that isn't set."""

    def refusal(self, token: Token, kids: Collection[str], now: float) -> Reason | None:
        """What is wrong with the token, apart from revocation."""
        if now >= token.ref.expires_at + LEEWAY:
            return Reason.TOKEN_EXPIRED
        if token.kid not in kids:
            return Reason.KEY_UNKNOWN
        if now < token.usable_from - LEEWAY:
            return Reason.TOKEN_NOT_YET_VALID
        return None

    def is_revoked(self, ref: TokenRef, now: float) -> bool:
        """Known to be, by itself or by a cut-off of its user. Cut-offs don't run out: all tokens
        that are older have expired for other reasons.
        """
        return _Known.of(self.events, ref).revokes(ref, now)

    def presence(self, ref: TokenRef) -> Presence:
        """Whether the feed told of the token, and whether all that it told then still counts.
        What was over when it was told was left out, all else is in the same hour here.
        """
        told, lost = False, False
        for event in self.events:
            match event:
                case Lost():
                    lost = lost or told
                case Heard(token=ref.token, number=until, at=at) if until >= at:
                    told = True
        return Presence.FORGOTTEN if lost else Presence.MAYBE if told else Presence.NO

    def is_live(self, ref: TokenRef, monotonic: float) -> bool:
        return monotonic < self.live_until.get(ref.bucket, float("-inf"))

    def may_repeat(self, ref: TokenRef, now: float) -> bool:
        """Whether there is an answer of the store that may be repeated."""
        answers = self._clear_answers(ref)
        return any(said <= now < said + self.negative_ttl for said in answers)

    def must_repeat(self, ref: TokenRef, now: float) -> bool:
        """Whether the latest such answer is to be repeated. Not where the clock was set back after
        it had run out: it may be gone by then.
        """
        ahead = max((now, *(one.at for one in self.events)))
        answers = self._clear_answers(ref)
        if not answers or ahead >= answers[-1] + self.negative_ttl:
            return False
        return answers[-1] <= now

    def conclude(self, ref: TokenRef, answer: Answer, now: float, monotonic: float) -> Finding:
        """What an answer of the store means with what is known by now."""
        if self.is_revoked(ref, now):
            return Revoked(0.0)  # whatever the store said
        presence = self.presence(ref)
        match answer:
            case Clear() if presence is Presence.FORGOTTEN:
                return POSSIBLY_REVOKED
            case Unavailable() if presence is not Presence.NO:
                return POSSIBLY_REVOKED
            case Unavailable() if self.is_live(ref, monotonic):
                return Clear()
        return answer

    def _clear_answers(self, ref: TokenRef) -> list[float]:
        """When the store said so, since anything was learnt that concerns the token. What it says
        of one that the filter lists is not kept: each time it has to show that it remembers.
        """
        answers: list[float] = []
        known = _Known()
        if self.presence(ref) is not Presence.NO:
            return answers
        for event in self.events:
            if known.take(event, ref):
                answers.clear()
            elif (
                isinstance(event, Learnt)
                and isinstance(event.finding, Clear)
                and event.ref == ref
                and not known.revokes(ref, event.at)
            ):
                answers.append(event.at)
        return answers


@dataclass(slots=True)
class _Known:
    """What revokes one token."""

    own: dict[str, float] = field(default_factory=dict)
    """Until when, by user: its own, or any."""
    cut: int = 0

    @classmethod
    def of(cls, events: list[Learnt | Heard | Lost], ref: TokenRef) -> Self:
        known = cls()
        for event in events:
            known.take(event, ref)
        return known

    def take(self, event: Learnt | Heard | Lost, ref: TokenRef) -> bool:
        """Whether anything is new for the token. Whatever the feed told of it always is."""
        match event:
            case Learnt(one, Revoked(until, None)) if (one.user, one.token) == _names(ref):
                return self._prolong(one.user, until)
            case Learnt(one, Revoked(_, float(cut))) if one.user == ref.user:
                return self._cut_off(cut)
            case Heard(user, "", cut) if user == ref.user:
                return self._cut_off(cut)
            case Heard(user, ref.token, until, just_now):
                if just_now:
                    self._prolong(user, until)
                return True
            case Lost():
                return True
        return False

    def revokes(self, ref: TokenRef, now: float) -> bool:
        return now < max(self.own.values(), default=0.0) or ref.issued_at < self.cut

    def _prolong(self, user: str, until: float) -> bool:
        known, self.own[user] = self.own.get(user, 0.0), max(until, self.own.get(user, 0.0))
        return until > known

    def _cut_off(self, cut: float) -> bool:
        known, self.cut = self.cut, max(math.ceil(cut), self.cut)
        return self.cut > known


def _names(ref: TokenRef) -> tuple[str, str]:
    return ref.user, ref.token


def conclude(
    token: Token, extensions: Mapping[str, str], finding: Finding, *, audit_works: bool
) -> Verdict:
    """The verdict on a good token. Routes may set scopes, audience and fail mode."""
    identity = token.identity
    if isinstance(finding, Revoked):
        return deny(Reason.TOKEN_REVOKED, identity=identity)
    if isinstance(finding, PossiblyRevoked):
        return deny(Reason.POSSIBLY_REVOKED, identity=identity)
    audience, scope = extensions.get("authz.audience"), extensions.get("authz.scopes")
    if audience is not None and audience not in identity.audiences:
        return deny(Reason.ROUTE_AUDIENCE_MISMATCH, identity=identity)
    if scope is not None and scope not in identity.scopes:
        return deny(Reason.INSUFFICIENT_SCOPE, identity=identity, detail=f"needs {scope}")
    if isinstance(finding, Clear):
        return allow(identity)
    if extensions.get("authz.fail_mode") == "closed":
        return deny(Reason.STORE_UNAVAILABLE, identity=identity)
    if not audit_works:
        return deny(Reason.AUDIT_UNAVAILABLE, identity=identity)
    return allow_fail_open(identity)


def plain_answer(verdict: Verdict, forged: Collection[str]) -> pb.CheckResponse:
    """The answer of a verdict that lets through, written out from the beginning."""
    response = pb.CheckResponse()
    response.status.code = 0
    headers, texts = {"x-authz-decision": str(verdict.decision)}, {}
    if verdict.identity is not None:
        texts = {
            "subject": verdict.identity.subject,
            "issuer": verdict.identity.issuer,
            "token_id": verdict.identity.token_id,
            "scopes": " ".join(verdict.identity.scopes),
        }
        headers |= {
            f"x-authz-{name.replace('_', '-')}": text for name, text in texts.items() if text
        }
    for name in sorted(headers, key=OWN_HEADERS.index):
        option = response.ok_response.headers.add()
        option.header.key, option.header.value = name, headers[name].encode()
        option.append_action = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    absent = [name for name in OWN_HEADERS if name not in headers]
    response.ok_response.headers_to_remove.extend(absent)
    response.ok_response.headers_to_remove.extend(sorted({*forged} - {*OWN_HEADERS}))
    words = {"decision": str(verdict.decision), "reason": str(verdict.reason), **texts}
    for name, text in words.items():
        response.dynamic_metadata.fields[name].string_value = text
    return response
