"""A key of Vault's transit engine: Vault signs, and the private key never leaves it.

Each version of the key is a signing key of its own. When it was made stands in Vault, so when it
begins to sign follows from that, for every process the same.
"""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import hvac
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from authz.keys.errors import KeySourceError
from authz.keys.issuing.held import HeldKey
from authz.keys.issuing.schedule import KeyTimes, in_order
from authz.keys.jwk import codec, read_key, thumbprint
from authz.keys.signer import SigningUnavailableError
from authz.keys.vault.client import Vault, data_of
from authz.keys.vault.errors import State, VaultError

TYPES = {
    "RS256": ("rsa-2048", "rsa-3072", "rsa-4096"),
    "ES256": ("ecdsa-p256",),
    "EdDSA": ("ed25519",),
}
"""Of `tokens.signing.algorithm`: the types of transit keys that go with it."""


class TransitKey:
    """A `KeyStore` of the versions of one key."""

    setting = "vault.key"
    remote = True
    rotates = True
    watched: Path | None = None

    def __init__(
        self, vault: Vault, mount: str, name: str, algorithm: str, *, publish_ahead: float
    ) -> None:
        self.where = f"{vault.where} {mount}/keys/{name}"
        self._vault = vault
        self._mount = mount
        self._name = name
        self._algorithm = algorithm
        self._ahead = publish_ahead

    @property
    def read_every(self) -> float:
        """As `KeyStore.read_every`."""
        return self._vault.read_every

    async def read(self) -> Sequence[HeldKey]:
        """As `KeyStore.read`."""
        return [key for _, key in await self._versions()]

    async def rotate(self, now: float, *, ahead: float, newest: str | None = None) -> str | None:
        """As `KeyStore.rotate`. `ahead` is always `publish_ahead`: Vault has no place for another
        moment. Two processes that do it within one round trip make two versions, and the later
        signs.
        """
        del now, ahead
        before = await self._versions()
        if newest is not None and _newest(before) != newest:
            return None
        return (await self._made_after(before)).times.name

    async def withdraw(self, kid: str, now: float) -> Sequence[str]:
        """As `KeyStore.withdraw`. Vault gives up a version together with all before it
        (`min_decryption_version`).
        """
        del now
        versions = await self._versions()
        number = next((number for number, key in versions if key.times.name == kid), None)
        if number is None:
            known = ", ".join(key.times.name for _, key in versions)
            raise KeySourceError(f"has no version with the kid {kid!r}; it has {known}")
        if number == max(number for number, _ in versions):
            await self._made_after(versions)
        await self._call(
            "config",
            lambda it: it.update_key_configuration(
                self._name, min_decryption_version=number + 1, mount_point=self._mount
            ),
        )
        return [key.times.name for one, key in versions if one <= number]

    async def aclose(self) -> None:
        """As `KeyStore.aclose`."""
        await self._vault.aclose()

    async def _made_after(self, before: Sequence[tuple[int, HeldKey]]) -> HeldKey:
        """A new version."""
        await self._call("rotate", lambda it: it.rotate_key(self._name, mount_point=self._mount))
        known = {number for number, _ in before}
        made = [key for number, key in await self._versions() if number not in known]
        if not made:
            raise KeySourceError("Vault made a new version and does not show it")
        return made[0]

    async def _versions(self) -> list[tuple[int, HeldKey]]:
        """The latest first."""
        await self._vault.tend()
        path = f"{self._mount}/keys/{self._name}"
        try:
            answer = await self._vault.call(
                path,
                lambda client: client.secrets.transit.read_key(self._name, mount_point=self._mount),
            )
        except VaultError as error:
            if error.state is not State.MISSING:
                raise
            made = f"vault write -f {path} type={TYPES[self._algorithm][0]}"
            raise VaultError(State.MISSING, f"there is no {path}; make it: {made}") from None
        data = data_of(answer, path)
        if data.get("type") not in TYPES[self._algorithm]:
            raise KeySourceError(
                f"is of type {data.get('type')}; {self._algorithm} (tokens.signing.algorithm) "
                f"needs {' or '.join(TYPES[self._algorithm])}"
            )
        oldest = max(int(data.get("min_decryption_version") or 1), 1)
        found = {int(number): entry for number, entry in (data.get("keys") or {}).items()}
        return [
            (number, self._held(number, found[number]))
            for number in sorted(found, reverse=True)
            if number >= oldest
        ]

    def _held(self, number: int, entry: dict[str, Any]) -> HeldKey:
        try:
            public = public_jwk(entry["public_key"], self._algorithm)
            made_at = datetime.fromisoformat(entry["creation_time"]).timestamp()
        except (KeyError, TypeError, ValueError, UnsupportedAlgorithm):
            raise KeySourceError(f"version {number} can't be read") from None
        begins = made_at if number == 1 else made_at + self._ahead
        kid = public["kid"]
        signer = TransitSigner(self._vault, self._mount, self._name, number, kid, self._algorithm)
        verifies = read_key(public, [self._algorithm])
        return HeldKey(KeyTimes(kid, begins), signer, verifies, public)

    async def _call(self, verb: str, ask: Callable[[Any], Any]) -> None:
        path = f"{self._mount}/keys/{self._name}/{verb}"
        await self._vault.call(path, lambda client: ask(client.secrets.transit))


