"""`memory://` answers as Redis would."""

import time

from authz.revocation.memory import MemoryStore
from authz.revocation.record import Clear, Revoked
from authz.settings import MAX_LEEWAY
from support.revocations import find, of_token, of_user, token_ref


async def test_a_revoked_token_is_found_until_it_has_expired_for_every_leeway() -> None:
    store, ref = MemoryStore(), token_ref()
    assert await find(store, ref) == Clear()
    assert not (await store.revoke_token(of_token(ref))).repeated
    assert (await store.revoke_token(of_token(ref))).repeated
    assert await find(store, ref) == Revoked(ref.expires_at + MAX_LEEWAY)
    assert await find(store, token_ref()) == Clear()


async def test_a_token_revoked_without_its_user_is_found_whosever_it_is() -> None:
    store, ref = MemoryStore(), token_ref()
    await store.revoke_token(of_token(ref, userless=True))
    assert isinstance(await find(store, ref), Revoked)


async def test_of_a_users_cut_offs_the_latest_counts() -> None:
    store, now = MemoryStore(), time.time()
    old, new = token_ref("alice", issued_at=now - 100), token_ref("alice", issued_at=now - 10)
    assert not (await store.revoke_user(of_user(old, now - 50))).repeated
    assert (await store.revoke_user(of_user(old, now - 90))).repeated
    found = await find(store, old)
    assert isinstance(found, Revoked)
    assert found.not_before == now - 50
    assert await find(store, new) == Clear()
    assert not (await store.revoke_user(of_user(old, now))).repeated
    assert isinstance(await find(store, new), Revoked)
    assert await find(store, token_ref("bob", issued_at=now - 100)) == Clear()


async def test_what_has_expired_is_forgotten() -> None:
    """Or a sidecar that runs for months would only grow."""
    store, now = MemoryStore(), time.time()
    past = token_ref(issued_at=now - 2000)
    await store.revoke_user(of_user(past, now - 2 * 86_400))
    await store.revoke_token(of_token(past))
    assert store.status() == {"kind": "memory", "tokens": 1, "users": 0}
    await store.revoke_token(of_token(token_ref()))
    assert store.status() == {"kind": "memory", "tokens": 1, "users": 0}
