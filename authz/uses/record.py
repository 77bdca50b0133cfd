"""What a use is, and the name it has in Redis."""

from dataclasses import dataclass

from authz.revocation.record import Unavailable


@dataclass(frozen=True, slots=True)
class First:
    """Nobody used it before, and nobody can any more."""


@dataclass(frozen=True, slots=True)
class Used:
    """It was used before, or is being used at this moment."""


Use = First | Used | Unavailable
"""What is said of a use. `Unavailable`: the store could not be asked, or did not answer in time,
and this process knows of no earlier use. It may be in the store all the same."""

FIRST = First()
USED = Used()


def used_key(bucket: int, name: str) -> str:
    return f"jwt:{{{bucket}}}:used:{name}"
