"""Tokens, and the book of what was done with them and said of them."""

import math
import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count, islice
from random import Random

from chaos.evidence import REVOKED, Answer, Revocation

from authz.revocation.record import (
    TokenRef,
    blacklist_key,
    bucket_of,
    not_before_key,
    token_digest,
    user_digest,
)
from support.cluster import ValkeyCluster
from support.jwks import ISSUER, claims, rsa_key, sign
from support.revocations import BUCKETS
from support.sidecar import KID

AGE = 30
"""Seconds before now that a token is issued, so that a cut-off can lie between."""

LIFETIME = 7200
"""Seconds. Longer than any run of a scenario, so that no token expires in one."""

GOOD_KEPT = 200
"""Tokens that nobody has revoked yet, so that what is revoked was mostly allowed just before."""

REVOKED_KEPT = 2000
"""Revocations that are remembered from one scenario to the next."""

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    ref: TokenRef
    subject: str

    @property
    def name(self) -> str:
        return self.ref.token


def mint(*, subject: str | None = None, age: int = AGE) -> Token:
    """A good token of a new user, or of this one."""
    issued = int(time.time()) - age
    values = claims(
        now=issued, lifetime=LIFETIME, sub=subject or f"chaos-{time.time_ns()}-{next(_numbers)}"
    )
    user, jti = values["sub"], values["jti"]
    ref = TokenRef(
        user=user_digest(ISSUER, user),
        token=token_digest(ISSUER, jti, b""),
        bucket=bucket_of(ISSUER, user, BUCKETS),
        issued_at=values["iat"],
        expires_at=values["exp"],
    )
    return Token(sign(values, rsa_key(), kid=KID), ref, user)


class Ledger:
    """What the harness did and saw. Threads append; the runner reads when they are done."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.revocations: dict[str, Revocation] = {}
        self.acknowledged: list[Token] = []
        """In the order of their acknowledgement."""
        self.failed = 0
        """Attempts that were not acknowledged."""
        self.good = deque((mint() for _ in range(GOOD_KEPT)), maxlen=2 * GOOD_KEPT)
        self.known: dict[tuple[str, int], frozenset[str]] = {}
        """As in Evidence."""

    def choose(self, dice: Random) -> Token:
        """A good token, to be asked about. Now and then it is one that nobody has seen."""
        if dice.random() < FRESH_SHARE:
            self.good.append(mint())
            return self.good[-1]
        return self.good[dice.randrange(len(self.good))]

    def take(self, dice: Random) -> Token:
        """A good token, to be revoked; a new one takes its place."""
        self.good.rotate(dice.randrange(len(self.good)))
        self.good.append(mint())  # first: another thread may be choosing by the length
        return self.good.popleft()

    def attempt(self, token: Token, region: str, *, cut_off: bool) -> Revocation:
        revocation = Revocation(token.name, region, time.monotonic(), cut_off=cut_off)
        self.revocations[token.name] = revocation
        return revocation

    def acknowledge(self, token: Token) -> None:
        self.revocations[token.name].acknowledged = time.monotonic()
        self.acknowledged.append(token)

    def lose(self, before: float) -> None:
        """The store was made to forget all that was written until now, from `before` on."""
        for revocation in list(self.revocations.values()):
            revocation.lost = min(revocation.lost, before)

    def is_kept(self, token: Token) -> bool:
        """Whether the store should still have the revocation of this token."""
        return self.revocations[token.name].lost == math.inf

    def turn_the_page(self, regions: Collection[str]) -> None:
        """A scenario is over: keep who refused what, and of the revocations the latest that a store
        of these regions still has.
        """
        refused: dict[tuple[str, int], set[str]] = {}
        for answer in self.answers:
            if answer.decision == REVOKED:
                refused.setdefault((answer.sidecar, answer.life), set()).add(answer.token)
        kept = [
            token
            for token in self.acknowledged
            if self.revocations[token.name].region in regions and self.is_kept(token)
        ][-REVOKED_KEPT:]
        names = {token.name for token in kept}
        self.known = {
            life: frozenset((refused.get(life, set()) | self.known.get(life, frozenset())) & names)
            for life in refused.keys() | self.known.keys()
        }
        self.revocations = {name: self.revocations[name] for name in names}
        self.acknowledged = kept
        self.answers = []
        self.failed = 0


FRESH_SHARE = 0.1
"""Of the questions about good tokens."""

KEYS_AT_ONCE = 200
"""In one pipeline to a node."""


def missing(cluster: ValkeyCluster, tokens: Iterable[Token]) -> list[str]:
    """Names of those that the store, asked directly, does not hold as revoked by any kind."""
    absent = []
    by_master: dict[int, list[Token]] = {}
    masters = cluster.masters
    owners = {bucket: masters.index(cluster.master_of(bucket)) for bucket in range(BUCKETS)}
    for token in tokens:
        by_master.setdefault(owners[token.ref.bucket], []).append(token)
    for number, held in by_master.items():
        rest = iter(held)
        while some := list(islice(rest, KEYS_AT_ONCE)):
            pipeline = masters[number].client.pipeline(transaction=False)
            for token in some:
                pipeline.mget(_keys(token.ref))
            absent += [
                token.name
                for token, values in zip(some, pipeline.execute(), strict=True)
                if not _is_revoked(token.ref, values)
            ]
    return absent


def _keys(ref: TokenRef) -> list[str]:
    return [
        blacklist_key(ref.bucket, ref.user, ref.token),
        blacklist_key(ref.bucket, "-", ref.token),
        not_before_key(ref.bucket, ref.user),
    ]


def _is_revoked(ref: TokenRef, values: list[bytes | None]) -> bool:
    own, anyones, cutoff = values
    if own is not None or anyones is not None:
        return True
    return cutoff is not None and ref.issued_at * 1000 < int(cutoff.split()[0])
