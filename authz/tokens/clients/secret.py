"""Secrets of clients: made, hashed with argon2, and compared, beside the event loop.

A secret is always one of ours: 256 random bits. Nobody guesses that, so the hash needn't be as slow
as one that stands before people's passwords; it takes the least that OWASP recommends of argon2id.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cachetools import TTLCache

from authz.tokens.clients.client import Client

SECRET_BYTES = 32

MAX_SECRET_CHARACTERS = 256
"""Of what a client shows: ours have 43. Longer ones are wrong without being hashed."""

MEMORY_KIB = 19 * 1024
PASSES = 2
LANES = 1
"""argon2id with m=19 MiB, t=2, p=1: OWASP's Password Storage Cheat Sheet. About 20 ms of a core."""

THREADS = 2
"""Hashes at a time: 38 MiB, and of two cores one stays for the event loop most of the time."""

MAX_WAITING = 64
"""Hashes that wait for a thread: 0.7 s of them. Whoever comes then is told to come back."""

REMEMBERED = 10_000
REMEMBERED_FOR = 300.0
"""Secrets that were right, and seconds since they last were. A client that asks all the time pays
for one hash; each entry has about 200 bytes."""

Outcome = Literal["right", "wrong", "busy"]


def new_secret() -> str:
    """43 characters of base64url."""
    return secrets.token_urlsafe(SECRET_BYTES)


class SecretHasher:
    """Compares secrets with their hashes. Close it."""

    def __init__(self) -> None:
        self._argon2 = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._under_way: dict[bytes, asyncio.Future[bool]] = {}
        # Keyed with a secret of this process: what is in its memory is of no use elsewhere.
        self._key = secrets.token_bytes(32)
        self._right: TTLCache[bytes, None] = TTLCache(
            REMEMBERED, REMEMBERED_FOR, timer=time.monotonic
        )
        self._nobodys = self._argon2.hash(new_secret())
        """What the secret of an unknown client is compared with, so that it takes as long."""
        self.hashes = 0
        """Computed so far."""

    def hash(self, secret: str) -> str:
        """In PHC form. It takes 20 ms, so it is for commands."""
        return self._argon2.hash(secret)

    def remembers(self, client: Client | None, secret: str, now: float) -> bool:
        """Whether this secret is known to be right without another hash. If so, for as long again:
        a client that keeps asking is never held up by those who guess.
        """
        for one in [] if client is None else client.usable_secrets(now):
            name = self._name(one.hash, secret)
            if name in self._right:
                self._right[name] = None
                return True
        return False

    async def compare(self, client: Client | None, secret: str, now: float) -> Outcome:
        """Whether the secret is one of the client's. `busy`: too many are being compared.

        With None, and for a client without secrets, it takes as long and is never right. `now` in
        seconds since 1970.
        """
        if self.remembers(client, secret, now):
            return "right"
        known = [] if client is None else [one.hash for one in client.usable_secrets(now)]
        sound = secret if len(secret) <= MAX_SECRET_CHARACTERS else ""
        for stored in known or [self._nobodys]:
            name = self._name(stored, sound)
            comparing = self._under_way.get(name)
            if comparing is None:
                if len(self._under_way) >= MAX_WAITING:
                    return "busy"
                comparing = self._begin(name, stored, sound)
            # Shielded: one who goes away must not end it for the others.
            if await asyncio.shield(comparing) and known:
                self._right[name] = None
                return "right"
        return "wrong"

    def _begin(self, name: bytes, stored: str, secret: str) -> asyncio.Future[bool]:
        """Compare on a thread. All who come with the same meanwhile share it: a client that starts
        with a hundred requests costs one hash.
        """
        loop = asyncio.get_running_loop()
        comparing = loop.run_in_executor(self._threads, self._verify, stored, secret)
        self._under_way[name] = comparing
        comparing.add_done_callback(lambda _: self._under_way.pop(name, None))
        return comparing

    def _verify(self, stored: str, secret: str) -> bool:
        """On a thread."""
        self.hashes += 1
        try:
            return self._argon2.verify(stored, secret.encode(errors="surrogatepass"))
        except (VerificationError, InvalidHashError):
            return False

    def _name(self, stored: str, secret: str) -> bytes:
        """Of a pair: a rotated secret has another hash, so its old entry is never asked again."""
        pair = f"{stored}\x00{secret}".encode(errors="surrogatepass")
        return hmac.digest(self._key, pair, hashlib.sha256)

    def close(self) -> None:
        """Let go of the threads; what they compute is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
