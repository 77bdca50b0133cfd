"""What `/metrics` of the token service shows: read from it when someone asks."""

import platform
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from authz import __version__
from authz.keys.issuing.followed import FollowedKeys
from authz.observe import names
from authz.observe.counters import Histogram
from authz.observe.families import family, histogram
from authz.tokens.clients.secret import SecretHasher
from authz.tokens.http.figures import Figures
from authz.tokens.http.throttle import Throttle
from authz.tokens.limits.limiter import Limiter


class TokenMetrics(Collector):
    """In a registry of its own. Read from the thread that answers HTTP: single integers and floats
    can't be torn.
    """

    def __init__(
        self,
        figures: Figures,
        throttle: Throttle,
        limiter: Limiter,
        hasher: SecretHasher,
        signing: FollowedKeys,
        loop_lag: Histogram,
    ) -> None:
        self._figures = figures
        self._throttle = throttle
        self._limiter = limiter
        self._hasher = hasher
        self._signing = signing
        self._loop_lag = loop_lag
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, as `Metrics.render`."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Family]:
        """All families, as `names.TOKEN_METRICS` lists them, and the process' own."""
        figures, limiter = self._figures, self._limiter
        yield family(names.TOKEN_REQUESTS, _by_two(figures.requests))
        yield histogram(names.TOKEN_REQUEST_DURATION, figures.duration)
        yield family(names.TOKENS_ISSUED, _by_one(figures.issued))
        yield family(names.TOKEN_ERRORS, _by_one(figures.errors))
        yield family(names.TOKEN_LIMITED, _by_one(self._throttle.refused))
        yield family(names.TOKEN_LIMITS_SHARED, {(): limiter.shared_answers})
        yield family(names.TOKEN_LIMITS_FAILURES, {(): limiter.failures})
        yield family(names.TOKEN_SECRET_HASHES, {(): self._hasher.hashes})
        yield from self._of_signing()
        yield histogram(names.LOOP_LAG, self._loop_lag)
        yield family(names.BUILD_INFO, {(__version__, platform.python_version(), ""): 1})

    def _of_signing(self) -> Iterator[Family]:
        keys = self._signing
        age = keys.age
        yield family(names.TOKEN_SIGNATURES, _by_one(keys.figures.signatures))
        yield histogram(names.TOKEN_SIGNATURE_DURATION, keys.figures.latency)
        yield family(names.TOKEN_SIGNING_KEYS, _by_one(keys.known))
        yield family(names.TOKEN_SIGNING_KEY_AGE, {} if age is None else {(): age})
        yield family(names.TOKEN_SIGNING_FAILING, {(): bool(keys.error)})
        yield family(names.TOKEN_SIGNING_READINGS, _by_one(keys.figures.readings))
        yield family(names.TOKEN_ROTATIONS, _by_one(keys.figures.rotations))


def _by_one(values: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    return {(name,): value for name, value in list(values.items())}


def _by_two(values: Mapping[tuple[str, str], int]) -> dict[tuple[str, ...], float]:
    return dict(list(values.items()))
