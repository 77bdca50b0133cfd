"""`authz keys`: make, rotate and publish keys that sign, or that tokens are encrypted to."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click

from authz.cli.errors import CommandError
from authz.cli.options import config_option
from authz.cli.service_keys import published_service_keys, rotate_service_key
from authz.cli.withdraw import withdraw
from authz.keys import rotation
from authz.keys.encryption import is_for_encryption
from authz.keys.errors import KeySourceError
from authz.keys.generate import (
    DEFAULT_RSA_BITS,
    RSA_BITS,
    Curve,
    KeyType,
    Use,
    generate_key,
    generate_like,
)
from authz.keys.jwk import public_part
from authz.keys.keyfile import (
    dump,
    is_exposed_file,
    lock,
    read_keys,
    write_keys,
    write_public_keys,
)

DEFAULT_KEEP = 2
"""Keys in a file that is rotated by hand: the one that signs, and the one that did."""

FILE = click.Path(dir_okay=False, path_type=Path)

_type = click.option(
    "--type",
    "key_type",
    type=click.Choice(get_args(KeyType)),
    help="Type of the new key.  [default: as the key that signs now]",
)
_bits = click.option(
    "--bits",
    type=click.IntRange(*RSA_BITS),
    help=f"Size of an RSA key.  [default: {DEFAULT_RSA_BITS}]",
)
_curve = click.option(
    "--curve", type=click.Choice(get_args(Curve)), help="Curve of an EC key.  [default: P-256]"
)
_public = click.option("--public", type=FILE, help="Also write the public JWK Set there.")


@click.group()
def keys() -> None:
    """Make, rotate and publish keys.

    A key file is a private JWK Set (RFC 7517), readable by its owner only. Its first key signs or,
    of a file for encryption, is the one that issuers encrypt to.
    """


@keys.command()
@click.option(
    "--type",
    "key_type",
    type=click.Choice(get_args(KeyType)),
    default="rsa",
    show_default=True,
    help="rsa signs RS256, ec ES256 or ES384, ed25519 EdDSA; encrypted to are rsa and ec.",
)
@click.option(
    "--use",
    type=click.Choice(get_args(Use)),
    default="sig",
    show_default=True,
    help="sig: the key signs. enc: tokens are encrypted to its public half.",
)
@_bits
@_curve
@click.option("--out", type=FILE, required=True, help="The key file to write.")
@_public
@click.option("--force", is_flag=True, help="Replace the key file, and lose its keys.")
def generate(
    key_type: KeyType,
    use: Use,
    bits: int | None,
    curve: Curve | None,
    out: Path,
    public: Path | None,
    force: bool,
) -> None:
    """Write a new key file.

    \b
    Example:
      authz keys generate --type ec --out signing.json --public jwks.json
      authz keys generate --use enc --type ec --out decryption.json --public encryption.json
    """
    key = _new_key(key_type, bits, curve, use)
    begun = key if use == "enc" else {**key, rotation.SIGNS_FROM: int(time.time())}
    with _failures(out), lock(out):
        try:
            write_keys(out, [begun], replace=force)
        except FileExistsError:
            raise CommandError(
                f"{out} exists; add a key to it with `authz keys rotate {out}`, "
                "or replace it with --force"
            ) from None
    print(f"wrote {out}: {_describe(key)}")
    _publish(public, [key])


@keys.command()
@click.argument("file", type=FILE, required=False)
@config_option
@_type
@_bits
@_curve
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    help="How many keys of FILE stay, the new one included.  [default: 2]",
)
@click.option("--stage", is_flag=True, help="Publish the new key, but don't sign with it yet.")
@click.option("--activate", is_flag=True, help="Sign with the key that was staged.")
@_public
def rotate(
    file: Path | None,
    config: Path | None,
    key_type: KeyType | None,
    bits: int | None,
    curve: Curve | None,
    keep: int | None,
    stage: bool,
    activate: bool,
    public: Path | None,
) -> None:
    """Sign with a new key from now on, or have tokens encrypted to it.

    It is of the same type as the last unless said otherwise. Older keys stay for the tokens they
    signed; a key that is dropped takes its tokens with it, so rotate no sooner than the longest
    token lives. Where others keep the public set for a while, do it in two steps: --stage, wait
    until they have it, --activate.

    Without FILE it is the key of the token service, `tokens.signing` of the settings, in Vault too.
    That is always in two steps, and the second comes by itself after `publish_ahead`.

    \b
    Example:
      authz keys rotate --config authz.yaml
      authz keys rotate signing.json --public jwks.json
      authz keys rotate signing.json --public jwks.json --stage
      authz keys rotate signing.json --public jwks.json --activate
    """
    if file is None:
        if stage or activate or any((key_type, bits, curve, keep, public)):
            raise click.UsageError("--config alone: the settings say all else; or name a FILE")
        rotate_service_key(config)
        return
    if stage and activate:
        raise click.UsageError("--stage and --activate are two steps; give one of them")
    if activate and (key_type or bits or curve):
        raise click.UsageError("--activate makes no key: --type, --bits, --curve go with --stage")
    now, keep = time.time(), keep or DEFAULT_KEEP
    with _failures(file), lock(file):
        before = read_keys(file, private=True)
        _warn_exposed(file, before)
        if activate:
            result = rotation.activate(before, keep=keep, now=now)
            done = f"{_describe(result.keys[0])} is the one in use from now on"
        elif stage:
            new = _new_key_like(before[0], key_type, bits, curve)
            result = rotation.stage(before, new, now=now)
            done = f"staged {_describe(new)}"
        else:
            new = _new_key_like(before[0], key_type, bits, curve)
            result = rotation.rotate(before, new, keep=keep, now=now)
            done = f"added {_describe(new)}"
        # Published before it signs: whoever sees a token of the new key can find the key. And not
        # before it opens: whoever finds the key encrypts to it.
        for_encryption = _use_of(before[0]) == "enc"
        if for_encryption:
            write_keys(file, result.keys, replace=True)
        if public is not None:
            with _failures(public):
                write_public_keys(public, result.keys)
        if not for_encryption:
            write_keys(file, result.keys, replace=True)
    print(done)
    for key in result.dropped:
        print(f"dropped {_describe(key)}")
    if public is not None:
        print(f"wrote {public}: {_count(result.keys)}")


keys.add_command(withdraw)


@keys.command()
@click.argument("file", type=FILE, required=False)
@config_option
@click.option("--out", type=FILE, help="Write there instead of to the standard output.")
def jwks(file: Path | None, config: Path | None, out: Path | None) -> None:
    """Print the public JWK Set of a key file, or of the token service, fit to be published.

    \b
    Example:
      authz keys jwks --config authz.yaml
      authz keys jwks signing.json > jwks.json
    """
    if file is None:
        found = published_service_keys(config)
    else:
        with _failures(file):
            found = read_keys(file, private=False)
            _warn_exposed(file, found)
    if out is None:
        sys.stdout.write(dump([public_part(key) for key in found]))
    else:
        _publish(out, found)


def _new_key(key_type: KeyType, bits: int | None, curve: Curve | None, use: Use) -> dict[str, Any]:
    if use == "enc" and key_type == "ed25519":
        raise click.UsageError("--type ed25519 only signs; tokens are encrypted to rsa and ec")
    if bits is not None and key_type != "rsa":
        raise click.UsageError("--bits goes with --type rsa")
    if curve is not None and key_type != "ec":
        raise click.UsageError("--curve goes with --type ec")
    return generate_key(key_type, bits=bits or DEFAULT_RSA_BITS, curve=curve or "P-256", use=use)


def _new_key_like(
    current: dict[str, Any], key_type: KeyType | None, bits: int | None, curve: Curve | None
) -> dict[str, Any]:
    """For the same use, and of the same type and size where nothing else is said."""
    if key_type is not None:
        return _new_key(key_type, bits, curve, _use_of(current))
    if bits is None and curve is None:
        return generate_like(current)
    return _new_key("rsa" if current["kty"] == "RSA" else "ec", bits, curve, _use_of(current))


def _use_of(key: dict[str, Any]) -> Use:
    return "enc" if is_for_encryption(key) else "sig"


def _publish(public: Path | None, found: list[dict[str, Any]]) -> None:
    if public is None:
        return
    with _failures(public):
        write_public_keys(public, found)
    print(f"wrote {public}: {_count(found)}")


def _describe(key: dict[str, Any]) -> str:
    return f"{key.get('alg', key['kty'])} key {key.get('kid', 'without kid')}"


def _count(found: list[dict[str, Any]]) -> str:
    return "1 public key" if len(found) == 1 else f"{len(found)} public keys"


def _warn_exposed(path: Path, found: list[dict[str, Any]]) -> None:
    if any("d" in key for key in found) and is_exposed_file(path):
        click.echo(f"authz: warning: {path}: others can read it; chmod 600 {path}", err=True)


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    """What goes wrong with this file, as one line."""
    try:
        yield
    except KeySourceError as error:
        raise CommandError(f"{path}: {error}") from None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}") from None
