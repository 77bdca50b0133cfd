"""`authz relay`: copy the revocations of one region into another."""

from pathlib import Path

import click

from authz.cli.errors import CommandError
from authz.cli.options import config_option
from authz.settings import IssuerlessSettings, load_settings


@click.command()
@config_option
@click.option(
    "--from", "source", metavar="URL", help="The store to copy from, instead of `relay.url`."
)
@click.option("--to", "target", metavar="URL", help="The store to copy to, instead of `store.url`.")
@click.option(
    "--name", help="Of the cursor that is kept in the target.  [default: the hosts of --from]"
)
@click.option(
    "--http-listen",
    metavar="HOST:PORT",
    help="Where /metrics, /healthz, /readyz and /status are answered.  [default: nowhere]",
)
@click.option("--once", is_flag=True, help="Copy what there is and end.")
def relay(
    config: Path | None,
    source: str | None,
    target: str | None,
    name: str | None,
    http_listen: str | None,
    once: bool,
) -> None:
    """Copy what is revoked in one region's store into another's, until SIGTERM or Ctrl-C.

    It goes on where it stopped, and copies everything again where that isn't known. For both ways
    run two of them, one in each region that reads the other's. Passwords belong into the settings
    (`relay.password_file`, `store.password_file`): a URL here is in the list of processes.

    \b
    Examples:
      authz relay --from redis+cluster://redis.us.internal:6379 --to redis+cluster://redis.eu.internal:6379
      authz relay --config relay.yaml --http-listen 127.0.0.1:9193
      authz relay --from redis://old.internal --to redis://new.internal --once
    """
    given = {
        "relay": {"url": source, "name": name},
        "store": {"url": target},
        "http_listen": http_listen,
    }
    settings = load_settings(config, IssuerlessSettings, given)
    from authz.relay.process import Direction, RelayError, run  # Redis' client is heavy

    direction = Direction.of_settings(settings)
    try:
        entries = run(
            direction,
            settings.log,
            http_listen=None if http_listen is None else settings.http_listen,
            drain=settings.drain_timeout,
            once=once,
        )
    except RelayError as error:
        raise CommandError(str(error)) from None
    if once:
        print(
            f"level: {entries['written']} written, {entries['repeated']} were there already, "
            f"{entries['expired']} had expired"
        )
