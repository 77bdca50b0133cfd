"""What a node is asked for a check: whether a token is revoked, or to write down a use."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from authz.revocation.record import (
    ANY_USER,
    Answer,
    Clear,
    Revoked,
    TokenRef,
    blacklist_key,
    not_before_key,
)
from authz.settings import MAX_LEEWAY, MAX_LIFETIME
from authz.uses.record import FIRST, USED, First, Use, Used, used_key


@dataclass(slots=True, eq=False)
class Lookup:
    """One token being asked about."""

    ref: TokenRef
    answer: asyncio.Future[Answer]
    redirects: int = 0

    @property
    def bucket(self) -> int:
        return self.ref.bucket

    @property
    def command(self) -> tuple[Any, ...]:
        return ("MGET", *keys_of(self.ref))

    @property
    def singly(self) -> list[tuple[Any, ...]]:
        """The same by commands with one key each."""
        return [("GET", key) for key in keys_of(self.ref)]

    def settle(self, finding: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(finding)


@dataclass(slots=True, eq=False)
class Usage:
    """One use being written down, if it is the first."""

    bucket: int
    name: str
    until: float
    """When it can't be used any more. Seconds since 1970."""
    answer: asyncio.Future[Use]
    redirects: int = 0

    @property
    def command(self) -> tuple[Any, ...]:
        # Kept for longer than it counts, by as much as the clocks of a store and those who ask it
        # may differ.
        expires = round((self.until + MAX_LEEWAY) * 1000)
        return ("SET", used_key(self.bucket, self.name), 1, "NX", "PXAT", expires)

    @property
    def singly(self) -> list[tuple[Any, ...]]:
        return [self.command]

    def settle(self, use: Use) -> None:
        if not self.answer.done():
            self.answer.set_result(use)


Question = Lookup | Usage


def keys_of(ref: TokenRef) -> tuple[str, str, str]:
    """The keys that can revoke a token, in the order in which `read_reply` takes their values."""
    return (
        blacklist_key(ref.bucket, ref.user, ref.token),
        blacklist_key(ref.bucket, ANY_USER, ref.token),
        not_before_key(ref.bucket, ref.user),
    )


def read_reply(ref: TokenRef, values: Sequence[Any]) -> Revoked | Clear:
    """What the values of the three keys say.

    A cut-off that can't be read revokes: someone meant to revoke something.
    """
    own, anyones, cutoff = values
    if own is not None or anyones is not None:
        return Revoked(ref.expires_at + MAX_LEEWAY)
    if cutoff is None:
        return Clear()
    try:
        not_before = int(cutoff.split(b" ", 1)[0]) / 1000
    except ValueError:
        return Revoked(ref.expires_at + MAX_LEEWAY)
    if ref.issued_at >= not_before:
        return Clear()
    return Revoked(not_before + MAX_LIFETIME + MAX_LEEWAY, not_before)


def read_use(reply: Any) -> First | Used:
    """What SET NX replied: whether it was set, as redis-py says it; nothing: it was there."""
    return USED if reply is None else FIRST
