"""The demo from start to end."""

import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

from authz.cli.errors import CommandError
from authz.demo.login import EXCHANGE, JWT
from authz.demo.narrator import Narrator
from authz.demo.signals import START_REDIS, STOP_REDIS, Signals, StopRequestedError
from authz.demo.stage import ISSUER, LOGIN_CLIENT, LOOPBACK, SOCKET, Ports, Programs, Stage
from authz.demo.tour import TOKENS, TOUR, take_tour

IDLE_POLL = 0.1
"""Seconds between two looks at children and signals while the reader tries things."""


SOCKET_PATH_MAX = 103
"""Bytes: `sun_path` without its NUL on macOS; Linux has 107."""


def run_demo(
    *, once: bool, ports: Ports, programs: Programs, narrator: Narrator | None = None
) -> None:
    """Start everything, take the tour and, unless `once`, stay up until Ctrl-C or SIGTERM.

    However it ends, no process and no file is left. For the main thread: it handles signals.
    CommandError: a part or a step failed. KeyboardInterrupt: it was told to end before the tour
    was over.
    """
    narrator = narrator or Narrator()
    with Signals() as signals:
        folder = Path(tempfile.mkdtemp(prefix="authz-demo-"))
        try:
            _require_short(folder)
            with Stage(folder, ports, programs, signals) as stage:
                try:
                    _set_up(stage, narrator)
                    take_tour(stage, narrator)
                except StopRequestedError:
                    raise KeyboardInterrupt from None
                narrator.heading(f"{len(TOUR)} of {len(TOUR)} steps came out as said.")
                if not once:
                    _stay_up(stage, narrator, signals)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _require_short(folder: Path) -> None:
    if len(os.fsencode(folder / SOCKET)) > SOCKET_PATH_MAX:
        raise CommandError(f"{folder} is too long for a Unix socket; set TMPDIR to a shorter path")


def _set_up(stage: Stage, narrator: Narrator) -> None:
    narrator.heading("Starting")
    with narrator.working("making a key and tokens"):
        stage.write_config()
        stage.make_key()
        stage.issue_tokens(TOKENS)
    narrator.started(f"an RSA key and {len(TOKENS)} tokens signed with it")
    with narrator.working("starting Valkey"):
        stage.start_valkey()
    narrator.started(f"Valkey on {LOOPBACK}:{stage.ports.valkey}")
    with narrator.working("starting the token service"):
        stage.start_tokens()
    narrator.started(f"the token service on {stage.tokens_url}, and a login service that it knows")
    with narrator.working("starting the sidecar"):
        stage.start_sidecar()
    narrator.started(
        f"the sidecar on a Unix socket, metrics on {LOOPBACK}:{stage.ports.sidecar_http}"
    )
    with narrator.working("starting Envoy"):
        stage.start_envoy()
    narrator.started(f"Envoy on {stage.url}, and an upstream that answers what it was sent")


def _stay_up(stage: Stage, narrator: Narrator, signals: Signals) -> None:
    narrator.heading("It stays up: try it from another terminal. Ctrl-C ends it.")
    narrator.commands(suggestions(stage))
    narrator.said("")
    try:
        while True:
            stage.processes.check()
            wish = signals.wish()
            if wish == STOP_REDIS and stage.valkey_runs:
                stage.stop_valkey()
                narrator.said("Redis is stopped.")
            elif wish == START_REDIS and not stage.valkey_runs:
                stage.start_valkey()
                narrator.said("Redis is back.")
            time.sleep(IDLE_POLL)
    except StopRequestedError:
        narrator.said("Ending.")


def suggestions(stage: Stage) -> list[tuple[str, str]]:
    """What a reader can paste: a comment and a command of one line each."""
    authz = f"{shlex.quote(sys.executable)} -m authz"
    config = f"--config {shlex.quote(str(stage.config))}"

    def bearer(name: str) -> str:
        return f'-H "Authorization: Bearer $(cat {file(name)})"'

    def file(name: str) -> str:
        return shlex.quote(str(stage.token_file(name)))

    # A proxy in the reader's environment would be asked about loopback, too.
    proxied = any(os.environ.get(name) for name in ("http_proxy", "all_proxy", "ALL_PROXY"))
    curl = "curl -si --noproxy '*'" if proxied else "curl -si"
    hello = f"{stage.url}/hello"
    pid = os.getpid()
    return [
        ("no token: 401", f"{curl} {hello}"),
        ("Dave's token: 200, and what the upstream saw", f"{curl} {bearer('dave')} {hello}"),
        ("revoke it, and ask again: 401", f"{authz} revoke {config} --token - < {file('dave')}"),
        ("what every stage says to a token", f"{authz} explain {config} - < {file('dave')}"),
        (
            "log Erin out everywhere",
            f"{authz} revoke {config} --issuer {ISSUER} --user erin",
        ),
        ("stop Redis; then ask with Carol's token: 200, fail-open", f"kill -USR1 {pid}"),
        ("Carol's token", f"{curl} {bearer('carol')} {hello}"),
        ("the record of it", f"tail -n 1 {shlex.quote(str(stage.audit))}"),
        ("start Redis again", f"kill -USR2 {pid}"),
        (
            "a token of your own",
            f"{authz} token issue {config} --key {shlex.quote(str(stage.key))} --subject you",
        ),
        ("log in as you, by the word of a login service", _log_in(stage, curl, authz)),
        ("all that the token service can do", f"{curl} {stage.tokens_url}/openapi.json"),
        (
            "what the sidecar knows",
            f"{curl} http://{LOOPBACK}:{stage.ports.sidecar_http}/status",
        ),
    ]


def _log_in(stage: Stage, curl: str, authz: str) -> str:
    """An assertion is signed as any token is, here by the login service's key."""
    assertion = (
        f"{authz} token issue --key {shlex.quote(str(stage.login_key))} --issuer {LOGIN_CLIENT}"
        f" --audience {ISSUER} --subject you --expires-in 60s"
    )
    return (
        f'{curl} -u "{LOGIN_CLIENT}:$(cat {shlex.quote(str(stage.login_secret))})"'
        f" {stage.tokens_url}/oauth2/token -d grant_type={EXCHANGE}"
        f' -d subject_token_type={JWT} -d "subject_token=$({assertion})"'
    )
