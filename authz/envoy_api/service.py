"""The Check method, whatever transport carries it: bytes in, bytes out."""

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Protocol

from authz.check.authorizer import Authorizer
from authz.check.request import CheckRequest
from authz.check.verdict import Verdict
from authz.envoy_api.codec import decode, encode

AUTHORIZATION_SERVICE = "envoy.service.auth.v3.Authorization"


class CheckObserver(Protocol):
    """Counts what was decided."""

    def count(self, verdict: Verdict, seconds: float) -> None: ...


class CheckService:
    """Decodes, decides, encodes and counts."""

    def __init__(
        self,
        authorizer: Authorizer,
        observer: CheckObserver,
        *,
        timer: Callable[[], float] = perf_counter,
    ) -> None:
        """`timer`: seconds from any fixed point, monotonic."""
        self._authorizer = authorizer
        self._observer = observer
        self._timer = timer

    def check(self, data: bytes) -> bytes | Awaitable[bytes]:
        """Answer one CheckRequest. MalformedRequestError: `data` is none."""
        started = self._timer()
        request = decode(data)
        verdict = self._authorizer.check(request)
        if isinstance(verdict, Verdict):
            return self._finish(request, verdict, started)
        return self._finish_later(request, verdict, started)

    async def _finish_later(
        self, request: CheckRequest, verdict: Awaitable[Verdict], started: float
    ) -> bytes:
        return self._finish(request, await verdict, started)

    def _finish(self, request: CheckRequest, verdict: Verdict, started: float) -> bytes:
        answer = encode(verdict, request)
        self._observer.count(verdict, self._timer() - started)
        return answer
