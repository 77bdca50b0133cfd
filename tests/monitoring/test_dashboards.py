"""The dashboards' queries, asked of a real Prometheus that watched an outage."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import StartEnvoy, StartSidecar

from authz.tokens.clients.client import Client
from k8s.monitoring.generator.board import Board, Panel
from k8s.monitoring.generator.files import BOARDS, RULES
from support import http
from support.envoy import Envoy
from support.jwks import claims, rsa_key, sign
from support.ports import LOOPBACK
from support.prometheus import SCRAPE_INTERVAL, Prometheus, Series, Target
from support.proxy import TcpProxy
from support.relay import RelayProcess
from support.sidecar import KID, NO_FEED, Sidecar
from support.steady import Ask, SteadyLoad
from support.token_service import NO_LIMITS, SECRET, TokenServer, new_client, write_signing_key
from support.valkey import ValkeyServer
from support.waiting import wait_until

WINDOW = 5 * SCRAPE_INTERVAL
"""Seconds, for `$__rate_interval`: Grafana takes four scrapes or more."""


@dataclass
class Story:
    """What Prometheus watched, in seconds since 1970."""

    prometheus: Prometheus
    began: float
    ended: float = 0

    def of(self, query: str) -> list[Series]:
        """A panel's query, as Grafana asks it."""
        spans = {"$__rate_interval": f"{WINDOW}s", "$__range": f"{self.lasted}s"}
        for variable, value in {"$namespace": ".*", "$job": ".*", **spans}.items():
            query = query.replace(variable, value)
        assert "$" not in query
        return self.prometheus.chart(query, self.began, self.ended)

    @property
    def lasted(self) -> int:
        return round(self.ended - self.began)


def token(jti: str, **overrides: Any) -> str:
    return sign(claims(jti=jti, **overrides), rsa_key(), kid=KID)


def revoke(sidecar: Sidecar, store: str, *tokens: str) -> None:
    """As an operator does, who reaches the store by a line of its own."""
    config = sidecar.config.with_name("operator.yaml")
    config.write_text(yaml.safe_dump({**sidecar.settings, "store": {"url": store}}))
    command = [sys.executable, "-m", "authz", "revoke"]
    command += ["--config", str(config), "--from-file", "-"]
    text = "\n".join(tokens).encode()
    subprocess.run(command, input=text, check=True, capture_output=True, timeout=30)


@contextmanager
def token_service(folder: Path, store: str) -> Iterator[tuple[TokenServer, Client]]:
    limits = NO_LIMITS | {"issue_client": "20/second", "issue_address": "6000/minute"}
    server = TokenServer(
        folder, store, {"limits": limits}, store={"url": store, "write_timeout": "500ms"}
    )
    write_signing_key(server.signing_file)
    keys = json.loads(server.signing_file.read_text())
    keys["keys"][0]["authz:signs_from"] = int(time.time()) - 3600
    server.signing_file.write_text(json.dumps(keys))
    with server:
        client = new_client()
        server.add(client)
        yield server, client


def ask_for_tokens(server: TokenServer, client: Client, times: int) -> list[int]:
    """Some with a wrong secret. The statuses."""
    return [
        server.token(
            client.id, SECRET if number % 5 else "wrong", grant_type="client_credentials"
        ).status_code
        for number in range(times)
    ]


class Stage:
    """Two sidecars behind an Envoy each, one that follows the feed and one that asks, of two
    workers; a token service; a relay. All have the store behind one line that can be cut.
    """

    def __init__(
        self, folder: Path, start_sidecar: StartSidecar, start_envoy: StartEnvoy, stack: ExitStack
    ) -> None:
        self.valkey = stack.enter_context(ValkeyServer(folder / "valkey"))
        self.line = stack.enter_context(TcpProxy(self.valkey.port))
        store = {"url": f"redis://{LOOPBACK}:{self.line.port}", "timeout": "50ms"}
        self.following = start_sidecar(
            {"store": store, "feed": {"max_staleness": "1s"}, "revoke_exposed": True}
        )
        self.asking = start_sidecar({"store": store, "feed": NO_FEED, "workers": 2})
        self.sidecars = (self.following, self.asking)
        self.envoys = [start_envoy(one.socket, health_check=True) for one in self.sidecars]
        self.server, self.client = stack.enter_context(
            token_service(folder / "tokens", store["url"])
        )
        abroad = stack.enter_context(ValkeyServer(folder / "abroad"))
        relay = RelayProcess(folder / "relay", store["url"], abroad.url)
        stack.enter_context(relay)
        targets = [
            *(Target("authz", one.http_port) for one in self.sidecars),
            *(Target("authz", one.admin_port, "/stats/prometheus") for one in self.envoys),
            Target("authz-tokens", self.server.http_port),
            Target("authz-relay", relay.http_port),
        ]
        self.prometheus = stack.enter_context(Prometheus(folder / "prometheus", targets, RULES))

    def revoke(self, *tokens: str) -> None:
        revoke(self.following, self.valkey.url, *tokens)

    def lets_in(self, text: str) -> bool:
        return all(http.request(envoy.port, "/", token=text).status == 200 for envoy in self.envoys)

    def is_well(self) -> bool:
        return bool(
            self.following.status()["feed"]["live"]
            and all(one.metric("authz_store_breaker_open") == 0 for one in self.sidecars)
        )

    def limits_are_shared(self) -> bool:
        """Asked again only with a request."""
        ask_for_tokens(self.server, self.client, 1)
        return self.server.metric("authz_tokens_limits_shared") == 1

    def scrapes(self, count: int) -> None:
        """Let so many go by. It is Prometheus' clock that is waited for."""
        done = self.prometheus.query("sum(scrape_samples_scraped)")
        assert done
        until = time.time() + count * SCRAPE_INTERVAL
        newest = "min(timestamp(up))"
        wait_until(lambda: self.prometheus.query(newest)[0].values[0] >= until, "scrapes")


