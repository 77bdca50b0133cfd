"""Who has asked too often is answered 429, here as everywhere else in words of OAuth's form."""

from authz.tokens.http.address import limited_by
from authz.tokens.http.errors import too_many_requests
from authz.tokens.limits.limiter import Limit, Limiter


class Throttle:
    """The limits as the endpoints ask them."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self.refused: dict[str, int] = {}
        """429 answers, by limit."""

    async def spend(self, limit: Limit, who: str) -> None:
        """Count one request. OAuthError 429: there were too many."""
        self._refuse(limit, await self._limiter.hit(limit, _counted(limit, who)))

    async def admit(self, limit: Limit, who: str, *, proven: bool) -> None:
        """Before a request by someone whose name is `proven`: `spend`. Where anybody may have put
        it there: only `look`, and `note` once the request was good; else junk in somebody's name
        would use up what that somebody may do.
        """
        if proven:
            await self.spend(limit, who)
        else:
            await self.look(limit, who)

    async def look(self, limit: Limit, who: str) -> None:
        """OAuthError 429: there were too many of what `note` counts."""
        self._refuse(limit, await self._limiter.look(limit, _counted(limit, who)))

    async def note(self, limit: Limit, who: str) -> None:
        """Count what is answered for itself."""
        await self._limiter.hit(limit, _counted(limit, who))

    def _refuse(self, limit: Limit, after: float | None) -> None:
        if after is not None:
            self.refused[limit] = self.refused.get(limit, 0) + 1
            raise too_many_requests(after, limit.partition("_")[2])


def _counted(limit: Limit, who: str) -> str:
    return limited_by(who) if limit.endswith("_address") else who
