"""The server that `transport` of the settings names."""

from typing import Protocol

from authz.envoy_api.counters import TransportCounters
from authz.envoy_api.server import NativeServer
from authz.envoy_api.shared import Checks
from authz.settings import Settings


class CheckServer(Protocol):
    """Serves a `CheckService` at the addresses of `listen`."""

    @property
    def counters(self) -> TransportCounters | None:
        """None where the transport counts nothing."""
        ...

    async def start(self) -> None:
        """Listen and serve. SettingsError: an address can't be had."""
        ...

    async def stop(self, grace: float) -> None:
        """Let calls in flight finish for `grace` seconds, and end."""
        ...

    def reload_tls(self) -> None:
        """Read the files of `listen_tls` again."""
        ...


def open_server(settings: Settings, service: Checks) -> CheckServer:
    """Make it in a running loop. SettingsError: a file of `listen_tls` can't be used."""
    if settings.transport == "native":
        return NativeServer(service, settings.listen, tls=settings.listen_tls)
    from authz.envoy_api.grpcio_server import GrpcioServer  # grpcio takes 10 MiB

    return GrpcioServer(service, settings.listen, tls=settings.listen_tls)
