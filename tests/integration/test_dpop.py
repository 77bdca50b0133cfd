"""Tokens that are bound to a key, through the real Envoy, at a sidecar of either transport."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from check.challenge import parse_challenge

from authz.check.nonce import Nonces
from authz.envoy_api.bootstrap import as_mapping, build_bootstrap
from authz.settings import Settings
from support import http
from support.dpop import ProofKey
from support.envoy import Envoy, ExtAuthz
from support.jwks import ec_key
from support.ports import LOOPBACK, free_port
from support.sidecar import Sidecar
from support.transports import TRANSPORTS, good_token
from support.upstream import Upstream
from support.valkey import ValkeyServer
from support.waiting import wait_until

HOST = "app.example"
ROUTES = {"/closed": {"authz.fail_mode": "closed"}, "/bound": {"authz.binding": "required"}}
SENT = ["authorization", "dpop", "x-request-id"]
"""As `authz envoy` has it for a sidecar that looks for tokens in `authorization` only."""

KEY = ProofKey()


@dataclass(frozen=True, slots=True)
class Gate:
    """A sidecar and the Envoy that asks it."""

    sidecar: Sidecar
    envoy: Envoy

    def get(self, token: str, *proofs: str, path: str = "/", scheme: str = "DPoP") -> http.Response:
        headers = [("authorization", f"{scheme} {token}"), *(("dpop", proof) for proof in proofs)]
        return http.request(self.envoy.port, path, headers=headers, host=HOST)


def bound_token() -> str:
    return good_token(cnf=KEY.cnf)


def proof_for(token: str, path: str = "/", **changes: Any) -> str:
    return KEY.prove("GET", f"http://{HOST}{path}", token, **changes)


def outcome(response: http.Response) -> str:
    """`x-authz-decision` as the upstream saw it, or the reason of a denial."""
    body = response.json()
    if response.status == 200:
        return str(dict(body["headers"])["x-authz-decision"])
    return str(body["reason"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture(scope="module")
def gates(
    tmp_path_factory: pytest.TempPathFactory, store: ValkeyServer, upstream: Upstream
) -> Iterator[dict[str, Gate]]:
    """By transport: two sidecars on one store, each behind an Envoy of its own."""
    folder = tmp_path_factory.mktemp("gates")
    with ExitStack() as stack:
        yield {name: gate(folder / name, store, upstream, stack, name) for name in TRANSPORTS}


def gate(
    folder: Path, store: ValkeyServer, upstream: Upstream, stack: ExitStack, transport: str
) -> Gate:
    settings = {"transport": transport, "store": {"url": store.url, "timeout": "500ms"}}
    sidecar = stack.enter_context(Sidecar(folder / "sidecar", settings))
    wait_until(lambda: sidecar.status()["store"]["connected"], "connected")
    envoy = Envoy.for_sidecar(
        folder / "envoy",
        sidecar=sidecar.socket,
        upstream_port=upstream.port,
        ext_authz=ExtAuthz(routes=ROUTES, allowed_headers=SENT),
    )
    return Gate(sidecar, stack.enter_context(envoy))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_bound_token_is_of_use_to_the_holder_of_its_key_only(
    gates: dict[str, Gate], transport: str
) -> None:
    at, token = gates[transport], bound_token()
    made = proof_for(token)
    assert outcome(at.get(token, made)) == "allow"
    assert outcome(at.get(token, proof_for(token, "/bound"), path="/bound")) == "allow"
    replayed = at.get(token, made)
    assert (replayed.status, outcome(replayed)) == (401, "proof_replayed")
    scheme, parameters = parse_challenge(replayed.header("www-authenticate") or "")
    assert (scheme, parameters["error"]) == ("DPoP", "invalid_dpop_proof")
    thief = ProofKey(ec_key("a thief's")).prove("GET", f"http://{HOST}/", token)
    for response, reason in (
        (at.get(token, scheme="Bearer"), "scheme_mismatch"),
        (at.get(good_token(), proof_for(token)), "scheme_mismatch"),
        (at.get(token), "proof_missing"),
        (at.get(token, thief), "proof_invalid"),
        (at.get(token, proof_for(token), path="/elsewhere"), "proof_invalid"),
        (at.get(token, proof_for(bound_token())), "proof_invalid"),
        (at.get(token, proof_for(token), proof_for(token)), "proof_invalid"),
        (at.get(good_token(), path="/bound", scheme="Bearer"), "binding_required"),
    ):
        assert (response.status, outcome(response)) == (401, reason)


def test_a_proof_works_once_however_many_try_it_at_both_sidecars(gates: dict[str, Gate]) -> None:
    """64 at once, through two Envoys: one passes."""
    token = bound_token()
    made = proof_for(token)
    at = [gates[name] for name in TRANSPORTS] * 32
    with ThreadPoolExecutor(32) as pool:
        outcomes = Counter(pool.map(lambda gate: outcome(gate.get(token, made)), at))
    assert outcomes == {"allow": 1, "proof_replayed": 63}


def test_a_nonce_is_asked_for_and_taken(
    tmp_path: Path, store: ValkeyServer, upstream: Upstream
) -> None:
    """RFC 9449 section 9: 401 with a nonce, and the same request again with it; an ageing one
    passes, and the answer brings the next. Envoy is set as `authz envoy` says.
    """
    (tmp_path / "nonce.secret").write_text("n" * 32)
    nonce = {"secret_file": str(tmp_path / "nonce.secret"), "lifetime": "1h"}
    token = bound_token()
    with Sidecar(
        tmp_path / "sidecar",
        {"store": {"url": store.url, "timeout": "500ms"}, "dpop": {"nonce": nonce}},
    ) as sidecar:
        wait_until(lambda: sidecar.status()["store"]["connected"], "connected")
        with shipped_envoy(tmp_path / "envoy", sidecar, upstream) as envoy:
            at = Gate(sidecar, envoy)
            refused = at.get(token, proof_for(token))
            assert (refused.status, outcome(refused)) == (401, "nonce_required")
            challenge = parse_challenge(refused.header("www-authenticate") or "")
            assert challenge[1]["error"] == "use_dpop_nonce"
            given = refused.header("dpop-nonce")
            passed = at.get(token, proof_for(token, nonce=given, iat=1))
            assert (outcome(passed), passed.header("dpop-nonce")) == ("allow", None)
            ageing = Nonces(b"n" * 32, 3600).make(time.time() - 1800)
            passed = at.get(token, proof_for(token, nonce=ageing))
            assert (outcome(passed), passed.header("dpop-nonce")) == ("allow", given)


def shipped_envoy(folder: Path, sidecar: Sidecar, upstream: Upstream) -> Envoy:
    """With the bootstrap that `authz envoy` prints."""
    port, admin_port = free_port(), free_port()
    bootstrap = build_bootstrap(
        Settings.model_validate(sidecar.settings),
        listen=f"{LOOPBACK}:{port}",
        upstream=f"{LOOPBACK}:{upstream.port}",
        admin=f"{LOOPBACK}:{admin_port}",
    )
    return Envoy(folder, as_mapping(bootstrap), port=port, admin_port=admin_port)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_while_the_store_is_gone_what_this_sidecar_saw_is_refused(
    gates: dict[str, Gate], store: ValkeyServer, transport: str
) -> None:
    """And what it didn't see is let through on record, or refused where the route is closed. Once
    the store is back, the first is refused at other sidecars as well, and the second is good again.
    """
    at, token = gates[transport], bound_token()
    (other,) = (gate for gate in gates.values() if gate is not at)
    seen, unseen, later = proof_for(token), proof_for(token), proof_for(token, "/closed")
    assert outcome(at.get(token, seen)) == "allow"
    store.kill()
    try:
        before = len(at.sidecar.audit())
        assert outcome(at.get(token, seen)) == "proof_replayed"
        assert outcome(at.get(token, unseen)) == "fail-open"
        assert len(at.sidecar.audit()) == before + 1
        assert outcome(at.get(token, unseen)) == "proof_replayed"
        closed = at.get(token, later, path="/closed")
        assert (closed.status, outcome(closed)) == (503, "store_unavailable")
    finally:
        store.restart()
    wait_until(lambda: at.sidecar.status()["store"]["connected"], "connected again")
    wait_until(lambda: at.sidecar.metric("authz_uses_unwritten") == 0, "written down")
    wait_until(
        lambda: outcome(other.get(token, proof_for(token))) == "allow", "the other one has noticed"
    )
    assert outcome(other.get(token, unseen)) == "proof_replayed"
    assert outcome(other.get(token, later, path="/closed")) == "allow"
    assert at.sidecar.metric("authz_uses_total", outcome="used_here") >= 2
