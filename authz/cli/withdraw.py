"""`authz keys withdraw`: a signing key that others know is of no use from now on."""

import asyncio
import time
from pathlib import Path

import click

from authz.cli.errors import CommandError
from authz.cli.options import config_option
from authz.cli.service_keys import load_service, planned, with_store
from authz.keys.issuing.held import KeyStore
from authz.keys.issuing.schedule import Plan
from authz.revocation.memory import MemoryStore
from authz.revocation.open import open_store
from authz.revocation.store import StoreError
from authz.settings import Settings


@click.command()
@click.argument("kid", required=False)
@config_option
@click.option("--announce", is_flag=True, help="Only have all sidecars fetch their keys now.")
def withdraw(kid: str | None, config: Path | None, announce: bool) -> None:
    """Take a signing key of the token service out of use at once: it leaked.

    It leaves the published set, another key signs where it was the one, and every sidecar that
    follows the store fetches the set within seconds. All tokens of the key are refused from then
    on, so who holds one has to log in again. In Vault's transit engine a key goes together with
    those before it.

    \b
    Example:
      authz keys withdraw 8Nf3…Qw --config authz.yaml
    """
    if (kid is None) != announce:
        raise click.UsageError("give the KID to withdraw, or --announce")
    settings, signing = load_service(config)
    if kid is not None:
        name = kid

        async def take_out(store: KeyStore) -> tuple[list[str], Plan]:
            return list(await store.withdraw(name, time.time())), await planned(store)

        gone, now = with_store(signing, take_out)
        for one in gone:
            print(f"withdrawn {one}")
        print(f"signs from now on: {now.signing}")
    asyncio.run(_announce(settings))


async def _announce(settings: Settings) -> None:
    store = open_store(settings)
    try:
        if isinstance(store, MemoryStore):
            click.echo(
                "authz: warning: store.url is memory://, so sidecars can't be told; they fetch "
                "keys every issuers[].keys.refresh, or on SIGHUP",
                err=True,
            )
            return
        await store.announcements.announce(time.time())
    except StoreError as error:
        raise CommandError(
            f"sidecars could not be told: {error}; run `authz keys withdraw --announce`"
        ) from None
    finally:
        await store.aclose()
    print("told all sidecars to fetch their keys")
