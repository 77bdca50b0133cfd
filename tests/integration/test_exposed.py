"""Tokens that came in the clear, and what the sidecar's user in Redis may do about them."""

from pathlib import Path
from typing import Any

from conftest import StartSidecar
from revocation.redis.test_rights import CHECKING, REVOKING

from support.grpc import status_of
from support.jwks import claims, rsa_key, sign
from support.sidecar import KID, Sidecar
from support.valkey import ValkeyServer
from support.waiting import wait_until

EXTENSIONS = {"authz.require_https": "true"}


def ask(sidecar: Sidecar, token: str, protocol: str) -> int:
    return status_of(
        sidecar.client.check(
            token=token, headers={"x-forwarded-proto": protocol}, extensions=EXTENSIONS
        )
    )


def test_to_revoke_them_it_needs_the_rights_of_a_revoker_as_well(
    tmp_path: Path, start_sidecar: StartSidecar
) -> None:
    """Without them it says so, and what it refuses by itself stays refused."""
    users = {
        "checking": f"on >pw {CHECKING}",
        "both": f"on >pw {CHECKING} {REVOKING.removeprefix('resetchannels ')}",
    }
    with ValkeyServer(tmp_path / "store", users=users) as server:

        def start(user: str) -> Sidecar:
            store: dict[str, Any] = {"url": server.url_for(user, "pw"), "timeout": "2s"}
            return start_sidecar({"store": store, "revoke_exposed": True})

        powerless, able = start("checking"), start("both")
        one, other = (sign(claims(), rsa_key(), kid=KID) for _ in range(2))
        for sidecar in (powerless, able):
            assert ask(sidecar, one, "https") == ask(sidecar, other, "https") == 200
        assert ask(powerless, one, "http") == 403
        wait_until(lambda: "exposed_not_revoked" in powerless.log_text(), "said so")
        assert ask(powerless, one, "https") == 401
        assert ask(able, one, "https") == 200, "nobody told it"
        assert ask(able, other, "http") == 403
        wait_until(lambda: ask(powerless, other, "https") == 401, "revoked everywhere")
        assert able.metric("authz_exposed_tokens_total", result="revoked") == 1
        assert powerless.metric("authz_exposed_tokens_total", result="failed") >= 1
        assert powerless.status()["exposed"]["waiting"] == 1
