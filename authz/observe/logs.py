"""Sets up logging: one line per event, to stderr, as JSON or for a console.

What libraries log through `logging` comes out the same way, from `warning` up. Every line passes
`redact`, after tracebacks have become text and before anything is written.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from functools import partial
from typing import Any, TextIO

import structlog

from authz.observe import events
from authz.observe.redact import MASK, is_secret_name, redact
from authz.settings import LogSettings

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_Event = MutableMapping[str, Any]


def configure_logs(
    settings: LogSettings, stream: TextIO | None = None, *, worker: int | None = None
) -> None:
    """Send everything that is logged in this process to `stream` (stderr). May be called again.

    `worker`: the number that every line carries, where this process is one of several.
    """
    stream = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        # Plain text: the rich kind prints local variables, and with them whatever they hold.
        structlog.processors.format_exc_info,
        redact_event,
    ]
    if worker is not None:
        shared.insert(0, partial(_add_worker, worker))
    if settings.format == "json":
        shared.append(_in_order)
        renderer: structlog.types.Processor = structlog.processors.JSONRenderer(default=str)
    else:
        shared.append(escape_controls)
        renderer = structlog.dev.ConsoleRenderer(
            # The formatter gets no work, but structlog 25 warns unless it is the plain one.
            colors=stream.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,  # modules make their loggers before this is called
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_foreign],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *shared,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))


def redact_event(logger: Any, method: str, event: _Event) -> _Event:
    """A structlog processor: masks secrets in an event's fields, whatever they were logged as."""
    del logger, method
    for name, value in event.items():
        event[name] = MASK if is_secret_name(name) and value else redact(value)
    return event


def escape_controls(logger: Any, method: str, event: _Event) -> _Event:
    """A structlog processor for the console, whose renderer escapes only some texts, and a
    terminal obeys the others. JSON needs none: it escapes. Tracebacks keep their line ends.
    """
    del logger, method
    for name, value in event.items():
        if isinstance(value, str) and name != "exception":
            event[name] = _CONTROL.sub(lambda match: repr(match[0])[1:-1], value)
    return event


def _add_worker(worker: int, logger: Any, method: str, event: _Event) -> _Event:
    del logger, method
    event["worker"] = worker
    return event


def _in_order(logger: Any, method: str, event: _Event) -> _Event:
    """What every line has comes first, for those who read JSON with their eyes."""
    del logger, method
    first = {name: event[name] for name in ("time", "level", "event", "worker") if name in event}
    return {**first, **event}


def _name_foreign(logger: Any, method: str, event: _Event) -> _Event:
    """A library's words are not an event's name: they go in a field."""
    del logger, method
    record: logging.LogRecord = event["_record"]
    event["message"] = event["event"]
    event["event"] = events.FOREIGN
    event["logger"] = record.name
    return event
