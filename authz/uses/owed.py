"""Uses that were let through while the store was gone, and have to be written down yet."""

from collections.abc import Awaitable, Iterator, Sequence
from typing import NamedTuple, Protocol

from authz.revocation.record import Unavailable
from authz.uses.record import Use, Used

MAX_OWED = 20_000
"""As many as the tokens that are looked at again after an outage (`audit/pending.py`): 5 MB."""

BATCH = 64
"""Written in one turn of the loop: a quarter of a pipeline, so that checks share it."""


class UseStore(Protocol):
    """Where all processes of a deployment write down what they see used."""

    def use(self, bucket: int, name: str, until: float) -> Awaitable[Use] | Unavailable:
        """As `Ledger.use`, of all processes."""
        ...


class _Owed(NamedTuple):
    name: str
    bucket: int
    until: float


class OwedUses:
    """What the store still has to be told, in bounded memory."""

    def __init__(self, capacity: int = MAX_OWED) -> None:
        self._capacity = capacity
        self._owed: dict[str, _Owed] = {}
        self.settled = {"written": 0, "present": 0, "expired": 0, "dropped": 0}
        """Uses by what became of them. `present`: the store had it already, so it was used at
        another sidecar too, or the call had come through after all. `dropped`: there were too
        many."""

    def __len__(self) -> int:
        return len(self._owed)

    def add(self, bucket: int, name: str, until: float) -> None:
        if len(self._owed) >= self._capacity:
            self.settled["dropped"] += 1
        else:
            self._owed[name] = _Owed(name, bucket, until)

    def discard(self, name: str) -> None:
        """It came to nothing."""
        self._owed.pop(name, None)

    async def settle(self, store: UseStore, now: float) -> None:
        """Tell the store what it can be told now. `now`: seconds since 1970."""
        silent: set[int] = set()
        pending = list(self._owed.values())
        for start in range(0, len(pending), BATCH):
            batch = pending[start : start + BATCH]
            # All are asked before any is awaited, so that they share a pipeline.
            for owed, answer in list(self._ask(store, batch, silent, now)):
                use = await answer
                if isinstance(use, Unavailable):
                    silent.add(owed.bucket)
                elif self._owed.pop(owed.name, None) is not None:
                    self.settled["present" if isinstance(use, Used) else "written"] += 1

    def _ask(
        self, store: UseStore, batch: Sequence[_Owed], silent: set[int], now: float
    ) -> Iterator[tuple[_Owed, Awaitable[Use]]]:
        for owed in batch:
            if owed.until <= now:
                self._owed.pop(owed.name, None)
                self.settled["expired"] += 1
            elif owed.bucket not in silent:
                answer = store.use(owed.bucket, owed.name, owed.until)
                if isinstance(answer, Unavailable):
                    silent.add(owed.bucket)
                else:
                    yield owed, answer
