"""The breaker in front of one Redis node: while the node fails, nobody waits for it.

There is one per node. A global one would make two healthy shards blind when the third dies.

Checks are never used as guinea pigs: an open breaker refuses every one of them, and only a prober
in the background asks the node. What a check learns late, from a look-up that was under way when
the breaker opened, therefore changes nothing: a node that always answers just after the timeout
would otherwise close it again and again.

One good probe is enough to close. Asking for several would prolong failing open, which is the
worse harm: at worst a node that is still sick costs `MAX_IN_A_ROW` more time-outs of
`store.timeout` each before the breaker opens again.
"""

import math
from collections import deque
from collections.abc import Callable
from enum import Enum, StrEnum, auto, unique
from typing import Any, ClassVar

MAX_IN_A_ROW = 5
"""Failures without a success between them. One or two are a lost packet or a failover's first
moments; five at a timeout of 25 ms are over within the 200 ms that Envoy waits for us."""

HISTORY = 20
"""Results that are looked back on, so that a node that fails every other time is caught too."""

MAX_IN_HISTORY = HISTORY // 2
"""Failures among them. It needn't be full: ten failures are half of twenty however the rest go."""

PROBE_INTERVAL = 0.5
"""Seconds between two probes, so that a node that is back serves again within a second."""

PROBE_JITTER = 0.2
"""Of the interval, either way, so that a fleet of sidecars does not probe in step."""


@unique
class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"


@unique
class Event(Enum):
    """What happens to a breaker."""

    SUCCESS = auto()
    """A look-up of a check was answered."""
    FAILURE = auto()
    """A look-up of a check was not answered, or not in time."""
    LIMIT = auto()
    """The history is past what is tolerated."""
    PROBE_SUCCESS = auto()
    PROBE_FAILURE = auto()


class BreakerError(Exception):
    """Our own mistake: an event that can't happen in this state."""


class Breaker:
    """Says whether a node may be asked.

    `now` is in seconds, of any one clock that does not go back. `random` gives numbers in [0, 1).
    """

    def __init__(self, now: float, random: Callable[[], float]) -> None:
        self.state = State.CLOSED
        self.since = now
        """When `state` was entered."""
        self.opened = 0
        """How many times it opened."""
        self.probes_failed = 0
        """Since the start."""
        self.refused = 0
        """Checks that were spared a wait."""
        self._random = random
        self._history: deque[bool] = deque(maxlen=HISTORY)  # True: failed
        self._failures_in_history = 0
        self._failures_in_a_row = 0
        self._probe_at = math.inf

    def allows(self, now: float) -> bool:
        """Whether a check may ask. Time alone never closes a breaker, so `now` isn't looked at."""
        del now
        if self.state is State.CLOSED:
            return True
        self.refused += 1
        return False

    def success(self, now: float) -> None:
        """A check's look-up was answered."""
        self._on(Event.SUCCESS, now)

    def failure(self, now: float) -> None:
        """A check's look-up failed or took too long."""
        self._on(Event.FAILURE, now)
        if self.state is State.CLOSED and (
            self._failures_in_a_row >= MAX_IN_A_ROW or self._failures_in_history >= MAX_IN_HISTORY
        ):
            self._on(Event.LIMIT, now)

    def probe_succeeded(self, now: float) -> None:
        """The prober got an answer: checks may ask again, and the past is forgotten."""
        self._on(Event.PROBE_SUCCESS, now)

    def probe_failed(self, now: float) -> None:
        """The prober got none; the next probe is due an interval after this one was."""
        self._on(Event.PROBE_FAILURE, now)

    def next_probe(self, now: float) -> float:
        """Seconds to wait until the next probe is due: 0 when it is overdue, infinity when closed.

        The same until a probe's result is told.
        """
        return max(0.0, self._probe_at - now)

    def status(self, now: float) -> dict[str, Any]:
        """For `/status`: JSON-ready."""
        return {
            "state": str(self.state),
            "for_seconds": round(max(0.0, now - self.since), 3),
            "failures_in_a_row": self._failures_in_a_row,
            "opened": self.opened,
            "probes_failed": self.probes_failed,
            "refused": self.refused,
        }

    def _on(self, event: Event, now: float) -> None:
        transition = self._TRANSITIONS.get((self.state, event))
        if transition is None:
            raise BreakerError(f"{event.name} can't happen while {self.state}")
        action, target = transition
        if target is not self.state:
            self.state = target
            self.since = now
        action(self, now)

    # Actions. The table below says when each is taken.

    def _count_success(self, now: float) -> None:
        del now
        self._remember(failed=False)
        self._failures_in_a_row = 0

    def _count_failure(self, now: float) -> None:
        del now
        self._remember(failed=True)
        self._failures_in_a_row += 1

    def _remember(self, *, failed: bool) -> None:
        if len(self._history) == HISTORY:
            self._failures_in_history -= self._history[0]
        self._history.append(failed)
        self._failures_in_history += failed

    def _open(self, now: float) -> None:
        self.opened += 1
        self._probe_at = now + self._interval()

    def _probe_again(self, now: float) -> None:
        self.probes_failed += 1
        # From when this probe was due, so that its own duration doesn't stretch the interval;
        # but never in the past, or a prober that was held up would fire a burst.
        self._probe_at = max(now, min(now, self._probe_at) + self._interval())

    def _close(self, now: float) -> None:
        del now
        self._probe_at = math.inf
        self._history.clear()
        self._failures_in_history = 0
        self._failures_in_a_row = 0

    def _ignore(self, now: float) -> None:
        """A result that comes too late to matter."""

    def _interval(self) -> float:
        return PROBE_INTERVAL * (1 + PROBE_JITTER * (2 * self._random() - 1))

    _TRANSITIONS: ClassVar[
        dict[tuple[State, Event], tuple[Callable[["Breaker", float], None], State]]
    ] = {
        (State.CLOSED, Event.SUCCESS): (_count_success, State.CLOSED),
        (State.CLOSED, Event.FAILURE): (_count_failure, State.CLOSED),
        (State.CLOSED, Event.LIMIT): (_open, State.OPEN),
        # A probe that was under way when another one closed the breaker: checks judge it now.
        (State.CLOSED, Event.PROBE_SUCCESS): (_ignore, State.CLOSED),
        (State.CLOSED, Event.PROBE_FAILURE): (_ignore, State.CLOSED),
        (State.OPEN, Event.SUCCESS): (_ignore, State.OPEN),
        (State.OPEN, Event.FAILURE): (_ignore, State.OPEN),
        (State.OPEN, Event.PROBE_SUCCESS): (_close, State.CLOSED),
        (State.OPEN, Event.PROBE_FAILURE): (_probe_again, State.OPEN),
    }
