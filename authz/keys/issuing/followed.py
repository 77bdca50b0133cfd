"""The signing keys of a process: read from their store, followed, and replaced when it is time."""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from authz.keys.errors import KeySourceError
from authz.keys.issuing.figures import CountedSigner, SigningFigures
from authz.keys.issuing.held import HeldKey, KeyStore
from authz.keys.issuing.schedule import RETAIN, Plan, in_order, plan, rotation_due
from authz.keys.keyset import KeySet
from authz.keys.signer import Signer, SigningUnavailableError
from authz.keys.watch import watch_files
from authz.observe import events
from authz.settings import SettingsError
from authz.settings.signing import SigningSettings

FIRST_RETRY = 0.5
"""Seconds before a store that failed is read again, doubled each time up to `LAST_RETRY`."""

LAST_RETRY = 2.0

ROTATE_AGAIN = 60.0
"""Seconds before another key is made, or tried to be. A store may show the last one late: of
several Vaults the one that is asked may be behind."""

ROTATION_SPREAD = 20.0
"""Seconds over which the processes of a token service spread their rotations. Whoever comes later
finds the key of the first and makes none."""

JITTER = 0.25
"""Every pause is shortened by up to this share, lest the processes ask in step."""

UNKNOWN_RETRY = 5.0
"""Seconds that whoever wants a token is told to wait where no key is there to sign."""

log = structlog.get_logger(__name__)

_NOTHING = Plan(None, (), (), math.inf)


