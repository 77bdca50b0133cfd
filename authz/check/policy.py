"""What a route asks for, said in Envoy's `check_settings.context_extensions`.

| key | values |
| --- | --- |
| `authz.mode` | `required` (default), `optional`: a request without a token passes as anonymous |
| `authz.fail_mode` | `open`, `closed`; default: the setting `fail_mode` |
| `authz.audience` | the token must name this audience as well |
| `authz.scopes` | space-separated; the token must have all of them |
| `authz.require_https` | `true`, `false`; default: the setting `require_https` |
| `authz.csrf` | `true` (default), `false`: a token in a cookie must come from our own pages |
| `authz.binding` | `optional` (default), `required`: the token must be bound to its holder |
| `authz.use` | `once`: the token is used up by one request; `many` (default) |

Any other `authz.*` key or value is an error of the route: a misspelt policy must not become none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cachetools import LRUCache

from authz.check.token import SCOPE_TOKEN, Identity
from authz.check.verdict import Reason, Verdict, deny

KEY_PREFIX = "authz."
ROUTES_REMEMBERED = 1024
"""Parsed policies kept: routes come from Envoy's config, so there are few and they repeat."""

FailMode = Literal["open", "closed"]


class PolicyError(Exception):
    """The route's extensions can't be understood; the text names the key."""


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """The demands of one route."""

    optional: bool
    fail_mode: FailMode
    audience: str | None
    scopes: tuple[str, ...]
    require_https: bool = False
    """A token that came over plain HTTP is refused."""
    csrf: bool = True
    """A token that a browser sent by itself, in a cookie, must come from one of our pages."""
    bound: bool = False
    """The token must be bound to a key or certificate of its holder."""
    once: bool = False
    """The token may be used once only."""
    guarded: bool = field(init=False)
    """Whether guards are to be asked about every token, a plain one too."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "guarded", self.require_https or self.bound or self.once)

    def objection(self, identity: Identity) -> Verdict | None:
        """The denial of a good token that is not good enough for this route, else None."""
        if self.audience is not None and self.audience not in identity.audiences:
            return deny(Reason.ROUTE_AUDIENCE_MISMATCH, identity=identity)
        for scope in self.scopes:
            if scope not in identity.scopes:
                needed = " ".join(self.scopes)
                return deny(Reason.INSUFFICIENT_SCOPE, identity=identity, detail=f"needs {needed}")
        return None


def _one_of(**values: Any) -> Callable[[str], Any]:
    """Reads one of these words. KeyError: another one."""
    return values.__getitem__


def _scopes(value: str) -> tuple[str, ...]:
    scopes = tuple(value.split(" "))
    if not all(map(SCOPE_TOKEN.fullmatch, scopes)):
        raise ValueError
    return scopes


def _audience(value: str) -> str:
    if not value:
        raise ValueError
    return value


_yes_or_no = _one_of(true=True, false=False)

_DEMANDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "authz.mode": ("optional", _one_of(required=False, optional=True)),
    "authz.fail_mode": ("fail_mode", _one_of(open="open", closed="closed")),
    "authz.audience": ("audience", _audience),
    "authz.scopes": ("scopes", _scopes),
    "authz.require_https": ("require_https", _yes_or_no),
    "authz.csrf": ("csrf", _yes_or_no),
    "authz.binding": ("bound", _one_of(required=True, optional=False)),
    "authz.use": ("once", _one_of(once=True, many=False)),
}
"""By key: the field of `RoutePolicy`, and what reads its value (KeyError, ValueError)."""


class RoutePolicies:
    """Reads extensions into policies, once per route."""

    def __init__(self, fail_mode: FailMode, *, require_https: bool = False) -> None:
        """What holds for a route that says nothing else."""
        self._default = RoutePolicy(
            optional=False,
            fail_mode=fail_mode,
            audience=None,
            scopes=(),
            require_https=require_https,
        )
        self._known: LRUCache[tuple[tuple[str, str], ...], RoutePolicy] = LRUCache(
            ROUTES_REMEMBERED
        )

    def of(self, extensions: Mapping[str, str]) -> RoutePolicy:
        """The policy of a route. PolicyError: an unknown `authz.*` key or value."""
        if not extensions:
            return self._default
        # `items()` of a protobuf map is Python code; this is not.
        key = tuple([(name, extensions[name]) for name in extensions])
        policy = self._known.get(key)
        if policy is None:
            policy = self._parse(extensions)
            self._known[key] = policy
        return policy

    def _parse(self, extensions: Mapping[str, str]) -> RoutePolicy:
        demands: dict[str, Any] = {}
        # In order: a protobuf map's differs between processes, and of two mistakes one is named.
        for key, value in sorted(extensions.items()):
            if key in _DEMANDS:
                name, read = _DEMANDS[key]
                try:
                    demands[name] = read(value)
                except (KeyError, ValueError):
                    raise PolicyError(f"{key} has an unusable value") from None
            elif key.strip().lower().startswith(KEY_PREFIX):
                raise PolicyError(f"{_printable(key)} is unknown")
            # else it is another service's
        return replace(self._default, **demands)


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isalnum() or c in "._-")[:64]
