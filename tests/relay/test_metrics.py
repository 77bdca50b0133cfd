"""What `/metrics`, `/status` and the probes of a relay show."""

import asyncio
import re

from prometheus_client.parser import text_string_to_metric_families
from relay.conftest import Regions, StartRelay

from authz.observe import names
from support.relay import revoke
from support.revocations import opened
from support.waiting import eventually


async def test_every_family_of_the_list_is_exported_and_no_other(
    regions: Regions, start_relay: StartRelay
) -> None:
    """With its kind, its help and its labels, from the start."""
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(relay.is_level, "level")
    text = relay.http("/metrics").text
    listed = (*names.RELAY_METRICS, names.LOOP_LAG, names.BUILD_INFO)
    helps = dict(re.findall(r"^# HELP (authz_\w+) (.+)$", text, re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (authz_\w+) (\w+)$", text, re.MULTILINE))
    assert helps == {metric.name: metric.meaning for metric in listed}
    assert kinds == {metric.name: metric.kind for metric in listed}
    labels = {metric.name.removesuffix("_total"): set(metric.labels) for metric in listed}
    for family in text_string_to_metric_families(text):
        if family.name in labels:
            assert family.samples, family.name
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == labels[family.name]
    assert 'authz_relay_entries_total{result="repeated"} 0.0' in text
    assert 'authz_relay_up{side="from"} 1.0' in text


async def test_the_status_says_how_it_stands_without_secrets(
    regions: Regions, start_relay: StartRelay
) -> None:
    source = regions.east.url_for("default", "any-password")  # the server asks for none
    relay = await asyncio.to_thread(start_relay, source, regions.west.url, "--name", "east")
    async with opened(regions.east.url) as east:
        await revoke(east, 7)
    await eventually(lambda: relay.has_copied(7), "level")
    status = relay.status()
    assert (status["from"], status["to"], status["name"]) == (
        regions.east.url, regions.west.url, "east",
    )  # fmt: skip
    assert (status["level"], status["backlog"], status["lag_seconds"]) == (True, 0, 0.0)
    assert status["entries"] == {"written": 7, "repeated": 0, "expired": 0, "unreadable": 0}
    for side in ("from", "to"):
        assert status["sides"][side]["up"] is True
        assert status["sides"][side]["error"] is None
    assert "any-password" not in relay.http("/status").text + relay.process.log_text()
    assert relay.http("/healthz").text == "ok\n"
    assert relay.http("/readyz").text == "ready\n"
