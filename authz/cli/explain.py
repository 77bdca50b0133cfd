"""`authz explain TOKEN`: each stage of a check, its finding and its time.

The stages are shown one by one, but the verdict is the sidecar's own: the same `Authorizer` decides
about a request that carries the token.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from authz.check.authorizer import Authorizer
from authz.check.credentials import Credential
from authz.check.demand import Demand
from authz.check.envelope import is_encrypted
from authz.check.guard import Guard, Presented
from authz.check.guards import all_guards
from authz.check.jose import BadTokenError, Jws, require_compact_form, take_apart
from authz.check.policy import PolicyError, RoutePolicies
from authz.check.request import CheckRequest
from authz.check.token import Identity
from authz.check.verdict import Decision, Reason, Verdict
from authz.check.verifier import Refused, Verified, Verifier
from authz.cli.options import config_option, read_token
from authz.cli.request_options import RequestOptions, request_options
from authz.keys.manager import KeyRings
from authz.keys.nonces import open_nonces
from authz.keys.ring import KeyRing
from authz.observe.logs import configure_logs
from authz.observe.redact import redact_text
from authz.revocation.open import open_store
from authz.revocation.record import (
    Answer,
    Clear,
    Revoked,
    TokenRef,
    Unavailable,
    blacklist_key,
    not_before_key,
)
from authz.revocation.redis.store import RedisStore
from authz.settings import LogSettings, Settings, load_settings
from authz.uses.ledger import Ledger

PIPE_WIDTH = 1000
"""Columns where nobody looks on, so that a row is a line for grep and for a ticket."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of the table."""

    name: str
    good: bool | None
    """None: neither good nor bad."""
    finding: str
    seconds: float


class _NoRecord:
    """An explanation lets nobody through, so there is nothing to put on record."""

    async def record(self, request: CheckRequest, identity: Identity, cause: str) -> bool:
        del request, identity, cause
        return True


class _Known:
    """The finding that was shown, for the verdict."""

    def __init__(self) -> None:
        self.finding: Answer = Unavailable("connection")

    def find(self, ref: TokenRef, now: float, last: Clear) -> Answer:
        del ref, now, last
        return self.finding


@click.command()
@config_option
@click.option(
    "--route",
    "extensions",
    multiple=True,
    metavar="KEY=VALUE",
    help="A context extension of the route, e.g. authz.scopes=orders:write. May be repeated.",
)
@request_options
@click.argument("token")
def explain(
    config: Path | None,
    extensions: tuple[str, ...],
    method: str,
    url: str,
    headers: tuple[str, ...],
    cookie: bool,
    certificate: Path | None,
    token: str,
) -> int:
    """Show what each stage of checking TOKEN finds.

    TOKEN may be - for standard input. Works without the sidecar, and with and without a reachable
    store. The token is not used up. Exit code 0: it would be let through, 1: refused.

    \b
    Examples:
      authz explain --config authz.yaml - < token.jwt
      authz explain --config authz.yaml --route authz.scopes=orders:write "$TOKEN"
      authz explain --config authz.yaml --cookie --method POST \\
        --url https://shop.example/orders --header origin=https://app.example "$TOKEN"
    """
    settings = load_settings(config)
    route = dict(_pair(text) for text in extensions)
    text = read_token(token)
    configure_logs(LogSettings(level="error", format="console"))
    options = RequestOptions(method, url, headers, cookie, certificate)
    explanation = asyncio.run(_explain(settings, route, options, text))
    _print(explanation)
    return 1 if explanation.verdict.decision is Decision.DENY else 0


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--route {text!r}: write KEY=VALUE, as in authz.mode=optional")
    return key, value


class _Explanation:
    """Collects the stages; each is timed by the block in which it is found out."""

    def __init__(self, settings: Settings, extensions: Mapping[str, str]) -> None:
        self.settings = settings
        self.extensions = extensions
        self.stages: list[Stage] = []
        self.identity: Identity | None = None
        self.verdict: Verdict
        self._started = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        self._started = time.perf_counter()
        yield

    def found(self, name: str, good: bool | None, finding: str) -> None:
        seconds = time.perf_counter() - self._started
        self.stages.append(Stage(name, good, redact_text(finding), seconds))


