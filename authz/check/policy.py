"""What a route asks for, said in Envoy's `check_settings.context_extensions`.

| key | values |
| --- | --- |
| `authz.mode` | `required` (default), `optional`: a request without a token passes as anonymous |
| `authz.fail_mode` | `open`, `closed`; default: the setting `fail_mode` |
| `authz.audience` | the token must name this audience as well |
| `authz.scopes` | space-separated; the token must have all of them |

Any other `authz.*` key or value is an error of the route: a misspelt policy must not become none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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

    def objection(self, identity: Identity) -> Verdict | None:
        """The denial of a good token that is not good enough for this route, else None."""
        if self.audience is not None and self.audience not in identity.audiences:
            return deny(Reason.ROUTE_AUDIENCE_MISMATCH, identity=identity)
        for scope in self.scopes:
            if scope not in identity.scopes:
                needed = " ".join(self.scopes)
                return deny(Reason.INSUFFICIENT_SCOPE, identity=identity, detail=f"needs {needed}")
        return None


class RoutePolicies:
    """Reads extensions into policies, once per route."""

    def __init__(self, fail_mode: FailMode) -> None:
        self._fail_mode: FailMode = fail_mode
        self._default = self._parse({})
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
        mode, fail_mode = "required", self._fail_mode
        audience: str | None = None
        scopes: tuple[str, ...] = ()
        # In order: a protobuf map's differs between processes, and of two mistakes one is named.
        for key, value in sorted(extensions.items()):
            match key:
                case "authz.mode" if value in {"required", "optional"}:
                    mode = value
                case "authz.fail_mode" if value == "open":
                    fail_mode = "open"
                case "authz.fail_mode" if value == "closed":
                    fail_mode = "closed"
                case "authz.audience" if value:
                    audience = value
                case "authz.scopes" if all(map(SCOPE_TOKEN.fullmatch, value.split(" "))):
                    scopes = tuple(value.split(" "))
                case "authz.mode" | "authz.fail_mode" | "authz.audience" | "authz.scopes":
                    raise PolicyError(f"{key} has an unusable value")
                case _ if key.strip().lower().startswith(KEY_PREFIX):
                    raise PolicyError(f"{_printable(key)} is unknown")
                case _:
                    pass  # another service's extension
        return RoutePolicy(mode == "optional", fail_mode, audience, scopes)


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isalnum() or c in "._-")[:64]
