"""Keys as their store holds them: when each signs, what is published of it, and who signs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from authz.keys.issuing.schedule import KeyTimes
from authz.keys.jwk import codec
from authz.keys.keyset import VerificationKey
from authz.keys.signer import Signer
from authz.keys.signing import SigningKey


@dataclass(frozen=True, slots=True)
class HeldKey:
    """One key of a store."""

    times: KeyTimes
    signer: Signer = field(repr=False)
    verifies: VerificationKey
    public: dict[str, Any] | None
    """The public JWK. None: a secret, of which nothing is published."""


class KeyStore(Protocol):
    """Where keys are kept. Its methods raise KeySourceError, whose text is one line."""

    @property
    def setting(self) -> str:
        """By which it was chosen: `key_file`, `vault.key`, …"""

    @property
    def where(self) -> str:
        """For people, without credentials."""

    @property
    def remote(self) -> bool:
        """It may be out of reach for a while."""

    @property
    def rotates(self) -> bool:
        """`rotate` and `withdraw` work."""

    @property
    def watched(self) -> Path | None:
        """The file whose change means that there is something to read."""

    @property
    def read_every(self) -> float:
        """Seconds after which it is read without being asked to."""

    async def read(self) -> Sequence[HeldKey]:
        """All keys, in the order that `schedule.plan` wants. None where there is none."""

    async def rotate(self, now: float, *, ahead: float, newest: str | None = None) -> str | None:
        """Make a key that signs `ahead` seconds from now. Its `kid`; None: the newest key isn't
        `newest` any more, so somebody else was faster.
        """

    async def withdraw(self, kid: str, now: float) -> Sequence[str]:
        """Take a key out of use at once, and have another sign where it was the one. All those that
        went with it: a store may be able to give up a key only together with its elders.
        """

    async def aclose(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True)
class LocalSigner:
    """A key in this process. A signature takes the event loop 0.7 ms with RSA of 2048 bits, less
    than 0.1 with the others: a thread would cost as much again.
    """

    key: SigningKey = field(repr=False)

    @property
    def kid(self) -> str | None:
        return self.key.kid

    @property
    def algorithm(self) -> str:
        return self.key.algorithm

    async def sign(self, signing_input: bytes) -> bytes:
        """As `Signer.sign`; never unavailable."""
        signature: bytes = codec(self.key.algorithm).sign(signing_input, self.key.key)
        return signature