@dataclass(frozen=True, slots=True)
class TransitSigner:
    """One version."""

    vault: Vault = field(repr=False)
    mount: str
    name: str
    version: int
    kid: str
    algorithm: str

    async def sign(self, signing_input: bytes) -> bytes:
        """As `Signer.sign`."""
        path = f"{self.mount}/sign/{self.name}"

        def ask(client: hvac.Client) -> Any:
            return client.secrets.transit.sign_data(
                self.name,
                hash_input=b64encode(signing_input).decode(),
                key_version=self.version,
                hash_algorithm="sha2-256",
                signature_algorithm="pkcs1v15" if self.algorithm == "RS256" else None,
                marshaling_algorithm="jws",  # of ECDSA: R and S, not ASN.1
                mount_point=self.mount,
            )

        try:
            answer = data_of(await self.vault.call(path, ask), path)
            return _signature(answer.get("signature"), self.version)
        except VaultError as error:
            raise SigningUnavailableError(
                f"{self.vault.where}: {error}", retry_after=error.state.retry_after
            ) from None


def public_jwk(text: str, algorithm: str) -> dict[str, Any]:
    """Of a public key as the transit engine shows it: PEM, but of Ed25519 the bare 32 bytes.

    ValueError, UnsupportedAlgorithm: it is none.
    """
    key: Any
    if algorithm == "EdDSA":
        key = Ed25519PublicKey.from_public_bytes(b64decode(text, validate=True))
    else:
        key = load_pem_public_key(text.encode())
    jwk = dict(codec(algorithm).to_jwk(key, as_dict=True))
    jwk.pop("key_ops", None)
    return {**jwk, "kid": thumbprint(jwk), "use": "sig", "alg": algorithm}


def _newest(versions: Sequence[tuple[int, HeldKey]]) -> str | None:
    return in_order([key.times for _, key in versions])[-1].name if versions else None


def _signature(text: Any, version: int) -> bytes:
    """Of `vault:v3:…`. VaultError: it is none, or of another version."""
    prefix = f"vault:v{version}:"
    if not isinstance(text, str) or not text.startswith(prefix):
        raise VaultError(State.REFUSED, "the answer holds no signature of the version asked for")
    # base64url without padding of what is marshalled for JWS, plain base64 of the others
    encoded = text.removeprefix(prefix).replace("-", "+").replace("_", "/")
    try:
        return b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        raise VaultError(State.REFUSED, "the answer's signature is not base64") from None
