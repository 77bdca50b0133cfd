"""The keys of one issuer, as an immutable set: those that verify, or those that decrypt."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

MAX_CANDIDATES = 4
"""Signatures that one token may cost. A token without `kid` is tried with every key that fits its
algorithm: an issuer in the middle of a rotation publishes two or three of them, and four RSA
verifications take a third of a millisecond. With more keys the issuer has to say which."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One key and what it may verify or, in the set of those, decrypt. Equal where kid, algorithms
    and key material are.
    """

    kid: str | None
    algorithms: frozenset[str]
    """Of the issuer's allow-list those that fit the key's type and curve and what the JWK says of
    itself. Never empty."""
    thumbprint: str
    """Of the public key, RFC 7638 section 3. Of a secret, a keyed digest that means nothing outside
    this process."""
    key: object = field(repr=False, compare=False)
    """What PyJWT's `Algorithm.verify` takes: a public key of `cryptography`, or a secret's bytes.
    Of a key that decrypts, joserfc's.
    """


class KeySet:
    """Immutable. Sets with equal keys are equal, in whatever order they were given."""

    __slots__ = ("_any", "_exact", "_kidless", "_members")

    def __init__(self, keys: Iterable[VerificationKey] = ()) -> None:
        # A dictionary, so that `adopt` can hand out the object that is equal to a given one.
        self._members = {key: key for key in keys}
        self._any: dict[str, tuple[VerificationKey, ...]] = {}
        self._kidless: dict[str, tuple[VerificationKey, ...]] = {}
        self._exact: dict[tuple[str, str], tuple[VerificationKey, ...]] = {}
        for key in self._members:
            for algorithm in key.algorithms:
                self._any[algorithm] = (*self._any.get(algorithm, ()), key)
                if key.kid is None:
                    self._kidless[algorithm] = (*self._kidless.get(algorithm, ()), key)
                else:
                    named = (key.kid, algorithm)
                    self._exact[named] = (*self._exact.get(named, ()), key)
        for (kid, algorithm), keys_of_kid in self._exact.items():
            self._exact[kid, algorithm] = keys_of_kid + self._kidless.get(algorithm, ())

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """The keys that may have signed a token with this header, at most `MAX_CANDIDATES`.

        `kid` is a dictionary key and nothing else. Keys without one stand for any `kid`; a token
        without one may be of any key. More candidates than the limit count as none.
        """
        if kid is None:
            found = self._any.get(algorithm, ())
        else:
            found = self._exact.get((kid, algorithm)) or self._kidless.get(algorithm, ())
        return found if len(found) <= MAX_CANDIDATES else ()

    def adopt(self, other: "KeySet") -> "KeySet":
        """`other`'s content made of this set's objects where they are equal; this very set where
        all are. So whoever remembers a key or a set can compare by identity first.
        """
        if other == self:
            return self
        return KeySet(self._members.get(key, key) for key in other)

    @property
    def kids(self) -> tuple[str, ...]:
        """In the order of the document, keys without a `kid` left out."""
        return tuple(key.kid for key in self._members if key.kid is not None)

    def __iter__(self) -> Iterator[VerificationKey]:
        return iter(self._members)

    def __contains__(self, key: VerificationKey) -> bool:
        return key in self._members

    def __len__(self) -> int:
        return len(self._members)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeySet):
            return NotImplemented
        return self._members.keys() == other._members.keys()

    def __hash__(self) -> int:
        return hash(frozenset(self._members))

    def __repr__(self) -> str:
        return f"<KeySet of {len(self)}: {', '.join(self.kids)}>"
