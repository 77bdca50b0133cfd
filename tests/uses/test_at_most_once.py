"""Whatever a store does to the calls, nothing is let through twice by whoever could know.

Sidecars with a ledger each, and a store that answers, loses a call, or loses the answer to one that
it carried out. Fail-open lets through what is `Unavailable`; fail-closed refuses and forgets it.
"""

from collections import Counter
from collections.abc import Awaitable
from typing import NamedTuple, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.revocation.record import Unavailable
from authz.uses.ledger import Ledger
from authz.uses.record import FIRST, USED, First, Use, Used

AnyT = TypeVar("AnyT")

NOW = 1_800_000_000.0
SIDECARS = 3
NAMES = "abc"


class Store:
    """One store for all."""

    def __init__(self) -> None:
        self.written: set[str] = set()
        self.mishap = "none"
        """What becomes of the next call: `none`, `call lost`, `answer lost`, `unreachable`."""

    def use(self, bucket: int, name: str, until: float) -> Awaitable[Use] | Unavailable:
        del bucket, until
        if self.mishap == "unreachable":
            return Unavailable("breaker_open")
        return self._use(name)

    async def _use(self, name: str) -> Use:
        if self.mishap == "call lost":
            return Unavailable("timeout")
        known = name in self.written
        self.written.add(name)
        if self.mishap == "answer lost":
            return Unavailable("timeout")
        return USED if known else FIRST


class Step(NamedTuple):
    sidecar: int
    name: str
    mishap: str
    fail_open: bool


steps = st.builds(
    Step,
    st.integers(0, SIDECARS - 1),
    st.sampled_from(NAMES),
    st.sampled_from(["none", "none", "call lost", "answer lost", "unreachable"]),
    st.booleans(),
)


def run(awaitable: Awaitable[AnyT]) -> AnyT:
    """What comes of it, where nobody has to wait."""
    with pytest.raises(StopIteration) as done:
        next(awaitable.__await__())
    value: AnyT = done.value.value
    return value


def finished(use: Use | Awaitable[Use]) -> Use:
    """The answer of a store that never makes anybody wait."""
    return use if isinstance(use, First | Used | Unavailable) else run(use)


@given(st.lists(steps, max_size=40))
def test_at_most_once(taken: list[Step]) -> None:
    """By each sidecar once, and in all once, but for what was let through without being asked; and
    once the store answers and was told, by nobody.
    """
    store = Store()
    ledgers = [Ledger(store) for _ in range(SIDECARS)]
    by_sidecar: Counter[tuple[int, str]] = Counter()
    known_first: Counter[str] = Counter()
    for step in taken:
        store.mishap = step.mishap
        ledger = ledgers[step.sidecar]
        use = finished(ledger.use(0, step.name, NOW + 60, NOW))
        if isinstance(use, Unavailable) and not step.fail_open:
            ledger.forget(step.name, NOW + 60)
        elif not isinstance(use, Used):
            by_sidecar[step.sidecar, step.name] += 1
            known_first[step.name] += isinstance(use, First)
    assert all(count == 1 for count in by_sidecar.values())
    assert all(count <= 1 for count in known_first.values())
    store.mishap = "none"
    for ledger in ledgers:
        run(ledger.settle(NOW))
        assert not ledger.owed
    for name in {name for _, name in by_sidecar}:
        assert finished(Ledger(store).use(0, name, NOW + 60, NOW)) == USED


def test_after_a_refusal_for_want_of_a_store_the_first_that_comes_back_passes() -> None:
    """Unless the store had got the call, which nobody could know."""
    store = Store()
    ledger = Ledger(store)
    for mishap, outcome in (("call lost", FIRST), ("unreachable", FIRST), ("answer lost", USED)):
        store.mishap = mishap
        assert isinstance(finished(ledger.use(0, mishap, NOW + 60, NOW)), Unavailable)
        ledger.forget(mishap, NOW + 60)
        store.mishap = "none"
        assert finished(ledger.use(0, mishap, NOW + 60, NOW)) == outcome