class FollowedKeys:
    """A `SigningKeys` over any store of keys. Make it in a running loop."""

    def __init__(
        self,
        settings: SigningSettings,
        store: KeyStore,
        *,
        clock: Callable[[], float] = time.time,
        retain: float = RETAIN,
        rotation_spread: float = ROTATION_SPREAD,
    ) -> None:
        """`clock`: seconds since 1970. `retain`: seconds that a key stays published after its last
        signature.
        """
        self.figures = SigningFigures()
        self.error = ""
        """What went wrong at the last reading, for people; empty while all is well."""
        self._settings = settings
        self._store = store
        self._clock = clock
        self._retain = retain
        # Chosen once: while it lasts the keys are followed as ever.
        self._later = random.uniform(0, rotation_spread)  # noqa: S311  spreads load
        self._held: Mapping[str, HeldKey] = {}
        self._order: Sequence[HeldKey] = ()
        self._plan = _NOTHING
        self._planned_at = 0.0
        self._verification = KeySet()
        self._told: tuple[str, ...] = ()
        self._failures = 0
        self._doubted = False
        self._not_made_for = ""
        self._rotate_after = clock() + self._later
        self._reading = asyncio.Lock()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # ---- SigningKeys

    async def start(self) -> None:
        """As `SigningKeys.start`."""
        await self.refresh()
        if self.error and not self._store.remote:
            where = f"tokens.signing.{self._store.setting}: {self._store.where}"
            raise SettingsError(f"{where}: {self.error}")
        if self._store.watched is not None:
            watch = watch_files([self._store.watched], self.refresh, idle=self._store.read_every)
            self._spawn(watch)
        self._spawn(self._follow())

    async def aclose(self) -> None:
        """As `SigningKeys.aclose`."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        await self._store.aclose()

    async def current(self) -> Signer:
        """As `SigningKeys.current`."""
        self._require_read()
        signing = self._planned().signing
        if signing is None:
            raise self._unavailable("no key signs; add one with `authz keys rotate`")
        return CountedSigner(self._held[signing].signer, self.figures, self._doubt)

    def jwks(self) -> dict[str, Any]:
        """As `SigningKeys.jwks`."""
        self._require_read()
        held = (self._held[name] for name in self._planned().published)
        return {"keys": [dict(key.public) for key in held if key.public is not None]}

    def verification(self) -> KeySet:
        """As `SigningKeys.verification`."""
        self._require_read()
        self._planned()
        return self._verification

    async def refresh(self) -> None:
        """As `SigningKeys.refresh`."""
        async with self._reading:  # who comes while one is under way may have seen a later change
            try:
                self._accept(await self._store.read())
            except KeySourceError as error:
                self._fail(str(error))
            except Exception as error:
                # The keys known stay in use, but this one is ours: say all.
                log.exception(events.SIGNING_KEYS_CRASHED, **self._fields())
                self._fail(f"unexpected {type(error).__name__}")
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """As `SigningKeys.status`. From any thread."""
        now = self._plan
        return {
            "source": self._store.setting,
            "where": self._store.where,
            "signing": now.signing,
            "published": list(now.published),
            "next_rotation": _or_none(self._due() if self._store.rotates else math.inf),
            "failing": bool(self.error),
            "error": self.error or None,
            "signatures": dict(self.figures.signatures),
            "rotations": dict(self.figures.rotations),
        }

    # ---- for metrics, from any thread

    @property
    def known(self) -> dict[str, int]:
        """How many keys there are, by what they do."""
        now, moment = self._plan, self._clock()
        times = [key.times for key in self._order if key.times.name in now.published]
        others = [one for one in times if one.name != now.signing]
        coming = sum(one.staged or (one.signs_from or 0) > moment for one in others)
        return {
            "signing": int(now.signing is not None),
            "coming": coming,
            "older": len(others) - coming,
        }

    @property
    def age(self) -> float | None:
        """Seconds since the key that signs began to; None where that isn't known."""
        signing = self._plan.signing
        begins = [key.times.signs_from for key in self._order if key.times.name == signing]
        if not begins or begins[0] is None:
            return None
        return max(0.0, self._clock() - begins[0])

    def _require_read(self) -> None:
        """SigningUnavailableError: no keys were ever read."""
        if not self.figures.readings["ok"]:
            raise self._unavailable(self.error or "the keys have not been read yet")

    def _unavailable(self, why: str) -> SigningUnavailableError:
        return SigningUnavailableError(f"{self._store.where}: {why}", retry_after=UNKNOWN_RETRY)

    # ---- following

    def _planned(self) -> Plan:
        """The plan of this moment. Made anew only where time has changed it, or was set back."""
        now = self._clock()
        if not self._planned_at <= now < self._plan.changes_at:
            self._plan = plan([key.times for key in self._order], now, retain=self._retain)
            self._planned_at = now
            self._verification = KeySet(self._held[one].verifies for one in self._plan.published)
            self._tell()
        return self._plan

    def _accept(self, keys: Sequence[HeldKey]) -> None:
        self.figures.readings["ok"] += 1
        self._order = keys
        self._held = {key.times.name: key for key in keys}
        self._plan, self._planned_at = _NOTHING, math.inf  # to be made anew
        self._failures = 0
        if self.error:
            log.info(events.SIGNING_KEYS_RECOVERED, **self._fields())
        self.error = ""
        self._planned()

    def _fail(self, error: str) -> None:
        self.figures.readings["failed"] += 1
        self._failures += 1
        if error != self.error:
            log.error(events.SIGNING_KEYS_FAILED, error=error, **self._fields())
        self.error = error

    def _tell(self) -> None:
        said = (self._plan.signing or "", *self._plan.published)
        if said != self._told:
            log.info(
                events.SIGNING_KEYS_CHANGED,
                signing=self._plan.signing,
                published=list(self._plan.published),
                **self._fields(),
            )
        self._told = said

    async def _follow(self) -> None:
        while True:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
                    if not self._doubted:
                        continue  # it was read meanwhile: another pause
            self._doubted = False
            self._planned()
            if self._rotates() and self._clock() >= self._due():
                await self._rotate()
            await self.refresh()

    def _doubt(self) -> None:
        """A key can't be used: see at once what is the case, unless that is known."""
        if not self._failures and not self._doubted:
            self._doubted = True
            self._wake.set()

    def _pause(self) -> float:
        """Seconds until there is something to do without being asked."""
        pause = self._store.read_every
        if self._failures:
            doublings = min(self._failures - 1, 16)  # 2**16 half seconds are beyond `LAST_RETRY`
            pause = min(FIRST_RETRY * 2.0**doublings, LAST_RETRY, pause)
        spread = random.uniform(1 - JITTER, 1)  # noqa: S311  spreads load, guards nothing
        pauses = [pause * spread, self._plan.changes_at - self._clock()]
        if self._rotates():
            pauses.append(self._due() - self._clock())
        return max(0.0, min(pauses))

    # ---- rotation

    def _rotates(self) -> bool:
        return self._store.rotates and not self._failures and bool(self._order)

    def _due(self) -> float:
        """When the next key is to be made, seconds since 1970; infinite: not by itself."""
        due = rotation_due(
            [key.times for key in self._order],
            rotate_every=self._settings.rotate_every,
            publish_ahead=self._settings.publish_ahead,
        )
        return max(due + self._later, self._rotate_after)

    async def _rotate(self) -> None:
        """Make the next key, or leave it to another process that was faster."""
        newest = in_order([key.times for key in self._order])[-1].name
        now = self._clock()
        self._rotate_after = now + ROTATE_AGAIN
        try:
            made = await self._store.rotate(now, ahead=self._settings.publish_ahead, newest=newest)
        except KeySourceError as error:
            self._not_made(str(error))
            return
        except Exception as error:
            # Or nobody would follow the keys any more.
            log.exception(events.SIGNING_KEYS_CRASHED, **self._fields())
            self._not_made(f"unexpected {type(error).__name__}")
            return
        self._not_made_for = ""
        if made is not None:
            self.figures.rotations["ok"] += 1
            log.info(
                events.SIGNING_KEY_MADE,
                kid=made,
                signs_in=self._settings.publish_ahead,
                **self._fields(),
            )

    def _not_made(self, error: str) -> None:
        """Each new cause is logged once, for it is tried again every minute."""
        self.figures.rotations["failed"] += 1
        if error != self._not_made_for:
            log.error(events.SIGNING_KEY_NOT_MADE, error=error, **self._fields())
        self._not_made_for = error

    # ---- the rest

    def _fields(self) -> dict[str, str]:
        return {"source": self._store.setting, "where": self._store.where}

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_report_end)
        self._tasks.append(task)


def _or_none(moment: float) -> float | None:
    return moment if math.isfinite(moment) else None


def _report_end(task: asyncio.Task[None]) -> None:
    """These tasks run until they are cancelled."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error(events.SIGNING_KEYS_CRASHED, exc_info=error)
