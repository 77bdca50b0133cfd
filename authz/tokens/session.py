"""One session of a user: who has it, since when, its access tokens, its refresh tokens.

In the store it is one field of the hash `jwt:{B}:sessions:<user>`: the name is its id, the value
this JSON. Only this program reads it; no script does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from authz.settings import MAX_LEEWAY
from authz.tokens.grant import SessionInfo
from authz.tokens.refresh import Family

MAX_LIVE_TOKENS = 32
"""Access tokens of one session that live at a time. A client that refreshes when it has to has two,
ten tabs that do it each for itself have twenty; with one more the oldest is revoked."""


class SessionError(Exception):
    """What stands in the store is no session of ours. The text says why."""


@dataclass(frozen=True, slots=True)
class Session:
    """Times are in seconds since 1970, to the millisecond."""

    sid: str
    subject: str
    client_id: str
    scopes: tuple[str, ...]
    """Granted; an access token may have fewer."""
    audiences: tuple[str, ...]
    issued: float
    refreshed: float
    """The last time that an access token was issued, or that token's `iat` if it is later."""
    expires: float
    """From when on it can't be refreshed."""
    ends: float
    """When it is over however often it is refreshed."""
    tokens: Mapping[str, int]
    """The access tokens: TID and `exp`, the oldest first."""
    lifetime: float | None = None
    """Of access tokens, where it is not the default. Seconds."""
    auth_time: int | None = None
    device: str = ""
    address: str = ""
    cnf: Mapping[str, Any] | None = None
    bound: bool = False
    """The refresh token is bound to `cnf` as well."""
    family: Family | None = field(default=None, repr=False)
    """None: it has no refresh token."""

    def is_over(self, now: float) -> bool:
        """Nothing of it is good any more, anywhere."""
        return now >= self.until

    @property
    def until(self) -> float:
        """When it is over if nothing happens. A sidecar takes a token for a leeway after `exp`."""
        refreshable = 0.0 if self.family is None else self.expires
        return max([refreshable, *(expires + MAX_LEEWAY for expires in self.tokens.values())])

    @property
    def ends_by_itself(self) -> float:
        """The same as its user is told: to the clock, without any leeway."""
        refreshable = 0.0 if self.family is None else self.expires
        return max([refreshable, *self.tokens.values()])

    def with_token(self, tid: str, expires_at: int, now: float) -> tuple["Session", dict[str, int]]:
        """With one more access token and without those that have expired; and what has to be
        revoked because there are too many.
        """
        living = {one: exp for one, exp in self.living_tokens(now).items() if one != tid}
        too_many = max(0, len(living) + 1 - MAX_LIVE_TOKENS)
        surplus = {one: living.pop(one) for one in list(living)[:too_many]}
        return replace(self, tokens={**living, tid: expires_at}), surplus

    def without_token(self, tid: str) -> "Session":
        return replace(self, tokens={one: exp for one, exp in self.tokens.items() if one != tid})

    def living_tokens(self, now: float) -> dict[str, int]:
        """TID and `exp` of those that a sidecar may still take: also for a leeway after `exp`."""
        return {tid: exp for tid, exp in self.tokens.items() if exp + MAX_LEEWAY > now}

    def info(self, now: float) -> SessionInfo:
        return SessionInfo(
            sid=self.sid,
            client_id=self.client_id,
            device=self.device,
            address=self.address,
            issued=self.issued,
            refreshed=self.refreshed,
            expires=self.ends_by_itself,
            refreshable=self.family is not None,
            scope=" ".join(self.scopes),
            tokens=sum(expires > now for expires in self.tokens.values()),
        )

    def dump(self) -> str:
        family = self.family
        value: dict[str, Any] = {
            "sub": self.subject,
            "client": self.client_id,
            "scope": " ".join(self.scopes),
            "aud": list(self.audiences),
            "issued": self.issued,
            "refreshed": self.refreshed,
            "expires": self.expires,
            "ends": self.ends,
            "tokens": dict(self.tokens),
            "lifetime": self.lifetime,
            "auth_time": self.auth_time,
            "device": self.device,
            "address": self.address,
            "cnf": None if self.cnf is None else dict(self.cnf),
            "bound": self.bound or None,
            "refresh": None
            if family is None
            else [family.current, family.previous, family.salt, family.grace_until],
        }
        return json.dumps(
            {name: one for name, one in value.items() if one is not None},
            separators=(",", ":"),
        )

    @classmethod
    def load(cls, sid: str, text: bytes) -> Self:
        """SessionError: it is none, or of a form that this version doesn't know."""
        try:
            value = json.loads(text)
            refresh = value.get("refresh")
            return cls(
                sid=sid,
                subject=_text(value["sub"]),
                client_id=_text(value["client"]),
                scopes=tuple(filter(None, _text(value.get("scope", "")).split(" "))),
                audiences=tuple(map(_text, value["aud"])),
                issued=float(value["issued"]),
                refreshed=float(value["refreshed"]),
                expires=float(value["expires"]),
                ends=float(value["ends"]),
                tokens={_text(tid): int(exp) for tid, exp in value["tokens"].items()},
                lifetime=value.get("lifetime"),
                auth_time=value.get("auth_time"),
                device=_text(value.get("device", "")),
                address=_text(value.get("address", "")),
                cnf=value.get("cnf"),
                bound=bool(value.get("bound")),
                family=None if refresh is None else _family(*refresh),
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as bad:
            raise SessionError(f"not a session: {type(bad).__name__}") from None


def _family(current: object, previous: object, salt: object, grace_until: float) -> Family:
    return Family(_text(current), _text(previous), _text(salt), float(grace_until))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
