"""What a sidecar has to answer, worked out plainly each time: the model of `test_interleavings`.

It remembers what was learnt and when, in lists, and nothing that was derived from it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

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
from authz.revocation.record import Clear, Finding, Revoked, TokenRef

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
    ref: TokenRef
    finding: Revoked | Clear
    at: float


@dataclass(slots=True)
class Model:
    """All that was learnt, in its order."""

    negative_ttl: float
    learnt: list[Learnt] = field(default_factory=list)

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
        """Known to be, by itself or by a cut-off of its user."""
        own = [
            one.finding.until
            for one in self.learnt
            if isinstance(one.finding, Revoked)
            and one.finding.not_before is None
            and (one.ref.user, one.ref.token) == (ref.user, ref.token)
        ]
        cutoffs = self._cutoffs(ref.user)
        cut = max((finding.not_before or 0.0 for finding, _ in cutoffs), default=0.0)
        until = max((finding.until for finding, _ in cutoffs), default=0.0)
        return now < max(own, default=0.0) or (ref.issued_at < cut and now < until)

    def may_be_clear(self, ref: TokenRef, now: float) -> bool:
        """Whether there is an answer of the store that may be repeated."""
        cut_at = self._cut_at(ref.user)
        answers = self._clear_answers(ref)
        return any(cut_at <= said <= now < said + self.negative_ttl for said in answers)

    def must_be_clear(self, ref: TokenRef, now: float) -> bool:
        """Whether the latest such answer is to be repeated. Not where the clock was set back after
        it had run out: it may be gone by then.
        """
        ahead = max((now, *(one.at for one in self.learnt)))
        answers = self._clear_answers(ref)
        if not answers or ahead >= answers[-1] + self.negative_ttl:
            return False
        return self._cut_at(ref.user) <= answers[-1] <= now

    def _clear_answers(self, ref: TokenRef) -> list[float]:
        """When the store said so, since a revocation of the token was learnt."""
        answers: list[float] = []
        known = Model(self.negative_ttl)
        for one in self.learnt:
            known.learnt.append(one)
            if one.ref != ref:
                continue
            if isinstance(one.finding, Revoked):
                answers.clear()
            elif not known.is_revoked(ref, one.at):
                answers.append(one.at)
        return answers

    def _cutoffs(self, user: str) -> list[tuple[Revoked, float]]:
        return [
            (one.finding, one.at)
            for one in self.learnt
            if isinstance(one.finding, Revoked)
            and one.finding.not_before is not None
            and one.ref.user == user
        ]

    def _cut_at(self, user: str) -> float:
        """When the last cut-off was learnt that said more than those before it. What the store said
        earlier may be of the time before it.
        """
        cut = until = last = 0.0
        for finding, at in self._cutoffs(user):
            if (finding.not_before or 0.0) > cut or finding.until > until:
                last = at
            cut, until = max(cut, finding.not_before or 0.0), max(until, finding.until)
        return last


def conclude(
    token: Token, extensions: Mapping[str, str], finding: Finding, *, audit_works: bool
) -> Verdict:
    """The verdict on a good token. Routes may set scopes, audience and fail mode."""
    identity = token.identity
    if isinstance(finding, Revoked):
        return deny(Reason.TOKEN_REVOKED, identity=identity)
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
