"""`authz envoy`: an Envoy bootstrap that goes with the settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from authz.check.policy import PolicyError, RoutePolicies
from authz.cli.errors import CommandError
from authz.cli.options import config_option
from authz.settings import load_settings

if TYPE_CHECKING:
    from authz.envoy_api.bootstrap import Route


@click.command()
@config_option
@click.option(
    "--listen",
    default="0.0.0.0:8080",
    show_default=True,
    metavar="IP:PORT",
    help="Where Envoy takes requests.",
)
@click.option(
    "--upstream",
    default="127.0.0.1:8000",
    show_default=True,
    metavar="HOST:PORT",
    help="Where allowed requests go; unix:/path works too.",
)
@click.option(
    "--admin",
    default="127.0.0.1:9901",
    show_default=True,
    metavar="IP:PORT",
    help="Envoy's admin interface. Keep it on loopback: it can stop Envoy.",
)
@click.option(
    "--metrics",
    metavar="IP:PORT",
    help="Answer /ready and /stats/prometheus there, for probes and Prometheus, and no "
    "other path of the admin interface.",
)
@click.option(
    "--shadow",
    is_flag=True,
    help="Refuse nothing, only count what would be refused: for the first days.",
)
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar="PATH:POLICY",
    help="What holds under PATH: `disabled`, or authz.mode=…, authz.scopes=… and the other keys of "
    "a route, separated by commas. May be repeated.",
)
@click.option(
    "--tls-cert",
    metavar="FILE",
    help="Take requests by TLS, with this certificate and its chain (PEM).",
)
@click.option("--tls-key", metavar="FILE", help="Its key.")
@click.option(
    "--client-ca",
    metavar="FILE",
    help="Take client certificates that one of these signed, for tokens that are bound to them.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="Of the bootstrap; name the file accordingly.",
)
def envoy(
    config: Path | None,
    listen: str,
    upstream: str,
    admin: str,
    metrics: str | None,
    shadow: bool,
    routes: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    client_ca: str | None,
    form: Literal["yaml", "json"],
) -> None:
    """Print an Envoy bootstrap for these settings.

    Envoy asks the sidecar at the first Unix socket of `listen`, else at its first address.

    \b
    Example:
      authz envoy --config authz.yaml --upstream app:8000 \\
        --route /healthz:disabled --route /public:authz.mode=optional \\
        --route "/admin:authz.scopes=admin audit,authz.fail_mode=closed" > envoy.yaml
    """
    settings = load_settings(config)
    if (tls_cert is None) != (tls_key is None) or (client_ca is not None and tls_cert is None):
        raise click.UsageError("--tls-cert and --tls-key go together, and --client-ca with them")
    try:  # deferred: only this command and the demo need the extra
        from authz.envoy_api import bootstrap, bootstrap_tls
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "authz":
            raise
        raise CommandError("authz envoy needs, in a checkout: pip install '.[envoy]'") from None
    try:
        message = bootstrap.build_bootstrap(
            settings,
            listen=listen,
            upstream=upstream,
            admin=admin,
            metrics=metrics,
            shadow=shadow,
            routes=[_route(text, bootstrap.Route) for text in routes],
            tls=None
            if tls_cert is None or tls_key is None
            else bootstrap_tls.DownstreamTls(tls_cert, tls_key, client_ca),
        )
    except bootstrap.BootstrapError as error:
        raise click.UsageError(str(error)) from None
    click.echo(bootstrap.render(message, form), nl=False)


def _route(text: str, kind: "type[Route]") -> "Route":
    """`/path:disabled` or `/path:authz.mode=optional,authz.audience=api`."""
    path, colon, policy = text.partition(":")
    if not colon or not policy:
        raise click.UsageError(f"--route {text!r}: write it as /path:disabled or /path:key=value")
    if policy == "disabled":
        return kind(path, None)
    extensions: dict[str, str] = {}
    for pair in policy.split(","):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key.startswith("authz.") or key in extensions:
            raise click.UsageError(f"--route {text!r}: {pair!r} is not one authz.key=value")
        extensions[key] = value
    try:
        RoutePolicies("open").of(extensions)
    except PolicyError as error:
        raise click.UsageError(f"--route {text!r}: {error}") from None
    return kind(path, extensions)
