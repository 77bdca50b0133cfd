"""The keys that the token service signs with, as commands see and change them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from authz.cli.errors import CommandError
from authz.durations import format_duration
from authz.keys.errors import KeySourceError
from authz.keys.issuing.held import KeyStore
from authz.keys.issuing.open import open_key_store
from authz.keys.issuing.schedule import Plan, plan
from authz.observe.logs import configure_logs
from authz.settings import (
    IssuerlessSettings,
    LogSettings,
    Settings,
    SettingsError,
    SigningSettings,
    load_settings,
)

T = TypeVar("T")


def load_service(config: Path | None) -> tuple[Settings, SigningSettings]:
    """The settings, and among them those of the signing keys. Only errors are logged from here on,
    and to stderr. SettingsError: there are none.
    """
    configure_logs(LogSettings(level="error", format="console"))
    settings = load_settings(config, IssuerlessSettings)
    if settings.tokens is None:
        raise SettingsError("tokens: is not set; name a key file, or give --config with `tokens`")
    return settings, settings.tokens.signing


def with_store(signing: SigningSettings, work: Callable[[KeyStore], Awaitable[T]]) -> T:
    """What `work` makes of the place where the keys are kept. CommandError: it can't be used."""

    async def run() -> T:
        store = open_key_store(signing)
        try:
            return await work(store)
        except KeySourceError as error:
            where = f"tokens.signing.{store.setting}: {store.where}"
            raise CommandError(f"{where}: {error}") from None
        finally:
            await store.aclose()

    return asyncio.run(run())


async def planned(store: KeyStore) -> Plan:
    """What is so now. KeySourceError: the keys can't be read."""
    return plan([key.times for key in await store.read()], time.time())


def rotate_service_key(config: Path | None) -> None:
    """Make the next key, and say when it signs."""
    _, signing = load_service(config)

    async def rotate(store: KeyStore) -> None:
        made = await store.rotate(time.time(), ahead=signing.publish_ahead)
        if (await planned(store)).signing == made:
            print(f"signs from now on: {made}")
        else:
            print(f"published {made}; it signs in {format_duration(signing.publish_ahead)}")

    with_store(signing, rotate)


def published_service_keys(config: Path | None) -> list[dict[str, Any]]:
    """The public JWKs that the token service publishes."""
    _, signing = load_service(config)

    async def published(store: KeyStore) -> list[dict[str, Any]]:
        keys = {key.times.name: key for key in await store.read()}
        now = plan([key.times for key in keys.values()], time.time())
        held = (keys[name].public for name in now.published)
        return [public for public in held if public is not None]

    return with_store(signing, published)
