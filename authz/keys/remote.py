"""Key sources on the network: a JWKS URL, and OpenID Connect discovery.

httpx is imported by the first fetch: with its dependencies it costs some megabytes of memory, which
sidecars with keys in files needn't pay.
"""

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from authz.keys.errors import KeySourceError
from authz.keys.jwk import MAX_DOCUMENT_BYTES, ParsedKeys, parse_jwks, read_json_object

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 3
"""One for a missing or superfluous slash, one to another host, one spare."""

_HTTP_OK = 200


class _HttpSource:
    """What both kinds share: one bounded GET after another within one time limit."""

    setting = ""

    def __init__(
        self, where: str, algorithms: Collection[str], *, limit: float, ca_file: Path | None
    ) -> None:
        """`limit`: seconds for a whole fetch."""
        self.where = where
        self._algorithms = frozenset(algorithms)
        self._limit = limit
        self._ca_file = ca_file

    async def fetch(self) -> ParsedKeys:
        """The keys as published now. KeySourceError for whatever goes wrong."""
        import httpx  # see the module's docstring

        # httpx logs each URL with its query, which may hold an API key.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        try:
            # Read each time, so that authorities can be replaced without a restart.
            tls = _system_tls() if self._ca_file is None else tls_context(self._ca_file)
        except KeySourceError as error:
            raise KeySourceError(f"ca_file {self._ca_file}: {error}") from None
        try:
            async with (
                asyncio.timeout(self._limit),
                # A client for each fetch: minutes lie between them, no connection is kept so long.
                httpx.AsyncClient(
                    verify=tls,
                    timeout=self._limit,
                    headers={
                        "accept": "application/json",
                        "accept-encoding": "identity",
                        # A cache on the way must ask (RFC 9111 section 5.2.1.4): a withdrawn key
                        # would come out of it.
                        "cache-control": "no-cache",
                    },
                ) as client,
            ):
                return await self._fetch(client)
        except (TimeoutError, httpx.TimeoutException):
            raise KeySourceError(f"no answer within {self._limit:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise KeySourceError(_in_words(error)) from None

    async def _fetch(self, client: "httpx.AsyncClient") -> ParsedKeys:
        raise NotImplementedError


class JwksUrl(_HttpSource):
    setting = "jwks_url"

    def __init__(
        self, url: str, algorithms: Collection[str], *, limit: float, ca_file: Path | None = None
    ) -> None:
        super().__init__(redact_url(url), algorithms, limit=limit, ca_file=ca_file)
        self._url = url

    async def _fetch(self, client: "httpx.AsyncClient") -> ParsedKeys:
        return parse_jwks(await _get(client, self._url), self._algorithms, strict=False)


class Discovery(_HttpSource):
    """OpenID Connect Discovery 1.0: the provider's configuration names the JWKS URL. Both documents
    are read at each fetch, so that a provider may move its keys.
    """

    setting = "discovery"

    def __init__(
        self, issuer: str, algorithms: Collection[str], *, limit: float, ca_file: Path | None = None
    ) -> None:
        # Section 4.1: a terminating slash of the issuer is removed first.
        self._url = issuer.removesuffix("/") + "/.well-known/openid-configuration"
        super().__init__(redact_url(self._url), algorithms, limit=limit, ca_file=ca_file)
        self._issuer = issuer

    async def _fetch(self, client: "httpx.AsyncClient") -> ParsedKeys:
        document = read_json_object(await _get(client, self._url))
        # Section 4.3: MUST be identical to the issuer the configuration was asked of; otherwise one
        # provider could speak for another.
        issuer = document.get("issuer")
        if issuer != self._issuer:
            shown = repr(issuer[:200]) if isinstance(issuer, str) else "none"
            raise KeySourceError(f"the document's issuer is {shown}, not {self._issuer!r}")
        jwks_uri = document.get("jwks_uri")
        if not isinstance(jwks_uri, str) or not _is_http(jwks_uri):
            raise KeySourceError("the document's jwks_uri is missing or not an http(s) URL")
        if _is_https(self._issuer) and not _is_https(jwks_uri):
            raise KeySourceError("the document's jwks_uri is not https, but the issuer is")
        try:
            data = await _get(client, jwks_uri)
            return parse_jwks(data, self._algorithms, strict=False)
        except KeySourceError as error:
            raise KeySourceError(f"jwks_uri {redact_url(jwks_uri)}: {error}") from None


RemoteSource = JwksUrl | Discovery


def redact_url(url: str) -> str:
    """Without user, password, query and fragment: fit to be logged."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_exposed(url: str) -> bool:
    """Whether keys from there could be replaced on the way: plain http, and not to this machine."""
    host = urlsplit(url).hostname or ""
    if _is_https(url) or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or later, host names checked, trusting `ca_file` or the system's certificates.

    KeySourceError: the file can't be used.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise KeySourceError("holds no certificate in PEM form") from None
    except OSError as error:
        raise KeySourceError(error.strerror or "can't be read") from None


@cache
def _system_tls() -> ssl.SSLContext:
    """Made once: the system's certificates take megabytes and a tenth of a second."""
    return tls_context(None)


async def _get(client: "httpx.AsyncClient", url: str) -> bytes:
    """The body of a 200 answer, at most `MAX_DOCUMENT_BYTES` of it."""
    request = client.build_request("GET", url)
    for _ in range(MAX_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        try:
            if response.next_request is not None:
                if _is_https(str(request.url)) and response.next_request.url.scheme != "https":
                    raise KeySourceError("redirects from https to a place that is not https")
                request = response.next_request
                continue
            return await _body(response)
        finally:
            await response.aclose()
    raise KeySourceError(f"redirects more than {MAX_REDIRECTS} times")


async def _body(response: "httpx.Response") -> bytes:
    if response.status_code != _HTTP_OK:
        raise KeySourceError(f"answered with status {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        # Asked not to. A few compressed bytes could stand for gigabytes.
        raise KeySourceError("answered with a compressed body")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_DOCUMENT_BYTES:
            raise KeySourceError(f"is larger than {MAX_DOCUMENT_BYTES} bytes")
    return bytes(body)


def _in_words(error: Exception) -> str:
    """The text of httpx is sometimes empty, and may quote what the server sent."""
    text = " ".join(str(error).split())[:200]
    return text if text.isprintable() and text else type(error).__name__


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _is_https(url: str) -> bool:
    return urlsplit(url).scheme == "https"
