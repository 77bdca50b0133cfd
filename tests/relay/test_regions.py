"""The whole way: revoked in one region, refused by a sidecar in the other."""

import asyncio
import time
from itertools import count
from statistics import median
from typing import NamedTuple

from conftest import StartSidecar
from relay.conftest import Regions, StartRelay

from authz.revocation.record import TokenRef, bucket_of, token_digest, user_digest
from support.grpc import status_of
from support.jwks import ISSUER, claims, rsa_key, sign
from support.proxy import TcpProxy
from support.revocations import BUCKETS, Opened, of_token, of_user, opened
from support.sidecar import KID, Sidecar
from support.waiting import eventually, wait_until

WITHIN = 0.5
"""Seconds from the acknowledgement in one region to the refusal in the other, at the median. It
takes a few milliseconds; the machine may do other things. Without pushes it would be a second.
"""

_subjects = count(1)


class Token(NamedTuple):
    text: str
    ref: TokenRef


def new_token(subject: str | None = None) -> Token:
    values = claims(sub=subject or f"traveller-{next(_subjects)}")
    ref = TokenRef(
        user_digest(ISSUER, values["sub"]),
        token_digest(ISSUER, values["jti"], b""),
        bucket_of(ISSUER, values["sub"], BUCKETS),
        values["iat"],
        values["exp"],
    )
    return Token(sign(values, rsa_key(), kid=KID), ref)


def status(sidecar: Sidecar, token: Token) -> int:
    headers = {"authorization": f"Bearer {token.text}"}
    return status_of(sidecar.client.check(headers=headers))


def seconds_until_refused(sidecar: Sidecar, token: Token) -> float:
    started = time.monotonic()
    wait_until(lambda: status(sidecar, token) == 401, "refused")
    return time.monotonic() - started


async def revoke_token(store: Opened, token: Token) -> None:
    await store.store.revoke_token(of_token(token.ref))


async def test_a_token_revoked_in_one_region_is_refused_in_the_other(
    regions: Regions, start_relay: StartRelay, start_sidecar: StartSidecar
) -> None:
    """Also one that the sidecar there has let through before. So it is with a user's log-out."""
    await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    sidecar = await asyncio.to_thread(start_sidecar, {"store": {"url": regions.west.url}})
    await eventually(lambda: sidecar.status()["feed"]["live"], "the feed is live")
    times = []
    async with opened(regions.east.url) as east:
        for _ in range(20):
            token = new_token()
            assert await asyncio.to_thread(status, sidecar, token) == 200
            await revoke_token(east, token)
            times.append(await asyncio.to_thread(seconds_until_refused, sidecar, token))
        token = new_token("alice")
        assert await asyncio.to_thread(status, sidecar, token) == 200
        await east.store.revoke_user(of_user(token.ref, time.time() + 1))
        await asyncio.to_thread(seconds_until_refused, sidecar, token)
    assert median(times) < WITHIN, f"median {median(times):.4f}, most {max(times):.4f}"


async def test_each_region_refuses_what_was_revoked_in_the_other_while_they_were_apart(
    regions: Regions, start_relay: StartRelay, start_sidecar: StartSidecar
) -> None:
    """Once they are joined; and what was revoked at home at once."""
    with TcpProxy(regions.east.port) as to_east, TcpProxy(regions.west.port) as to_west:
        lines = (to_east, to_west)
        sidecars: list[Sidecar] = []
        for home, line in ((regions.west, to_east), (regions.east, to_west)):
            url = f"redis://127.0.0.1:{line.port}"
            await asyncio.to_thread(start_relay, url, home.url)
            sidecars.append(await asyncio.to_thread(start_sidecar, {"store": {"url": home.url}}))
        for line in lines:
            await asyncio.to_thread(line.cut)
        mine, yours = new_token(), new_token()
        async with opened(regions.west.url) as west, opened(regions.east.url) as east:
            await revoke_token(west, mine)
            await revoke_token(east, yours)
        west_sidecar, east_sidecar = sidecars
        ways = ((mine, west_sidecar, east_sidecar), (yours, east_sidecar, west_sidecar))
        for token, at_home, abroad in ways:
            await asyncio.to_thread(seconds_until_refused, at_home, token)
            assert await asyncio.to_thread(status, abroad, token) == 200
        for line in lines:
            await asyncio.to_thread(line.restore)
        for token, _, abroad in ways:
            assert await asyncio.to_thread(seconds_until_refused, abroad, token) < 8
