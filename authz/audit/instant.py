"""Instants as the audit has them: RFC 3339 in UTC with milliseconds, cut and not rounded."""

from datetime import UTC, datetime

LAST = 253_402_300_800_000
"""The year 10000, in milliseconds since 1970: RFC 3339 has four digits for a year."""


def milliseconds(seconds: float) -> int:
    """Of seconds since 1970. Microseconds are as much as a float of today can tell apart."""
    return round(seconds * 1_000_000) // 1_000


def rfc3339(instant: int) -> str:
    """Of milliseconds since 1970."""
    moment = datetime.fromtimestamp(instant / 1_000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse(text: str) -> int | None:
    """Milliseconds since 1970. None: the text is none that `rfc3339` writes."""
    try:
        instant = milliseconds(datetime.fromisoformat(text).timestamp())
        return instant if 0 <= instant < LAST and rfc3339(instant) == text else None
    except (ValueError, OverflowError):
        return None