def play(stage: Stage) -> Story:
    """All well, the line cut, all well again."""
    good = [Ask(token(f"good-{number}"), 200) for number in range(20)]
    taken_back, secretly = token("taken-back"), token("secretly")
    asks = [*good, Ask(taken_back, 401), Ask(token("old", exp=1), 401), Ask(None, 401)]
    stage.scrapes(1)
    story = Story(stage.prometheus, time.time())
    with load(stage.envoys[0], asks), load(stage.envoys[1], asks):
        for _ in range(2):  # a series that begins with a number has not risen to it
            ask_for_tokens(stage.server, stage.client, 40)
            stage.scrapes(1)
        stage.revoke(taken_back)
        stage.scrapes(2)
        stage.line.cut()
        wait_until(lambda: fails_open(stage), "the outage to show")
        stage.revoke(secretly)
        assert stage.lets_in(secretly)
        ask_for_tokens(stage.server, stage.client, 3)
        stage.scrapes(2)
        stage.line.restore()
        wait_until(stage.is_well, "all is well again", timeout=30)
        wait_until(lambda: found_out(stage) >= 2, "what was let through was looked at")
        wait_until(stage.limits_are_shared, "requests are counted in Redis again")
        stage.scrapes(3)
    story.ended = time.time()
    return story


def load(envoy: Envoy, asks: list[Ask]) -> SteadyLoad:
    return SteadyLoad(envoy.port, asks, connections=2, pause=0.02)


def fails_open(stage: Stage) -> bool:
    return all(one.metric("authz_fail_opens_total") > 0 for one in stage.sidecars)


def found_out(stage: Stage) -> float:
    return sum(one.metric("authz_reconciled_requests_after_total") for one in stage.sidecars)


def wrong_with(story: Story, board: Board, panel: Panel) -> Iterator[str]:
    """Why a panel would show nothing, or nonsense."""
    where = f"{board.name} / {panel.title}"
    for (legend, _), query in zip(panel.queries.items(), panel.expressions(), strict=True):
        series = story.of(query)
        numbers = [number for one in series for number in one.values]
        if not numbers:
            yield f"{where} {legend!r}: no data: {query}"
        if strange := [number for number in numbers if not panel.kind.holds(number)]:
            yield f"{where} {legend!r}: {strange[:3]} is no {panel.kind.name}: {query}"
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            if not all(one.labels.get(label) for one in series):
                yield f"{where} {legend!r}: some series have no {label}"


def shown(story: Story, board: str, title: str) -> list[float]:
    """The values of a panel, of one series after the other."""
    panels = [panel for one in BOARDS if one.name == board for panel in one.panels]
    (panel,) = [panel for panel in panels if panel.title == title]
    return [
        number for query in panel.expressions() for one in story.of(query) for number in one.values
    ]


@pytest.mark.needs_tool("prometheus")
def test_every_panel_shows_data_of_its_kind_and_an_outage_shows_where_it_should(
    tmp_path: Path, start_sidecar: StartSidecar, start_envoy: StartEnvoy
) -> None:
    with ExitStack() as stack:
        stage = Stage(tmp_path, start_sidecar, start_envoy, stack)
        wait_until(stage.is_well, "all is well")
        wait_until(stage.prometheus.scrapes_all, "every target is scraped")
        story = play(stage)

        wrong = [
            why
            for board in BOARDS
            for panel in board.panels
            for why in wrong_with(story, board, panel)
        ]
        assert not wrong, "\n".join(wrong)
        the_outage_shows(story)
        the_alerts_fire(stage.prometheus)
        every_rule_records(stage.prometheus)


def the_outage_shows(story: Story) -> None:
    """At its beginning, in its middle and at its end."""
    open_share = shown(story, "sidecar", "Let through unasked")
    assert 0 in open_share[: open_share.index(max(open_share))]
    assert max(open_share) > 0.05
    assert min(shown(story, "sidecar", "Fail-open budget left")) < 0
    assert shown(story, "sidecar", "Availability budget left")[0] == 1
    assert max(shown(story, "sidecar", "Denied")) > 0
    breakers = shown(story, "revocation", "Breakers open")
    middle = breakers.index(max(breakers))
    assert breakers[middle] >= 2  # at each sidecar
    assert 0 in breakers[:middle]
    assert 0 in breakers[middle:]
    live = shown(story, "revocation", "Live buckets")
    middle = live.index(0)
    assert 1 in live[:middle]
    assert 1 in live[middle:]
    assert max(shown(story, "revocation", "Stale for")) > 1
    assert max(shown(story, "revocation", "Revoked and let through")) > 0
    assert max(shown(story, "tokens", "Failing")) > 0
    assert set(shown(story, "tokens", "Counted together")) == {0, 1}
    assert max(shown(story, "tokens", "Limited")) > 0


OF_A_BUSY_MACHINE = {"AuthzLatencyBurnsFast", "AuthzLatencyBurnsSlowly"}


def the_alerts_fire(prometheus: Prometheus) -> None:
    """Those that wait for nothing, and no others; their templates are filled in."""
    firing = prometheus.alerts()
    assert set(firing) - OF_A_BUSY_MACHINE == {
        "AuthzFailingOpen", "AuthzFailOpenBurnsFast", "AuthzFailOpenBurnsSlowly",
        "AuthzRevokedLetThrough",
    }  # fmt: skip
    assert all(one["summary"].startswith("authz: ") for one in firing.values())


def every_rule_records(prometheus: Prometheus) -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    recorded = [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]
    assert [record for record in recorded if not prometheus.query(record)[0].values] == []