async def _explain(
    settings: Settings, extensions: Mapping[str, str], options: RequestOptions, token: str
) -> _Explanation:
    told = _Explanation(settings, extensions)
    request = options.request(token, extensions)
    policies = RoutePolicies(settings.fail_mode, require_https=settings.require_https)
    guards = all_guards(settings, nonces=open_nonces(settings.dpop))
    rings = KeyRings(settings)
    rings.load()
    known = _Known()
    verifier = Verifier(
        settings.issuers,
        rings.by_issuer,
        leeway=settings.leeway,
        buckets=settings.store.buckets,
        cache_size=1,
        decryption=rings.decryption,
    )
    try:
        text = _explain_envelope(told, rings, token) if is_encrypted(token) else token
        jws = None if text is None else _explain_text(told, text)
        if jws is not None and await _explain_keys(told, jws, rings):
            verified = _explain_signature(told, verifier, token)
            if verified is not None:
                told.identity = verified.identity
                _explain_guards(told, guards, request, verified, policies, options)
        if told.identity is not None:
            known.finding = await _explain_revocation(told, told.identity.ref)
        authorizer = Authorizer(
            credentials=options.finder,
            verifier=verifier,
            revocations=known,
            policies=policies,
            guards=guards,
            ledger=Ledger(None),
            recorder=_NoRecord(),
            clock=time.time,
        )
        verdict = authorizer.check(request)
        told.verdict = verdict if isinstance(verdict, Verdict) else await verdict
    finally:
        await rings.aclose()
    return told


def _explain_envelope(told: _Explanation, rings: KeyRings, token: str) -> str | None:
    """The signed token inside, where it opens."""
    from authz.check.jwe import CONTENT_ENCRYPTION, Opener, read_header  # with joserfc

    with told.timed():
        if not rings.decryption:
            detail = "five segments are an encrypted token; no issuer has decryption.key_file"
            told.found("encryption", False, _refusal(Reason.TOKEN_MALFORMED, detail))
            return None
        try:
            header = read_header(token)
            opened = Opener(rings.decryption).open(token)
        except BadTokenError as error:
            told.found("encryption", False, _refusal(error.reason, error.detail))
            return None
        finding = f"{header.algorithm}, {CONTENT_ENCRYPTION}, kid {header.kid!r}; it opens"
        told.found("encryption", True, finding)
    return opened.token


def _explain_text(told: _Explanation, token: str) -> Jws | None:
    with told.timed():
        try:
            require_compact_form(token)
        except BadTokenError as error:
            told.found("form", False, _refusal(error.reason, error.detail))
            return None
        told.found("form", True, f"three segments, {len(token)} bytes")
    with told.timed():
        try:
            jws = take_apart(token)
        except BadTokenError as error:
            told.found("header", False, _refusal(error.reason, error.detail))
            return None
        kid = "no kid" if jws.kid is None else f"kid {jws.kid!r}"
        told.found("header", True, f"{jws.algorithm}, {kid}")
    return jws


async def _explain_keys(told: _Explanation, jws: Jws, rings: KeyRings) -> bool:
    with told.timed():
        issuer = jws.claims.get("iss")
        ring = rings.by_issuer.get(issuer) if isinstance(issuer, str) else None
        if ring is None:
            told.found("issuer", False, _refusal(Reason.ISSUER_UNKNOWN, f"iss is {issuer!r}"))
            return False
        told.found("issuer", True, f"{issuer} is configured")
    with told.timed():
        newer: Awaitable[None] | None = ring.refetch()
        if newer is not None:
            await newer
        told.found("keys", _keys_good(ring), _describe_keys(ring))
    return True


def _keys_good(ring: KeyRing) -> bool | None:
    return False if ring.keys is None else None if ring.failing else True


