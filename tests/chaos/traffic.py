"""What goes on all the time, while faults come and go: revocations, and checks of each sidecar.

Both are bounded in their rate, so that what is slow is the thing under test and not this program.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from random import Random
from typing import NamedTuple, Self

from chaos.ask import Asker
from chaos.evidence import REFUSED, Answer
from chaos.ledger import Ledger, Token, mint
from chaos.world import Region, Seat

from authz.revocation.store import RevocationStore, StoreError, TokenRevocation, UserRevocation
from authz.settings import MAX_LIFETIME
from support.revocations import BUCKETS, note, of_token, opened

REVOCATIONS = 25.0
"""A second, in each region."""
IN_FLIGHT = 100
"""Revocations at most that wait for an answer: what a shard is owed in a fault of ten seconds."""
WRITE_TIMEOUT = 8.0
"""Seconds for which one is tried: longer than a failover takes on a busy machine."""

CHECKS = 60.0
"""A second, of each sidecar."""
CLOSED_SHARE = 0.1
"""Of the checks: on a route that fails closed."""
REVOKED_SHARE = 0.5
"""Of the checks: of tokens whose revocation was acknowledged; half of these of the latest."""
LATEST = 20

CUTOFF_SHARE, ANYONES_SHARE = 0.15, 0.05
"""Of the revocations: of all tokens of a user, and by issuer and `jti` alone, in all buckets."""
CUTOFF_AGE = 15.0
"""Seconds before now: after the issue of the token meant (`ledger.AGE`), before its successor's."""
SUCCESSOR_AGE = 5

SWEEP_LIMIT = 30.0
"""Seconds for one sidecar and every revocation of a scenario; it should take one."""
SWEEP_PAUSE = 0.02

LOOK_PAUSE = 0.1
"""Seconds between two looks at a sidecar's `/status`."""

_request_ids = count(1)


