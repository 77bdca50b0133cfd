"""One line an event, in a shape that machines or people read, and nothing secret in it."""

import io
import json
import logging

import pytest
import structlog

from authz.observe import events
from authz.observe.logs import configure_logs
from authz.observe.redact import MASK
from authz.settings import LogSettings

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.fixture
def stream() -> io.StringIO:
    """What is written."""
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json(stream: io.StringIO) -> None:
    configure_logs(LogSettings(), stream)
    structlog.get_logger().info(events.STORE_CONNECTED, nodes=["127.0.0.1:7001"])
    (line,) = lines(stream)
    assert list(line) == ["time", "level", "event", "nodes"]
    assert str(line.pop("time")).endswith("Z")
    assert line == {"event": "store_connected", "level": "info", "nodes": ["127.0.0.1:7001"]}


def test_a_module_s_logger_made_before_the_setup_follows_it(stream: io.StringIO) -> None:
    log = structlog.get_logger("authz.early")
    configure_logs(LogSettings(), stream)
    log.info(events.SERVING)
    assert lines(stream)[0]["event"] == "serving"


def test_the_level_is_the_least_that_is_shown(stream: io.StringIO) -> None:
    configure_logs(LogSettings(level="error"), stream)
    structlog.get_logger().warning(events.STORE_UNREACHABLE)
    logging.getLogger("redis").warning("unheard")
    structlog.get_logger().error(events.AUDIT_UNWRITABLE)
    assert [line["event"] for line in lines(stream)] == ["audit_unwritable"]


def test_secrets_are_masked_whatever_they_are_logged_as(stream: io.StringIO) -> None:
    configure_logs(LogSettings(), stream)
    structlog.get_logger().error(
        events.KEYS_SOURCE_FAILED,
        error=f"bad input {TOKEN}",
        authorization="Bearer opaque",
        where={"password": "hunter2", "url": "redis://ann:hunter2@h"},
    )
    (line,) = lines(stream)
    assert line["error"] == f"bad input {MASK}"
    assert line["authorization"] == MASK
    assert line["where"] == {"password": MASK, "url": f"redis://{MASK}@h"}


@pytest.mark.parametrize("shape", ["json", "console"])
def test_a_traceback_is_masked_and_shows_no_local_variables(
    stream: io.StringIO, shape: str
) -> None:
    configure_logs(LogSettings.model_validate({"format": shape}), stream)

    password = "hunter2"

    def read(password: str) -> None:
        raise ValueError(f"can't read {TOKEN}, {len(password)}")

    try:
        read(password)
    except ValueError:
        structlog.get_logger().exception(events.CHECK_FAILED)
    text = stream.getvalue()
    assert "ValueError: can't read [redacted], 7" in text
    assert TOKEN not in text
    assert "hunter2" not in text


def test_what_a_library_logs_comes_out_the_same_way(stream: io.StringIO) -> None:
    configure_logs(LogSettings(), stream)
    logging.getLogger("httpx").info("a request to %s", "https://issuer.example")
    logging.getLogger("redis").warning("failed with %s", TOKEN)
    logging.getLogger("asyncio").error("unhandled", exc_info=ValueError(TOKEN))
    redis, asyncio = lines(stream)
    assert (redis["event"], redis["level"], redis["logger"]) == ("foreign", "warning", "redis")
    assert redis["message"] == f"failed with {MASK}"
    assert str(asyncio["exception"]).rstrip().endswith(f"ValueError: {MASK}")


@pytest.mark.parametrize("shape", ["json", "console"])
def test_no_text_can_forge_another_line(stream: io.StringIO, shape: str) -> None:
    configure_logs(LogSettings.model_validate({"format": shape}), stream)
    structlog.get_logger().error(
        events.STORE_UNREACHABLE,
        error="x\n2027-01-15 [info] forged\x1b[2K\u2028\x85",
        nodes="a\x1b[2Kb\x85c",
    )
    logging.getLogger("redis").error("x\nforged\x1b[2K")
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b[2K" not in stream.getvalue()


def test_what_json_can_not_say_is_said_as_text(stream: io.StringIO) -> None:
    configure_logs(LogSettings(), stream)
    structlog.get_logger().error(events.ADMIN_FAILED, error=OSError(2, "No such file"), of={1})
    (line,) = lines(stream)
    assert line["error"] == "[Errno 2] No such file"
    assert line["of"] == [1]


def test_setting_up_twice_writes_each_line_once(stream: io.StringIO) -> None:
    for _ in range(2):
        configure_logs(LogSettings(), stream)
    logging.getLogger("redis").warning("once")
    structlog.get_logger().info(events.SERVING)
    assert len(lines(stream)) == 2