def _describe_keys(ring: KeyRing) -> str:
    where = f"{ring.source.setting} {ring.source.where}"
    if ring.failing:
        return f"{where}: {ring.last_error}"
    return f"{len(ring.keys or ())} from {where}"


def _explain_signature(told: _Explanation, verifier: Verifier, token: str) -> Verified | None:
    with told.timed():
        verified = verifier.verify(token, time.time())
        if isinstance(verified, Refused):
            finding = _refusal(verified.reason, verified.detail)
            told.found("signature, claims", False, finding)
            return None
        expires_at = verified.identity.ref.expires_at
        left = round(expires_at - time.time())
        until = datetime.fromtimestamp(expires_at, UTC).isoformat()
        told.found(
            "signature, claims",
            True,
            f"good; subject {verified.identity.subject!r}, expires {until} (in {left} s)",
        )
    return verified


def _explain_guards(
    told: _Explanation,
    guards: Iterable[Guard],
    request: CheckRequest,
    verified: Verified,
    policies: RoutePolicies,
    options: RequestOptions,
) -> None:
    """What each guard finds, where any would be asked."""
    try:
        policy = policies.of(request.extensions)
    except PolicyError:
        return  # the verdict says it
    credential = options.finder.find(request)
    plain = isinstance(credential, str) and verified.confirmation is None and not policy.guarded
    if plain or isinstance(credential, Reason):
        return
    if isinstance(credential, str):
        credential = Credential(credential)
    presented = Presented(request, credential, verified, policy, time.time())
    for guard in guards:
        with told.timed():
            match guard.look(presented):
                case None:
                    told.found(guard.name, True, "nothing against it")
                case Demand():
                    told.found(guard.name, None, "works once; whether it was used is not looked at")
                case Verdict() as denial:
                    told.found(guard.name, False, _refusal(denial.reason, denial.detail))


async def _explain_revocation(told: _Explanation, ref: TokenRef) -> Answer:
    store = open_store(told.settings)
    try:
        with told.timed():
            if isinstance(store, RedisStore):
                await store.connect()  # a fresh connection isn't what a check would wait for
            answer = store.find(ref)
            finding = answer if isinstance(answer, Revoked | Clear | Unavailable) else await answer
            match finding:
                case Revoked(not_before=None):
                    told.found("revocation", False, "this token was revoked")
                case Revoked(not_before=float(cut)):
                    since = datetime.fromtimestamp(cut, UTC).isoformat(timespec="milliseconds")
                    told.found(
                        "revocation", False, f"all of the user's tokens until {since} were revoked"
                    )
                case Clear() if isinstance(store, RedisStore):
                    told.found("revocation", True, "the store knows of none")
                case Clear():
                    told.found("revocation", None, "memory://: only the sidecar itself would know")
                case Unavailable(cause):
                    detail = store.status().get("error") or cause
                    told.found("revocation", None, f"the store can't be asked: {detail}")
        return finding
    finally:
        await store.aclose()


def _refusal(reason: Reason, detail: str) -> str:
    text = f"{reason}: {reason.value.description}"
    return f"{text} ({detail})" if detail else text


def _print(told: _Explanation) -> None:
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(highlight=False, width=width)
    table = Table("", "stage", "finding", "time", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    marks = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]?[/]"}
    for stage in told.stages:
        took = f"{stage.seconds * 1000:.2f} ms"
        table.add_row(marks[stage.good], stage.name, escape(stage.finding), took)
    verdict = told.verdict
    good = {Decision.ALLOW: True, Decision.FAIL_OPEN: None, Decision.DENY: False}
    text = f"{verdict.decision}: {_refusal(verdict.reason, verdict.detail)}"
    table.add_row(marks[good[verdict.decision]], "verdict", escape(text), "")
    console.print(table)
    if told.identity is not None:
        ref = told.identity.ref
        console.print("keys in the store:")
        for key in (
            blacklist_key(ref.bucket, ref.user, ref.token),
            not_before_key(ref.bucket, ref.user),
        ):
            console.print(f"  {escape(key)}", soft_wrap=True)
