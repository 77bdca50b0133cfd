"""`authz demo`: everything in one temporary folder, shown and checked."""

import click

_port = click.IntRange(1, 65535)


@click.command()
@click.option("--once", is_flag=True, help="End after the tour instead of staying up.")
@click.option(
    "--port", type=_port, metavar="PORT", help="Where Envoy takes requests.  [default: a free port]"
)
@click.option(
    "--redis-port", type=_port, metavar="PORT", help="For the Valkey.  [default: a free port]"
)
@click.option(
    "--http-port",
    type=_port,
    metavar="PORT",
    help="For metrics and status.  [default: a free port]",
)
def demo(once: bool, port: int | None, redis_port: int | None, http_port: int | None) -> None:
    """Show authz at work with a real Envoy and Valkey.

    Takes a tour: no token, a good one, a revoked one, log-in and log-out everywhere, Redis stopped,
    Redis back. Then it stays up and prints commands to try. Nothing is left behind. Exits with 1,
    naming the step, where one came out otherwise than said.

    \b
    Example:
      authz demo --once
    """
    from authz.demo.run import run_demo  # heavy: not for the other commands
    from authz.demo.stage import choose_ports, find_programs

    programs = find_programs()
    run_demo(once=once, ports=choose_ports(port, redis_port, http_port), programs=programs)
