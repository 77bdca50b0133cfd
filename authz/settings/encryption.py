"""Whose tokens the token service encrypts."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from authz.settings.base import Section


class EncryptionSettings(Section):
    """One audience that wants its tokens encrypted (JWE, RFC 7516)."""

    audience: Annotated[str, Field(min_length=1)]
    """One of `tokens.audiences`."""
    jwks_file: Path
    """Its public keys, as its operator's `authz keys jwks` prints them: tokens are encrypted to the
    first. Watched."""
