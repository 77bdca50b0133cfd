"""The rights in the store that the token service needs: those that README.md names suffice."""

from pathlib import Path

from conftest import StartCluster

from authz.tokens.clients.client import CLIENT_CREDENTIALS, REFRESH_TOKEN
from support.dpop import ProofKey
from support.token_service import (
    ISSUER,
    SECRET,
    TokenServer,
    app,
    assertion,
    login_service,
    new_client,
)

SERVICE = (
    "resetchannels &jwt:* ~jwt:* +evalsha +eval +get +set +mget +hget +hgetall +hset +hdel "
    "+hmget +pexpireat +pexpiretime +xadd +xrange +publish +time +wait +info +subscribe +pttl "
    "+rename +exists +incrby +asking +ping +client|setname +cluster|slots +command +script|load"
)

README = Path(__file__).parents[3] / "authz/tokens/README.md"


def test_the_readme_has_them() -> None:
    assert SERVICE in README.read_text()


def test_with_these_rights_nothing_is_refused(start_cluster: StartCluster, tmp_path: Path) -> None:
    """Whatever is asked of the service: the cluster's own log of refusals stays empty."""
    cluster = start_cluster(users={"tokens": f"on >pw {SERVICE}"})
    machine = new_client("machine", scopes=("sessions:all",))
    login, public = login_service(), app()
    limits = {"limits": {"issue_client": "3/minute"}}
    with TokenServer(tmp_path, cluster.url_for("tokens", "pw"), limits) as server:
        for client in (machine, login, public):
            server.add(client)
        said = assertion(login, "alice", azp=public.id)
        token = server.exchange(public.id, said, None).json()
        form = {"grant_type": REFRESH_TOKEN, "refresh_token": token["refresh_token"]}
        assert server.token(public.id, None, **form).status_code == 200
        assert server.token("nobody", grant_type=CLIENT_CREDENTIALS).status_code == 401
        proof = ProofKey().prove("POST", f"{ISSUER}/oauth2/token")
        asking = {"grant_type": CLIENT_CREDENTIALS, "client_id": machine.id}
        given = {**asking, "client_secret": SECRET}
        answer = server.http.post("/oauth2/token", data=given, headers={"dpop": proof})
        assert answer.json()["token_type"] == "DPoP"
        admin = server.token(machine.id, grant_type=CLIENT_CREDENTIALS).json()["access_token"]
        bearer = {"authorization": f"Bearer {admin}"}
        assert server.http.delete("/users/alice/sessions", headers=bearer).json() == {"ended": 1}
        assert server.token(machine.id, grant_type=CLIENT_CREDENTIALS).status_code == 200
        assert server.token(machine.id, grant_type=CLIENT_CREDENTIALS).status_code == 429
        assert server.metric("authz_tokens_limits_shared") == 1
        entries = [entry for node in cluster.nodes for entry in node.command("ACL", "LOG")]
    refused = {dict(zip(one[::2], one[1::2], strict=True))[b"object"] for one in entries}
    assert refused <= {b"client|setinfo"}  # which the library asks for, and does without
