"""Users' sessions in the store: read, and changed in one step with the revocations they bring.

The hash `jwt:{B}:sessions:<user>` has a field for each session, by its id, and two more: `v`, the
names of the latest changes, the newest first; and `cut`, a cut-off that whoever revoked all of the
user's tokens left here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from authz.observe import events
from authz.revocation.entry import LATEST, Entry
from authz.revocation.record import (
    Note,
    Revoked,
    TokenRef,
    bucket_of,
    feed_key,
    not_before_key,
    sessions_key,
    tip_key,
    user_digest,
)
from authz.revocation.redis.question import keys_of as keys_that_revoke
from authz.revocation.redis.question import read_reply
from authz.revocation.redis.script import Argument, Script, ScriptRunner
from authz.revocation.redis.writer import STREAM_KEEPS, STREAM_LUA, arguments_of, keys_of
from authz.revocation.store import TokenRevocation, UserRevocation
from authz.settings import MAX_LIFETIME
from authz.tokens.book import Book, Change
from authz.tokens.session import Session, SessionError

VERSION = "v"
CUT_OFF = "cut"

CHANGE = Script.of_files(STREAM_LUA, ("authz.tokens", "sessions.lua"))

NAMES_KEPT = 16
"""Names of changes that are remembered, so that an attempt whose answer was lost is known for done
when it is repeated, even if that many other changes of the same user came in between."""

HISTORY_KEPT = 120.0
"""Seconds that they are kept where no session is left: twice the longest `store.write_timeout`."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose sessions."""

    user: str
    """`user_digest(issuer, subject)`."""
    bucket: int

    @classmethod
    def of(cls, issuer: str, subject: str, buckets: int) -> "Owner":
        return cls(user_digest(issuer, subject), bucket_of(issuer, subject, buckets))


@dataclass(frozen=True, slots=True)
class Read:
    """A user's sessions, and what they are recognised by when they are to be changed."""

    book: Book
    history: str
    """As it stands in `v`."""
    cut_off: bytes = field(repr=False)
    """As it stands in `jwt:{B}:not-before:<user>`."""


class Sessions:
    """Where they are kept."""

    def __init__(self, scripts: ScriptRunner, buckets: int) -> None:
        """`buckets`: over how many users are spread."""
        self._scripts = scripts
        self._buckets = buckets

    @property
    def write_timeout(self) -> float:
        """Seconds that one call of the store may take."""
        return self._scripts.write_timeout

    async def read(self, owner: Owner) -> Read:
        """StoreError: the store can't be asked."""
        name = sessions_key(owner.bucket, owner.user)
        fields, cut_off = await self._scripts.read(
            owner.bucket, ("HGETALL", name), ("GET", not_before_key(owner.bucket, owner.user))
        )
        return _read(fields, cut_off or b"")

    async def change(
        self, owner: Owner, read: Read, change: Change, *, name: str, note: Note
    ) -> bool:
        """Write a change to what was read. False: somebody else has changed it since, and nothing
        was written. `name`: of this change, 12 random characters, the same at each try. `note` goes
        with the revocations.

        StoreError: it was not written, or not replicated as configured.
        """
        bucket, user = owner.bucket, owner.user
        entries = _entries(owner, change, note)
        fields = [
            *(text for one in change.kept for text in (one.sid, one.dump())),
            *(text for sid in change.gone for text in (sid, "")),
        ]
        gone = set(change.gone)
        left = [one for sid, one in read.book.sessions.items() if sid not in gone]
        until = max(one.until for one in (*left, *change.kept)) if left or change.kept else 0.0
        keys = [
            feed_key(bucket),
            tip_key(bucket),
            sessions_key(bucket, user),
            not_before_key(bucket, user),
            *keys_of(entries, bucket),
        ]
        names = [name, *filter(None, read.history.split(","))]
        arguments: list[Argument] = [
            STREAM_KEEPS,
            self._buckets,
            read.history,
            read.cut_off,
            name,
            ",".join(names[:NAMES_KEPT]),
            round(max(until, note.at + HISTORY_KEPT) * 1000),
            len(fields),
            *fields,
            *arguments_of(entries),
        ]
        ran = await self._scripts.run(bucket, CHANGE, keys, arguments)
        return bool(ran.replies[-1])

    async def revoked(self, refs: Sequence[TokenRef]) -> Sequence[bool]:
        """Of each of these tokens, all of one user, whether it is. StoreError as `read`."""
        if not refs:
            return []
        commands = [("GET", key) for ref in refs for key in keys_that_revoke(ref)]
        replies = iter(await self._scripts.read(refs[0].bucket, *commands))
        of_each = zip(refs, replies, replies, replies, strict=True)
        return [isinstance(read_reply(ref, values), Revoked) for ref, *values in of_each]


def _entries(owner: Owner, change: Change, note: Note) -> list[Entry]:
    entries = [
        Entry.of_token(TokenRevocation(tid, owner.user, owner.bucket, expires_at, note))
        for tid, expires_at in change.revoked.items()
    ]
    if change.cut_off is not None:
        cut = UserRevocation(owner.user, owner.bucket, change.cut_off, MAX_LIFETIME, note)
        entries.append(Entry.of_user(cut))
    return entries


def _read(fields: dict[bytes, bytes], cut_off: bytes) -> Read:
    sessions: dict[str, Session] = {}
    unreadable: list[str] = []
    cut = _milliseconds(cut_off.partition(b" ")[0])
    history = ""
    for name, value in fields.items():
        match name.decode("utf-8", "replace"):
            case "v":
                history = value.decode("ascii", "replace")
            case "cut":
                cut = max(cut, _milliseconds(value))
            case sid:
                try:
                    sessions[sid] = Session.load(sid, value)
                except SessionError as error:
                    log.warning(events.SESSION_UNREADABLE, error=str(error))
                    unreadable.append(sid)
    return Read(Book(sessions, unreadable, cut / 1000), history, cut_off)


def _milliseconds(text: bytes) -> int:
    """0 where there is none. What can't be read counts as the end of time: someone meant to revoke
    something.
    """
    if not text:
        return 0
    try:
        return int(text)
    except ValueError:
        return LATEST
