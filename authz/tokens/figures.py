"""What the issuer counts, for metrics."""

from dataclasses import dataclass


@dataclass(slots=True)
class Figures:
    """Since the start."""

    issued: int = 0
    """Access tokens by a grant."""
    refreshed: int = 0
    """Access tokens by a refresh token."""
    raced: int = 0
    """Of these, by one that had been used before, within its grace."""
    refused: int = 0
    """Refresh tokens that got nothing."""
    reused: int = 0
    """Of these, used before and out of grace: the session was ended."""
    crowded_out: int = 0
    """Sessions that were ended because of one that began."""
    ended: int = 0
    """Sessions that somebody ended."""
    revoked: int = 0
    """Tokens that their client took back."""
    conflicts: int = 0
    """Changes that began again, because somebody else had changed the same user's sessions."""
