"""Fetching keys from a JWKS URL and by OpenID Connect discovery, from a real server."""

import gzip
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from keys.origin import Answer, Origin

from authz.keys.errors import KeySourceError
from authz.keys.jwk import MAX_DOCUMENT_BYTES
from authz.keys.remote import Discovery, JwksUrl, is_exposed, redact_url, tls_context
from support.certificates import Certificates
from support.jwks import ec_key, jwk

KEYS = {"keys": [jwk(ec_key(), "a")]}
CONFIGURATION = "/.well-known/openid-configuration"


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Ends answers that wait, whatever becomes of the test."""
    event = threading.Event()
    yield event
    event.set()


async def fetch(url: str, *, limit: float = 10.0, ca_file: Path | None = None) -> tuple[str, ...]:
    parsed = await JwksUrl(url, ["ES256"], limit=limit, ca_file=ca_file).fetch()
    return parsed.keys.kids


async def discover(issuer: str, *, ca_file: Path | None = None) -> tuple[str, ...]:
    parsed = await Discovery(issuer, ["ES256"], limit=10, ca_file=ca_file).fetch()
    return parsed.keys.kids


async def test_keys_come_from_a_url(origin: Origin) -> None:
    assert await fetch(origin.put("/jwks", KEYS)) == ("a",)


async def test_a_bad_key_from_a_url_leaves_the_others_usable(origin: Origin) -> None:
    url = origin.put("/jwks", {"keys": [{"kty": "oct", "k": "AAAA"}, *KEYS["keys"]]})
    assert await fetch(url) == ("a",)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(status=404), "answered with status 404"),
        (Answer(status=500), "answered with status 500"),
        (Answer(b"", status=204), "answered with status 204"),
        (Answer(b"<html>"), "is not JSON"),
        (Answer(b"{}"), '"keys" is not a list'),
        (Answer(b" " * (MAX_DOCUMENT_BYTES + 1)), "is larger than"),
        (
            Answer(gzip.compress(b" " * 10**7), headers=(("content-encoding", "gzip"),)),
            "compressed body",
        ),
    ],
    ids=["404", "500", "204", "html", "no set", "large", "compressed"],
)
async def test_an_answer_that_is_no_set_is_an_error_that_says_why(
    origin: Origin, answer: Answer, problem: str
) -> None:
    origin.pages["/jwks"] = answer
    with pytest.raises(KeySourceError, match=problem):
        await fetch(origin.url + "/jwks")


async def test_no_compression_is_asked_for(origin: Origin) -> None:
    await fetch(origin.put("/jwks", KEYS))
    assert origin.requests[0]["accept-encoding"] == "identity"
    assert origin.requests[0]["cache-control"] == "no-cache", "no cache on the way answers"


async def test_a_server_that_does_not_answer_costs_the_time_limit(
    origin: Origin, release: threading.Event
) -> None:
    def hang() -> Answer:
        release.wait()
        return Answer()

    origin.pages["/jwks"] = hang
    with pytest.raises(KeySourceError, match=r"no answer within 0\.1 s"):
        await fetch(origin.url + "/jwks", limit=0.1)


async def test_an_answer_that_comes_in_drops_costs_no_more(origin: Origin) -> None:
    """Each byte comes in time, the whole never."""
    origin.pages["/jwks"] = Answer(b" ", pause=0.01)
    with pytest.raises(KeySourceError, match=r"no answer within 0\.2 s"):
        await fetch(origin.url + "/jwks", limit=0.2)


async def test_an_answer_without_end_is_not_read_beyond_the_limit(origin: Origin) -> None:
    origin.pages["/jwks"] = Answer(b" " * 65536, pause=0)
    with pytest.raises(KeySourceError, match="is larger than"):
        await fetch(origin.url + "/jwks", limit=60)


async def test_a_server_that_is_not_there_is_an_error(origin: Origin) -> None:
    with pytest.raises(KeySourceError):
        await fetch("http://127.0.0.1:1/jwks")


async def test_redirects_are_followed_a_few_times(origin: Origin) -> None:
    origin.put("/jwks", KEYS)
    origin.pages["/old"] = Answer(status=302, headers=(("location", "/jwks"),))
    origin.pages["/round"] = Answer(status=302, headers=(("location", "/round"),))
    assert await fetch(origin.url + "/old") == ("a",)
    with pytest.raises(KeySourceError, match="redirects more than 3 times"):
        await fetch(origin.url + "/round")


async def test_a_redirect_from_https_to_http_is_refused(
    origin: Origin, tls_origin: Origin, certificates: Certificates
) -> None:
    """Whoever is between could put in keys of their own."""
    plain = origin.put("/jwks", KEYS)
    tls_origin.pages["/jwks"] = Answer(status=302, headers=(("location", plain),))
    with pytest.raises(KeySourceError, match="redirects from https"):
        await fetch(tls_origin.url + "/jwks", ca_file=certificates.ca)
    assert origin.asked == []


async def test_tls_trusts_the_given_authority(
    tls_origin: Origin, certificates: Certificates
) -> None:
    url = tls_origin.put("/jwks", KEYS)
    assert await fetch(url, ca_file=certificates.ca) == ("a",)


async def test_tls_trusts_nobody_else(tls_origin: Origin, certificates: Certificates) -> None:
    url = tls_origin.put("/jwks", KEYS)
    for ca_file in (certificates.other_ca, None):
        with pytest.raises(KeySourceError, match="CERTIFICATE_VERIFY_FAILED"):
            await fetch(url, ca_file=ca_file)
    assert tls_origin.asked == []


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_holds_none_is_an_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(KeySourceError, match=r"No such file|no certificate in PEM"):
        tls_context(path)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_discovery_finds_the_keys(origin: Origin, slash: str) -> None:
    issuer = origin.url + "/realm" + slash
    jwks_uri = origin.put("/elsewhere", KEYS)
    origin.put("/realm" + CONFIGURATION, {"issuer": issuer, "jwks_uri": jwks_uri})
    assert await discover(issuer) == ("a",)
    assert origin.asked == ["/realm" + CONFIGURATION, "/elsewhere"]


async def test_discovery_notices_when_the_keys_move(origin: Origin) -> None:
    source = Discovery(origin.url, ["ES256"], limit=10)
    for path, kid in (("/one", "a"), ("/two", "b")):
        jwks_uri = origin.put(path, {"keys": [jwk(ec_key(), kid)]})
        origin.put(CONFIGURATION, {"issuer": origin.url, "jwks_uri": jwks_uri})
        assert (await source.fetch()).keys.kids == (kid,)


@pytest.mark.parametrize("named", ["https://other.example", "{}/", "", None, 7])
async def test_discovery_refuses_a_document_of_another_issuer(
    origin: Origin, named: object
) -> None:
    """OpenID Connect Discovery 1.0 section 4.3. One slash more is another issuer."""
    issuer = named.format(origin.url) if isinstance(named, str) else named
    origin.put(CONFIGURATION, {"issuer": issuer, "jwks_uri": origin.put("/jwks", KEYS)})
    with pytest.raises(KeySourceError, match="the document's issuer is"):
        await discover(origin.url)
    assert origin.asked == [CONFIGURATION]


@pytest.mark.parametrize(
    "uri", [None, 7, "", "/jwks", "file:///etc/passwd", "ftp://x/", "http://[x"]
)
async def test_discovery_refuses_keys_that_are_not_on_the_web(origin: Origin, uri: object) -> None:
    origin.put(CONFIGURATION, {"issuer": origin.url, "jwks_uri": uri})
    with pytest.raises(KeySourceError, match="jwks_uri is missing or not an"):
        await discover(origin.url)


async def test_an_https_issuer_has_its_keys_on_https(
    origin: Origin, tls_origin: Origin, certificates: Certificates
) -> None:
    issuer, plain = tls_origin.url, origin.put("/jwks", KEYS)
    tls_origin.put(CONFIGURATION, {"issuer": issuer, "jwks_uri": plain})
    with pytest.raises(KeySourceError, match="jwks_uri is not https"):
        await discover(issuer, ca_file=certificates.ca)
    tls_origin.put(CONFIGURATION, {"issuer": issuer, "jwks_uri": tls_origin.put("/jwks", KEYS)})
    assert await discover(issuer, ca_file=certificates.ca) == ("a",)


async def test_an_error_at_the_keys_names_their_url(origin: Origin) -> None:
    uri = origin.url.replace("http://", "http://user:hunter2@") + "/gone?key=hunter3"
    origin.put(CONFIGURATION, {"issuer": origin.url, "jwks_uri": uri})
    with pytest.raises(KeySourceError, match="/gone: answered with status 404") as caught:
        await discover(origin.url)
    assert "hunter" not in str(caught.value)


def test_a_url_is_shown_without_what_may_be_secret() -> None:
    assert redact_url("https://user:pw@host:8443/jwks?key=1#x") == "https://host:8443/jwks"
    source = JwksUrl("https://user:pw@host/jwks?key=1", ["ES256"], limit=1)
    assert source.where == "https://host/jwks"


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("https://issuer.example/", False),
        ("http://localhost:8080/", False),
        ("http://127.0.0.2/", False),
        ("http://[::1]:80/", False),
        ("http://issuer.example/", True),
        ("http://10.0.0.1/", True),
        ("http://localhost.example/", True),
    ],
)
def test_plain_http_is_exposed_unless_it_stays_on_this_machine(url: str, exposed: bool) -> None:
    assert is_exposed(url) is exposed
