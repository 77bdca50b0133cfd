"""`authz revoke --from-file` as a process, against a real cluster that has its own troubles."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from authz.revocation.record import bucket_of, token_digest, user_digest
from support.cluster import ValkeyCluster
from support.jwks import ISSUER, claims, rsa_key, sign
from support.ports import LOOPBACK, free_port
from support.sidecar import KID, default_issuer
from support.waiting import wait_until

MANY = 40_000
"""Lines: about four seconds' worth, long enough to be interrupted in the middle."""


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """`authz revoke --from-file` in a folder of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.path = folder / "lines.jsonl"
        self.failed = folder / "lines.jsonl.failed"
        self.progress = folder / "lines.jsonl.progress"
        self.processes: list[subprocess.Popen[str]] = []
        self.configure(url=url)

    def configure(self, **store: Any) -> None:
        settings = {"issuers": [default_issuer(self.folder)], "store": store}
        (self.folder / "authz.yaml").write_text(yaml.safe_dump(settings))

    def write(self, *lines: str | dict[str, Any]) -> None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        self.path.write_text("".join(f"{text}\n" for text in texts))

    def start(self, *arguments: str, source: str = "lines.jsonl", **options: Any) -> Any:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "authz", "revoke", "--config", "authz.yaml",
                "--from-file", source, *arguments,
            ],
            cwd=self.folder, text=True, start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
               **options},
        )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, *arguments: str, source: str = "lines.jsonl", stdin: str | None = None) -> Done:
        options = {} if stdin is None else {"stdin": subprocess.PIPE}
        process = self.start(*arguments, source=source, **options)
        out, err = process.communicate(stdin, timeout=120)
        return Done(process.returncode, out, err)

    @property
    def settled(self) -> int:
        """Lines that the checkpoint says are."""
        try:
            return int(json.loads(self.progress.read_text())["progress"]["line"])
        except FileNotFoundError:
            return 0

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def command(cluster: ValkeyCluster, tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path, cluster.url)
    yield command
    command.stop()


def by_jti(number: int) -> dict[str, Any]:
    expires = round(time.time()) + 3600
    return {
        "issuer": ISSUER, "jti": f"jti-{number}", "expires_at": expires, "user": f"user-{number}",
    }  # fmt: skip


def key_of(number: int) -> str:
    subject = f"user-{number}"
    user, tid = user_digest(ISSUER, subject), token_digest(ISSUER, f"jti-{number}", b"")
    return f"jwt:{{{bucket_of(ISSUER, subject, 16)}}}:blacklist:{user}:{tid}"


def revoked(cluster: ValkeyCluster) -> set[str]:
    """Keys of tokens, on the nodes that are masters now."""
    return {
        key.decode()
        for node in cluster.nodes
        if node.up and node.is_master
        for key in node.client.scan_iter(match="*blacklist*", count=1000)
    }


def token(**overrides: Any) -> str:
    return sign(claims(**overrides), rsa_key(), kid=KID)


# All goes well


def test_every_line_is_revoked_and_nothing_is_left_beside_the_file(
    command: Command, cluster: ValkeyCluster
) -> None:
    now = time.time()
    command.write(
        "# what was stolen",
        "",
        token(sub="alice", jti="a"),
        {"token": token(sub="bob", jti="b"), "reason": "stolen", "by": "carol"},
        by_jti(1),
        {"issuer": ISSUER, "jti": "c", "expires_at": now + 100},
        {"issuer": ISSUER, "user": "dave"},
        token(iat=1000, exp=2000),
    )
    done = command.run("--reason", "key leaked")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(
        r"revoked: 5 of 6 lines; 1 had expired; confirmed by 1 replica\(s\); [\d,]+ lines/s\n",
        done.out,
    )
    keys = revoked(cluster)
    assert key_of(1) in keys
    assert len(keys) == 3 + 16  # one of them is in every bucket
    user = user_digest(ISSUER, "bob")
    (key,) = [key for key in keys if user in key]
    note = json.loads(cluster.master_of(key).command("GET", key))
    assert (note["reason"], note["by"]) == ("stolen", "carol")
    cut_off = f"jwt:{{{bucket_of(ISSUER, 'dave', 16)}}}:not-before:{user_digest(ISSUER, 'dave')}"
    value: bytes = cluster.master_of(cut_off).command("GET", cut_off)
    assert now * 1000 <= int(value.split(b" ")[0]) <= time.time() * 1000 + 1
    assert json.loads(value.split(b" ", 1)[1])["reason"] == "key leaked"
    assert sorted(path.name for path in command.folder.iterdir() if "lines" in path.name) == [
        "lines.jsonl"
    ]
    again = command.run()
    assert again.out.startswith("revoked: 5 of 6 lines; 4 of them already before; 1 had expired;")


def test_standard_input(command: Command, cluster: ValkeyCluster) -> None:
    done = command.run(source="-", stdin="".join(json.dumps(by_jti(n)) + "\n" for n in range(500)))
    assert (done.code, done.err) == (0, "")
    assert revoked(cluster) == {key_of(n) for n in range(500)}


def test_an_empty_file_is_no_error(command: Command) -> None:
    command.write()
    assert command.run().out.startswith("revoked: 0 of 0 lines")


def test_on_a_terminal_there_is_a_bar_and_no_token(command: Command) -> None:
    text = token(sub="alice")
    command.write(text, f"{text}.x", *(by_jti(n) for n in range(3000)))
    outside, inside = pty.openpty()
    process = command.start(stderr=inside)
    os.close(inside)
    shown = b""
    try:
        while chunk := os.read(outside, 65536):
            shown += chunk
    except OSError:  # Linux' way of saying that the other side is gone
        pass
    os.close(outside)
    assert process.wait(60) == 1
    assert b"lines" in shown
    assert b"1 replica(s)" in shown
    assert b"line 2: token: no token that could be accepted" in shown
    assert not any(part.encode() in shown for part in text.split("."))


# Lines that fail


def test_bad_lines_are_reported_with_their_numbers_and_the_rest_is_revoked(
    command: Command, cluster: ValkeyCluster
) -> None:
    """The file of failed lines can be mended and given in turn."""
    bad = token(iss="https://else", sub="alice")
    command.write(by_jti(1), "garbage", by_jti(2), bad, {"issuer": ISSUER, "user": ""}, by_jti(3))
    done = command.run()
    assert done.code == 1
    assert done.out == ""
    told = done.err.splitlines()
    assert [line.partition(":")[0] for line in told] == ["line 2", "line 4", "line 5", "authz"]
    assert "3 of 6 lines are not revoked (3 unreadable, 0 not acknowledged)" in told[-1]
    assert "lines.jsonl.failed has them" in told[-1]
    assert bad.split(".")[1] not in done.err
    assert revoked(cluster) == {key_of(n) for n in (1, 2, 3)}
    assert not command.progress.exists()
    assert command.failed.stat().st_mode & 0o777 == 0o600
    lines = command.failed.read_text().splitlines()
    assert lines[::2] == ["# " + one for one in told[:-1]]
    assert lines[1::2] == ["garbage", bad, json.dumps({"issuer": ISSUER, "user": ""})]
    again = command.run(source="lines.jsonl.failed")
    assert again.code == 1
    assert "line 2: token: no token" in again.err
    command.failed.write_text(json.dumps(by_jti(4)))
    (command.folder / "lines.jsonl.failed.failed").unlink()
    assert command.run(source="lines.jsonl.failed").code == 0
    assert key_of(4) in revoked(cluster)


def test_of_many_bad_lines_only_some_are_shown(command: Command) -> None:
    command.write(*(f"garbage {n}" for n in range(100)))
    done = command.run()
    assert done.code == 1
    assert done.err.count("\n") == 10 + 1 + 1
    assert command.failed.read_text().count("# line") == 100


def test_lines_of_a_bucket_that_refuses_fail_and_the_others_go_on(
    command: Command, cluster: ValkeyCluster
) -> None:
    cluster.master_of(3).client.set("jwt:{3}:feed", "something else's")
    command.write(*(by_jti(n) for n in range(2000)), {"issuer": ISSUER, "user": "user-0"})
    theirs = {n for n in range(2000) if bucket_of(ISSUER, f"user-{n}", 16) == 3}
    done = command.run()
    assert done.code == 1
    assert f"(0 unreadable, {len(theirs)} not acknowledged)" in done.err
    assert "the store refused: ResponseError" in done.err
    assert revoked(cluster) >= {key_of(n) for n in range(2000) if n not in theirs}
    cluster.master_of(3).client.delete("jwt:{3}:feed")
    assert command.run(source="lines.jsonl.failed").code == 0
    assert revoked(cluster) >= {key_of(n) for n in theirs}


# Interruptions


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_where_it_was_interrupted_the_same_command_goes_on(
    command: Command, cluster: ValkeyCluster, how: signal.Signals
) -> None:
    """Every line is in the store afterwards, and most were not written twice."""
    command.write("garbage", *(by_jti(n) for n in range(MANY)))
    process = command.start()
    wait_until(lambda: command.settled > 1000, "well under way", timeout=60)
    process.send_signal(how)
    _, err = process.communicate(timeout=20)
    assert process.returncode not in {0, 1}
    settled = command.settled
    if how == signal.SIGINT:
        assert f"stopped behind line {settled:,}; the same command goes on from there" in err
        assert process.returncode == 130
    assert 1000 < settled < MANY
    assert len(revoked(cluster)) >= settled - 1
    done = command.run()
    assert f"going on behind line {settled:,}" in done.err
    assert f"1 of {MANY + 1:,} lines are not revoked" in done.err
    assert revoked(cluster) == {key_of(n) for n in range(MANY)}
    assert not command.progress.exists()
    assert command.failed.read_text().count("# line") == 1


def test_a_failover_in_the_middle_costs_time_and_no_line(
    command: Command, cluster: ValkeyCluster
) -> None:
    command.configure(url=cluster.url, write_timeout="20s")
    command.write(*(by_jti(n) for n in range(MANY)))
    dead = cluster.master_of(0)
    process = command.start()
    wait_until(lambda: command.settled > 1000, "well under way", timeout=60)
    cluster.kill(dead)
    out, err = process.communicate(timeout=60)
    cluster.wait_failover(dead)
    assert process.returncode == 0, err
    assert out.startswith(f"revoked: {MANY:,} of {MANY:,} lines")
    assert revoked(cluster) == {key_of(n) for n in range(MANY)}


def test_lines_of_a_shard_that_stays_away_fail_and_are_not_lost(
    command: Command, cluster: ValkeyCluster
) -> None:
    """Both of its nodes hang. The other shards' lines are revoked; it doesn't take for ever."""
    for node in cluster.nodes:
        node.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
    master, replica = cluster.master_of(0), cluster.replica_of(0)
    theirs = [bucket for bucket in range(16) if cluster.master_of(bucket) is master]
    command.configure(url=cluster.url, write_timeout="1s", connect_timeout="300ms")
    command.write(*(by_jti(n) for n in range(10_000)))
    lost = {n for n in range(10_000) if bucket_of(ISSUER, f"user-{n}", 16) in theirs}
    cluster.freeze(replica)
    cluster.freeze(master)
    try:
        started = time.monotonic()
        done = command.run()
        assert time.monotonic() - started < 15
    finally:
        cluster.heal()
        for node in cluster.nodes:
            node.command("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    assert done.code == 1
    assert f"(0 unreadable, {len(lost):,} not acknowledged)" in done.err
    assert revoked(cluster) >= {key_of(n) for n in range(10_000)} - {key_of(n) for n in lost}
    assert command.run(source="lines.jsonl.failed").code == 0
    assert revoked(cluster) == {key_of(n) for n in range(10_000)}


def test_where_the_store_goes_away_it_stops_soon_and_goes_on_later(
    command: Command, cluster: ValkeyCluster
) -> None:
    """No line has failed by that. Freezing all nodes takes a moment, the time of a write more."""
    command.configure(url=cluster.url, write_timeout="4s", connect_timeout="300ms")
    command.write(*(by_jti(n) for n in range(MANY)))
    process = command.start()
    wait_until(lambda: command.settled > 1000, "well under way", timeout=60)
    for node in cluster.nodes:
        cluster.freeze(node)
    started = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    cluster.heal()
    assert (process.returncode, out) == (1, "")
    assert err.count("\n") == 1
    assert re.search(r"stopped behind line [\d,]+: not acknowledged: .*the same command goes", err)
    assert not command.failed.exists()
    done = command.run()
    assert done.code == 0, done.err
    assert revoked(cluster) == {key_of(n) for n in range(MANY)}


def test_a_store_that_was_never_there_is_one_clear_line(command: Command) -> None:
    url = f"redis+cluster://:hunter2@{LOOPBACK}:{free_port()}"
    command.configure(url=url, write_timeout="500ms")
    command.write(*(by_jti(n) for n in range(MANY)))
    started = time.monotonic()
    done = command.run()
    assert time.monotonic() - started < 10
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "stopped behind line 0" in done.err
    assert "Connect call failed" in done.err
    assert "hunter2" not in done.err


# Checkpoints that don't fit


def interrupt(command: Command) -> None:
    process = command.start()
    wait_until(lambda: command.settled > 1000, "well under way", timeout=60)
    process.kill()
    process.communicate()


def test_a_file_that_was_changed_meanwhile_is_begun_anew(
    command: Command, cluster: ValkeyCluster
) -> None:
    """Or a line of it would be passed over."""
    command.write(*(by_jti(n) for n in range(MANY)))
    interrupt(command)
    command.write(*(by_jti(n) for n in range(50_000, 50_100)))
    done = command.run()
    assert (done.code, done.err) == (0, "")
    assert revoked(cluster) >= {key_of(n) for n in range(50_000, 50_100)}


def test_the_checkpoint_may_stand_elsewhere(command: Command) -> None:
    elsewhere = command.folder / "elsewhere"
    command.write("garbage", *(by_jti(n) for n in range(MANY)))
    process = command.start("--state", str(elsewhere), "--failed", "others")
    wait_until(elsewhere.exists, "begun")
    wait_until((command.folder / "others").exists, "a line failed")
    process.kill()
    process.communicate()
    assert not command.progress.exists()
    assert not command.failed.exists()


def test_a_file_that_is_no_checkpoint_is_left_alone(command: Command) -> None:
    command.write(by_jti(1))
    command.progress.write_text("my own notes")
    done = command.run()
    assert done.code == 1
    assert "lines.jsonl.progress is no checkpoint" in done.err
    assert command.progress.read_text() == "my own notes"


def test_failed_lines_of_an_earlier_run_are_not_overwritten(command: Command) -> None:
    command.write(by_jti(1))
    command.failed.write_text("what is still to be done")
    done = command.run()
    assert done.code == 2
    assert "lines.jsonl.failed is of an earlier run" in done.err
    assert command.failed.read_text() == "what is still to be done"


def test_two_at_a_time_on_one_file_are_one_too_many(command: Command) -> None:
    command.write(*(by_jti(n) for n in range(MANY)))
    command.start()
    wait_until(command.progress.exists, "begun")
    done = command.run()
    assert done.code == 2
    assert "another authz is revoking lines.jsonl" in done.err


# Usage


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--token", "a.b.c"), "give --from-file, or what to revoke, not both"),
        (("--issuer", ISSUER), "give --from-file, or what to revoke, not both"),
        (("--before", "2026-01-01"), "give --from-file, or what to revoke, not both"),
    ],
)
def test_what_makes_no_sense_is_refused(
    command: Command, arguments: tuple[str, ...], problem: str
) -> None:
    command.write(by_jti(1))
    done = command.run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert problem in done.err


@pytest.mark.parametrize(
    ("source", "problem"),
    [("missing", "--from-file: missing: No such file"), (".", "--from-file: .: Is a directory")],
)
def test_a_file_that_cannot_be_read_is_said(command: Command, source: str, problem: str) -> None:
    done = command.run(source=source)
    assert done.code == 2
    assert problem in done.err


def test_standard_input_has_no_checkpoint(command: Command) -> None:
    done = command.run("--state", "x", source="-", stdin="")
    assert done.code == 2
    assert "--state: standard input can't be gone on with" in done.err


def test_a_folder_where_nothing_can_be_written_is_found_out_first(
    command: Command, cluster: ValkeyCluster
) -> None:
    command.write(by_jti(1))
    done = command.run("--state", "no/such/folder")
    assert done.code == 1
    assert "name another place with --state" in done.err
    assert revoked(cluster) == set()
