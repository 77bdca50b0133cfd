"""What works once, in a sidecar of several workers whose store is gone."""

from pathlib import Path
from typing import Any

from workers.conftest import StartFleet

from support.dpop import ProofKey
from support.fleet import SLOW
from support.grpc import CheckClient, headers_of, status_of
from support.transports import good_token
from support.valkey import ValkeyServer
from support.waiting import wait_until

KEY = ProofKey()
URL = "http://app.example/"


def test_what_one_worker_saw_the_others_refuse(start_fleet: StartFleet, tmp_path: Path) -> None:
    """While the store is gone and nobody else could tell: what was used before that, and what was
    let through on record since. What was refused for want of the store can be tried again anywhere.
    """
    token = good_token(cnf=KEY.cnf)
    with ValkeyServer(tmp_path / "valkey") as store:
        fleet = start_fleet({"store": {"url": store.url, "timeout": "500ms"}})
        wait_until(
            lambda: all(one["status"]["store"]["connected"] for one in fleet.workers()),
            "connected",
            timeout=SLOW,
        )
        one, other = fleet.connect(), fleet.connect()
        before, since, refused = (KEY.prove("GET", URL, token) for _ in range(3))
        assert outcome(one, token, before) == "allow"
        assert other.health() == "SERVING"
        assert fleet.connections() == [1, 1]
        store.kill()
        assert outcome(one, token, since) == "fail-open"
        closed = {"extensions": {"authz.fail_mode": "closed"}}
        assert outcome(one, token, refused, **closed) == "store_unavailable"
        wait_until(lambda: remembered(fleet) == [2, 2], "told")
        assert outcome(other, token, before) == "proof_replayed"
        assert outcome(other, token, since) == "proof_replayed"
        assert outcome(other, token, refused) == "fail-open"


def outcome(client: CheckClient, token: str, proof: str, **request: Any) -> str:
    """`x-authz-decision`, or the reason of the denial."""
    response = client.check(
        headers={"authorization": f"DPoP {token}", "dpop": proof}, scheme="http", **request
    )
    if status_of(response) == 200:
        return headers_of(response)["x-authz-decision"]
    assert response.dynamic_metadata is not None
    return str(response.dynamic_metadata.fields["reason"].string_value)


def remembered(fleet: Any) -> list[float]:
    """Uses known to each worker."""
    return [fleet.metric("authz_uses_remembered", worker=str(number)) for number in (0, 1)]
