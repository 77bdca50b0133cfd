"""The rights in the store that users' sessions need: all that are documented, no others."""

import time
from pathlib import Path

from conftest import StartCluster

from authz.revocation.store import StoreError
from support.revocations import new_subject
from support.tokens import CLIENT, a_note, serving

SESSIONS = (
    "resetchannels &jwt:* ~jwt:* +evalsha +eval +hget +hgetall +hset +hdel +pexpireat "
    "+get +set +pexpiretime +xadd +xrange +hmget +time +publish +asking +ping +wait "
    "+info +client|setname +cluster|slots"
)
"""The smallest that work, as in authz/tokens/README.md."""

NEEDED_ELSEWHERE = {"+info", "+asking", "+ping"}
"""On a single server, which is asked about its replicas; while a slot is being moved; to see
whether a node is back."""

BRIEF = {"write_timeout": 0.5}
"""Without the right to connect, or to see the map, it is tried for all of that time."""

README = Path(__file__).parents[2] / "authz/tokens/README.md"


def test_the_readme_has_them() -> None:
    assert SESSIONS in README.read_text()


async def test_none_of_the_rights_for_sessions_can_be_spared(start_cluster: StartCluster) -> None:
    """With all of them everything works; each taken away in turn makes something fail."""
    cluster = start_cluster()
    url = cluster.url_for("someone", "pw")

    async def works() -> bool:
        for node in cluster.nodes:
            node.command("SCRIPT", "FLUSH")
        subject = new_subject()
        try:
            async with serving(url, store={"start": False, **BRIEF}, max_sessions=1) as service:
                crowded_out = await service.log_in(subject)
                first = await service.log_in(subject)
                second = await service.refreshed(first)
                await service.issuer.introspect(second.access_token, time.time())
                for _ in range(2):  # the second time it is there already
                    await service.issuer.revoke(second.access_token, CLIENT, time.time())
                await service.issuer.end_all(subject, a_note(), time.time())
                assert not any(await admin.is_good(crowded_out, first, second))
        except StoreError:
            return False
        return True

    def allow(words: list[str]) -> None:
        for node in cluster.nodes:
            node.command("ACL", "SETUSER", "someone", "reset", "on", ">pw", *words)

    words = SESSIONS.split()
    allow(words)
    async with serving(cluster.url) as admin:
        assert await works()
        for word in words:
            if word[0] in "+~&" and word not in NEEDED_ELSEWHERE:
                allow([other for other in words if other != word])
                assert not await works(), f"{word} is not needed"
