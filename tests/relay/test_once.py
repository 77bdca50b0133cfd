"""`authz relay --once`, and what the command says where it can't begin."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from relay.conftest import Regions

from authz.relay.process import Direction, name_of
from authz.settings import IssuerlessSettings, SettingsError, StoreSettings, load_settings
from support.certificates import Certificates
from support.ports import LOOPBACK, free_port
from support.relay import revocations, revoke
from support.revocations import BUCKETS, opened
from support.valkey import ValkeyServer


async def authz_relay(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "authz", "relay", *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
    )


async def test_it_copies_what_there_is_and_ends(regions: Regions) -> None:
    """And again, when there is nothing to do."""
    arguments = ("--from", regions.east.url, "--to", regions.west.url, "--once")
    async with opened(regions.east.url) as east:
        await revoke(east, 500)
        done = await authz_relay(*arguments)
        assert (done.returncode, done.stdout) == (
            0, "level: 500 written, 0 were there already, 0 had expired\n",
        )  # fmt: skip
        assert revocations(regions.west) == revocations(regions.east)
        again = await authz_relay(*arguments)
        assert (again.returncode, again.stdout[:17]) == (0, "level: 0 written,")
        await revoke(east, 3)
    more = await authz_relay(*arguments)
    assert (more.returncode, more.stdout[:17]) == (0, "level: 3 written,")


async def test_an_empty_store_is_level(regions: Regions) -> None:
    done = await authz_relay("--from", regions.east.url, "--to", regions.west.url, "--once")
    assert (done.returncode, done.stdout[:17]) == (0, "level: 0 written,")


async def test_passwords_and_certificates_come_from_the_settings(
    tmp_path: Path, certificates: Certificates
) -> None:
    """Each side has its own."""
    for name in ("east", "west"):
        (tmp_path / f"{name}-password").write_text(f"{name}-pw\n")
    with (
        ValkeyServer(tmp_path / "east", password="east-pw", tls=certificates) as east,
        ValkeyServer(tmp_path / "west", password="west-pw") as west,
    ):
        async with opened(east.url, tls={"ca_file": certificates.ca}) as store:
            await revoke(store, BUCKETS)
        config = tmp_path / "relay.yaml"
        config.write_text(
            f"relay:\n  url: rediss://{LOOPBACK}:{east.port}\n"
            f"  password_file: {tmp_path}/east-password\n  tls: {{ca_file: {certificates.ca}}}\n"
            f"store:\n  url: redis://{LOOPBACK}:{west.port}\n"
            f"  password_file: {tmp_path}/west-password\n"
        )
        done = await authz_relay("--config", str(config), "--once")
        assert (done.returncode, done.stdout[:18]) == (0, "level: 16 written,"), done.stderr
        assert revocations(west) == revocations(east)
        assert "-pw" not in done.stderr


async def test_a_wrong_password_is_said_and_not_shown(regions: Regions) -> None:
    """SIGTERM ends a run that got nowhere with exit code 1."""
    command = [
        sys.executable, "-m", "authz", "relay", "--once",
        "--from", regions.east.url_for(None, "wrong-one"), "--to", regions.west.url,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    said = b""
    while b"relay_side_down" not in said:
        said += await asyncio.wait_for(process.stderr.readline(), 10)
    process.terminate()
    _, rest = await process.communicate()
    assert process.returncode == 1
    assert b"stopped before everything was copied" in rest
    assert b"AuthenticationError" in said
    assert b"wrong-one" not in said + rest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "relay.url: give the store to copy from, here or by --from"),
        (("--from", "redis://a"), "store.url: give the store to copy to, here or by --to"),
        (("--from", "http://a"), "relay.url: scheme 'http' is unknown"),
        (("--from", "redis://a:1", "--to", "redis://a:1"), "are the same store"),
        (("--from", "redis://a", "--to", "redis://b", "--name", "x:y"), "relay.name: "),
        (("--from", "redis://a", "--to", "redis://b", "--http-listen", "x"), "http_listen: "),
    ],
)
async def test_what_it_cannot_begin_with_is_one_line_and_code_2(
    arguments: tuple[str, ...], said: str
) -> None:
    done = await authz_relay(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


async def test_an_address_that_is_taken_is_one_line_and_code_2(regions: Regions) -> None:
    done = await authz_relay(
        "--from", regions.east.url, "--to", regions.west.url,
        "--http-listen", f"{LOOPBACK}:{regions.east.port}",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("authz: http_listen: ")


def direction(**given: dict[str, object]) -> Direction:
    return Direction.of_settings(load_settings(None, IssuerlessSettings, given))


def test_limits_of_time_and_buckets_are_those_of_the_store_on_both_sides() -> None:
    found = direction(
        relay={"url": "redis://a", "username": "reader"},
        store={"url": "redis://b", "buckets": 64, "connect_timeout": "3s", "username": "writer"},
    )
    for side, user in ((found.source, "reader"), (found.target, "writer")):
        assert (side.buckets, side.connect_timeout, side.username) == (64, 3.0, user)


def test_tls_of_one_side_is_not_that_of_the_other() -> None:
    found = direction(
        relay={"url": "redis://a"},
        store={"url": "rediss://b", "tls": {"verify_hostname": False}},
    )
    assert found.source.tls.verify_hostname
    with pytest.raises(SettingsError, match=r"^relay: tls: is for rediss://"):
        direction(
            relay={"url": "redis://a", "tls": {"verify_hostname": False}},
            store={"url": "redis://b"},
        )


def test_the_cursor_is_named_by_the_hosts_without_credentials() -> None:
    """In whatever order they are given; a long list by its digest."""

    def name(url: str) -> str:
        return name_of(StoreSettings(url=url))

    assert name("redis://user:secret@a:7/3") == "a:7/3"
    assert name("redis+cluster://b:2,a:1") == name("rediss+cluster://:pw@a:1,b:2") == "a:1,b:2"
    many = ",".join(f"redis-{number}.example:6379" for number in range(6))
    assert len(name(f"redis+cluster://{many}")) == 32


async def test_it_gives_up_where_nothing_moves(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason, after `PATIENCE`."""
    monkeypatch.setattr("authz.relay.process.PATIENCE", 0.5)
    from authz.relay.process import RelayError, _run

    given: dict[str, dict[str, object]] = {
        "relay": {"url": f"redis://{LOOPBACK}:{free_port()}"},
        "store": {"url": regions.west.url},
    }
    with pytest.raises(RelayError, match=r"nothing could be copied for 0.5 s: .*Connect"):
        await _run(direction(**given), http_listen=None, drain=1.0, once=True)
