"""The ledger of what may be used once: what this sidecar saw, then one atomic call to the store."""

from collections.abc import Awaitable, Callable, Iterable

from authz.revocation.record import Unavailable
from authz.uses.memory import UsedHere
from authz.uses.owed import OwedUses, UseStore
from authz.uses.record import FIRST, USED, First, Use, Used


class Ledger:
    """Says of each thing once that it is used for the first time."""

    def __init__(self, store: UseStore | None) -> None:
        """`store`: None where this process is all there is (`memory://`)."""
        self._store = store
        self._here = UsedHere()
        self._heard = UsedHere()
        self.owed = OwedUses()
        """What was let through while the store was gone."""
        self.tell: Callable[[str, float, bool], None] = _nobody
        """Called with what other processes of this sidecar should `hear`: a name, until when it
        counts, and whether it was used, or that came to nothing."""
        self.results: dict[str, int] = {}
        """Uses by outcome: `first`; `used_here`: this sidecar knew; `used`: the store did; or the
        cause why the store didn't say."""

    @property
    def remembered(self) -> int:
        """Uses that are known here."""
        return self._here.size + self._heard.size

    @property
    def evictions(self) -> int:
        """Uses that were pushed out of memory while they still counted."""
        return self._here.evictions + self._heard.evictions

    def use(
        self,
        bucket: int,
        name: str,
        until: float,
        now: float,
        unavailable: Unavailable | None = None,
    ) -> Use | Awaitable[Use]:
        """Use a thing, which nobody can do again. At once where memory holds the answer, else an
        awaitable of at most `store.timeout`. Never raises for a failure of the store.

        `unavailable`: what the store said to this check before. After a time-out it isn't asked
        again, so that no check waits for one twice; that is the answer where memory has none.

        `name`: 43 characters of a digest, scoped by what kind of thing it is. `until`: when it
        can't be used any more in any case, the same each time. `now`. Seconds since 1970.

        What is asked of the store is remembered here first, so that of any number of tries in one
        process one is `First` at most, and none where another process was. With `Unavailable`
        nobody knows of the others; whoever then refuses the request calls `forget`.
        """
        if self._heard.knows(name, until) or not self._here.add(name, until, now):
            return self._counted(USED, "used_here")
        self.tell(name, until, True)
        if self._store is None:
            return self._counted(FIRST)
        if unavailable is not None and unavailable.cause == "timeout":
            answer: Awaitable[Use] | Unavailable = unavailable
        else:  # what may not read, or is being read anew, may write all the same
            answer = self._store.use(bucket, name, until)
        if isinstance(answer, Unavailable):
            self.owed.add(bucket, name, until)
            return self._counted(answer)
        return self._finish(answer, bucket, name, until)

    async def settle(self, now: float) -> None:
        """Write down what was let through while the store was gone, as far as it answers now: till
        then, another sidecar would let it through as well. `now`: seconds since 1970.
        """
        if self._store is not None and self.owed:
            await self.owed.settle(self._store, now)

    def forget(self, name: str, until: float) -> None:
        """The use did not come about: the store was unavailable, and the request was refused for
        that. A later try may be the first, unless the store got the call after all.
        """
        self._here.discard(name, until)
        self.owed.discard(name)
        self.tell(name, until, False)

    def hear(self, told: Iterable[tuple[str, float, bool]], now: float) -> None:
        """What another process of this sidecar told, in its order. What it takes back is kept
        apart from what was used here, which it can't take back.
        """
        for name, until, used in told:
            if used:
                self._heard.add(name, until, now)
            else:
                self._heard.discard(name, until)

    async def _finish(self, answer: Awaitable[Use], bucket: int, name: str, until: float) -> Use:
        try:
            use = await answer
        except BaseException:  # cancelled: nobody was let through
            self.forget(name, until)
            raise
        if isinstance(use, Unavailable):
            self.owed.add(bucket, name, until)
        return self._counted(use)

    def _counted(self, use: Use, outcome: str = "") -> Use:
        match use:
            case First():
                outcome = "first"
            case Used():
                outcome = outcome or "used"
            case Unavailable(cause):
                outcome = cause
        self.results[outcome] = self.results.get(outcome, 0) + 1
        return use


def _nobody(*told: object) -> None:
    """For a sidecar of one process."""
