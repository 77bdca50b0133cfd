"""How often the token service may be asked."""

import re
from typing import Annotated

from pydantic import AfterValidator

from authz.settings.base import Section

MAX_RATE = 10_000_000
"""Requests. What is counted beyond is no limit any more."""

RATE = re.compile(r"([1-9]\d*)/(second|minute|hour|day)")


def _rate(value: str) -> str:
    found = RATE.fullmatch(value)
    if found is None or int(found[1]) > MAX_RATE:
        msg = (
            f"{value!r}: write a number and second, minute, hour or day: 60/minute; null: no limit"
        )
        raise ValueError(msg)
    return value


Rate = Annotated[str, AfterValidator(_rate)]


class TokenLimitsSettings(Section):
    """Requests in a sliding window. An address is an IPv4 address or an IPv6 /64."""

    issue_client: Rate | None = "600/minute"
    """Tokens that a client gets, exchanges included and refreshes not."""
    issue_user: Rate | None = "30/minute"
    """Log-ins of one user, by exchange."""
    issue_address: Rate | None = "600/minute"
    """Requests for tokens from one address."""
    refresh_client: Rate | None = "6000/minute"
    refresh_user: Rate | None = "60/minute"
    refresh_address: Rate | None = "600/minute"
    failures_client: Rate | None = "30/minute"
    """Wrong secrets of one client from one address. A secret that was right in the last five
    minutes still is."""
    failures_user: Rate | None = "10/minute"
    """Refresh tokens of one user that are wrong or used up; good ones are taken all the same."""
    failures_address: Rate | None = "300/minute"
    """Wrong secrets, tokens and assertions from one address, behind which a whole company may be.
    """
