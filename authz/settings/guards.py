"""What is demanded of how a token comes."""

from typing import Annotated

from pydantic import AfterValidator, Field

from authz.addresses import check_origin
from authz.settings.base import Section


class CsrfSettings(Section):
    """Which pages may send requests that carry a token in a cookie."""

    trusted_origins: list[Annotated[str, AfterValidator(check_origin)]] = Field(default=[])
    """Besides those of the host that is asked: `https://app.example`."""
