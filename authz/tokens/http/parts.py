"""What the endpoints are made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.requests import Request

from authz.check.url import normal_origin
from authz.keys.signer import SigningKeys
from authz.settings.tokens import TokensSettings
from authz.tokens.clients.store import ClientStore
from authz.tokens.encryption import Encryption
from authz.tokens.http.address import client_address
from authz.tokens.http.authentication import Authenticator
from authz.tokens.http.figures import Figures
from authz.tokens.http.proofs import Proofs
from authz.tokens.http.subjects import Subjects
from authz.tokens.http.throttle import Throttle
from authz.tokens.interface import Tokens


@dataclass(frozen=True, slots=True)
class Paths:
    """Where everything is, below the issuer's own path (RFC 8414 section 3)."""

    issuer: str
    prefix: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", urlsplit(self.issuer).path.rstrip("/"))

    @property
    def origin(self) -> str:
        """Of the issuer, as browsers write it: scheme and host, and the port where it isn't the
        scheme's own.
        """
        parts = urlsplit(self.issuer)
        return normal_origin(parts.scheme, parts.netloc.rpartition("@")[2])

    @property
    def token(self) -> str:
        return f"{self.prefix}/oauth2/token"

    @property
    def metadata(self) -> str:
        """RFC 8414 section 3.1: the well-known part stands before the issuer's path."""
        return f"/.well-known/oauth-authorization-server{self.prefix}"

    def url(self, path: str) -> str:
        """The public URL of a path below the issuer's."""
        return self.issuer.rstrip("/") + path


@dataclass(frozen=True, slots=True)
class Parts:
    tokens: Tokens
    clients: ClientStore
    authenticator: Authenticator
    throttle: Throttle
    subjects: Subjects
    proofs: Proofs
    encryption: Encryption
    keys: SigningKeys
    settings: TokensSettings
    paths: Paths
    figures: Figures
    clock: Callable[[], float]
    """Seconds since 1970."""

    def address(self, request: Request) -> str:
        """Where the request came from."""
        peer = request.client.host if request.client else None
        forwarded = request.headers.getlist("x-forwarded-for")
        return client_address(peer, forwarded, self.settings.trusted_hops)


def narrowed(
    asked: list[str], allowed: tuple[str, ...], refuse: Callable[[str], Exception], what: str
) -> tuple[str, ...]:
    """What was asked for, once each, in the order asked. Raises what `refuse` makes: something
    isn't allowed.
    """
    beyond = [one for one in asked if one not in allowed]
    if beyond:
        raise refuse(f"{what}: this client may not have {beyond[0][:64]}")
    return tuple(dict.fromkeys(asked))