class Worker:
    """A thread that goes on until it is told to stop."""

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name)
        self._error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._stopping.set()

    def join(self) -> BaseException | None:
        """Wait until it has ended. What it stumbled over."""
        self._thread.join()
        return self._error

    def _work(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  the runner's thread raises it
            self._error = error

    def _run(self) -> None:
        raise NotImplementedError


class Revoker(Worker):
    """Revokes good tokens of the ledger in one region. What is under way at its end is waited
    for.
    """

    def __init__(self, region: Region, ledger: Ledger, dice: Random) -> None:
        super().__init__(f"revoker-{region.name}")
        self._region = region
        self._ledger = ledger
        self._dice = dice

    def _run(self) -> None:
        asyncio.run(self._go())

    async def _go(self) -> None:
        url = self._region.cluster.url
        async with (
            opened(url, start=False, write_timeout=WRITE_TIMEOUT, wait_timeout=0.2) as told,
            asyncio.TaskGroup() as group,
        ):
            under_way: set[asyncio.Task[None]] = set()
            while not self._stopping.is_set():
                if len(under_way) < IN_FLIGHT:
                    task = group.create_task(self._revoke(told.store))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                await asyncio.sleep(self._dice.expovariate(REVOCATIONS))

    async def _revoke(self, store: RevocationStore) -> None:
        token = self._ledger.take(self._dice)
        share = self._dice.random()
        cut = time.time() - CUTOFF_AGE
        everything = share < CUTOFF_SHARE and token.ref.issued_at < cut
        self._ledger.attempt(token, self._region.name, cut_off=everything)
        try:
            if everything:
                user, bucket = token.ref.user, token.ref.bucket
                await store.revoke_user(
                    UserRevocation(user, bucket, cut, MAX_LIFETIME, note("log-out"))
                )
            else:
                anyones = share > 1 - ANYONES_SHARE
                await store.revoke_token(of_token(token.ref, userless=anyones))
        except StoreError:
            self._ledger.failed += 1
            return
        self._ledger.acknowledge(token)
        if everything:  # the user has logged in again
            self._ledger.good.append(mint(subject=token.subject, age=SUCCESSOR_AGE))


class Anyone(NamedTuple):
    """Of many, to be synchronised."""

    revocation: TokenRevocation


async def revoke_many(url: str, number: int) -> None:
    """So many revocations of tokens that nobody holds. StoreError: one was not acknowledged."""

    async def everyone() -> AsyncIterator[Anyone]:
        for one in range(number):
            name = f"{time.time_ns():x}-{one}".ljust(43, "_")
            expires_at = int(time.time()) + 3600
            yield Anyone(TokenRevocation(name, name, one % BUCKETS, expires_at, note("many")))

    async with opened(url, start=False, write_timeout=WRITE_TIMEOUT) as told:
        async for outcome in told.store.revoke_many(everyone()):
            if outcome.error:
                raise StoreError(outcome.error)


class Checker(Worker):
    """Asks one sidecar about tokens of the ledger."""

    def __init__(self, seat: Seat, ledger: Ledger, dice: Random) -> None:
        super().__init__(f"checker-{seat.name}")
        self._seat = seat
        self._ledger = ledger
        self._dice = dice

    def _run(self) -> None:
        asker = self._seat.asker()
        try:
            while not self._stopping.wait(self._dice.expovariate(CHECKS)):
                closed = self._dice.random() < CLOSED_SHARE
                ask(self._seat, asker, self._choose(), self._ledger, closed=closed)
        finally:
            asker.close()

    def _choose(self) -> Token:
        revoked = self._ledger.acknowledged
        if not revoked or self._dice.random() > REVOKED_SHARE:
            return self._ledger.choose(self._dice)
        size = len(revoked)
        latest = LATEST if self._dice.random() < 0.5 else size
        return revoked[self._dice.randrange(max(0, size - latest), size)]


def ask(seat: Seat, asker: Asker, token: Token, ledger: Ledger, *, closed: bool = False) -> Answer:
    """One question, into the ledger."""
    life, asked = seat.life, time.monotonic()
    decision, request_id = asker.ask(token.text, f"chaos-{next(_request_ids)}", closed=closed)
    answer = Answer(
        asked, time.monotonic(), seat.name, life, token.name, decision, request_id, closed
    )
    ledger.answers.append(answer)
    return answer


def sweep(
    seats: Iterable[Seat], tokens: Sequence[Token], ledger: Ledger, *, until: float
) -> float | None:
    """Ask each sidecar about each of these revoked tokens, and again as long as it lets one pass
    and the time isn't over. When the last one passed; None where none did.
    """
    passed: list[float] = []

    def go_on(seat: Seat, asker: Asker) -> None:
        pending = list(tokens)
        limit = time.monotonic() + SWEEP_LIMIT
        while pending:
            still = []
            for token in pending:
                answer = ask(seat, asker, token, ledger)
                if answer.decision not in REFUSED:
                    still.append(token)
                    passed.append(answer.asked)
                if answer.asked > limit:
                    raise TimeoutError(f"{seat.name}: {len(tokens)} checks took too long")
            if time.monotonic() > until:
                return
            if still:
                time.sleep(SWEEP_PAUSE)
            pending = still

    def ask_one(seat: Seat) -> None:
        asker = seat.asker()
        try:
            go_on(seat, asker)
        finally:
            asker.close()

    together([partial(ask_one, seat) for seat in seats])
    return max(passed, default=None)


def together(actions: Sequence[Callable[[], None]]) -> None:
    """Run them in threads of their own, wait for all, and raise what one raised."""
    with ThreadPoolExecutor(len(actions)) as pool:
        for done in [pool.submit(action) for action in actions]:
            done.result()


class Feeds:
    """Watches, inside a `with` block, when each sidecar's feed is in order again; the block's end
    waits for all of them, or for `until`.
    """

    def __init__(self, seats: Sequence[Seat], *, until: float) -> None:
        self.live: dict[str, float] = {}
        self.subscribed: dict[str, float] = {}
        """Sidecar to when that was first seen."""
        self._until = until
        self._pool = ThreadPoolExecutor(len(seats))
        self._seats = seats

    def __enter__(self) -> Self:
        self._watching = [self._pool.submit(self._watch, seat) for seat in self._seats]
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for done in self._watching:
            done.result()

    def _watch(self, seat: Seat) -> None:
        while time.monotonic() < self._until:
            live, subscribed = seat.follows()
            now = time.monotonic()
            if live:
                self.live.setdefault(seat.name, now)
            if subscribed:
                self.subscribed.setdefault(seat.name, now)
            if seat.name in self.live and seat.name in self.subscribed:
                return
            time.sleep(LOOK_PAUSE)


class Traffic:
    """Revokers of all regions and checkers of all sidecars, inside a `with` block."""

    def __init__(
        self, regions: Iterable[Region], seats: Iterable[Seat], ledger: Ledger, dice: Random
    ) -> None:
        self._workers: list[Worker] = [
            *(Revoker(region, ledger, Random(dice.random())) for region in regions),
            *(Checker(seat, ledger, Random(dice.random())) for seat in seats),
        ]

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Raises what a worker stumbled over, when all have ended."""
        for worker in self._workers:
            worker.ask_to_stop()
        errors = [error for worker in self._workers if (error := worker.join())]
        if errors:
            raise errors[0]
