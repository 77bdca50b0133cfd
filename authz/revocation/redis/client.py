"""Connections to Redis nodes, as `store` in the settings says."""

import ssl
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from authz.revocation.redis.topology import Address
from authz.settings import SettingsError, StoreSettings, store_credentials, store_url_parts

READ_TIMEOUT_FACTOR = 4
MIN_READ_TIMEOUT = 0.25
"""Seconds. How long a pipeline may go on behind the checks that gave up on it."""


def connector(settings: StoreSettings) -> Callable[[Address], Redis]:
    """What makes the client of a node. A client connects when it is first used.

    SettingsError: an unreadable password, CA or client certificate.
    """
    _, _, database = store_url_parts(settings)
    options = node_options(settings)

    def connect(address: Address) -> Redis:
        return Redis(host=address[0], port=address[1], db=database, **options)

    return connect


def node_options(settings: StoreSettings) -> dict[str, Any]:
    """What redis-py is told of every connection. SettingsError as `connector`."""
    scheme, _, _ = store_url_parts(settings)
    username, password = store_credentials(settings)
    timeout = max(READ_TIMEOUT_FACTOR * settings.timeout, MIN_READ_TIMEOUT)
    return {
        "username": username,
        "password": password,
        "socket_timeout": timeout + settings.wait_timeout,
        "socket_connect_timeout": settings.connect_timeout,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),  # a retry would outlive the check; the breaker decides
        "client_name": "authz",
        "protocol": 2,
        **(_tls_options(settings) if scheme.startswith("rediss") else {}),
    }


def _tls_options(settings: StoreSettings) -> dict[str, Any]:
    tls = settings.tls
    context = ssl.create_default_context()
    trying = tls.ca_file
    name = "ca_file"
    try:
        if tls.ca_file is not None:
            context.load_verify_locations(tls.ca_file)
        if tls.cert_file is not None:
            trying, name = tls.cert_file, "cert_file and key_file"
            # With a passphrase of our own, for OpenSSL would ask for one on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or error
        raise SettingsError(f"store.tls.{name}: {trying}: {reason}") from None
    options: dict[str, Any] = {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": tls.verify_hostname,
    }
    for option, path in (
        ("ssl_ca_certs", tls.ca_file),
        ("ssl_certfile", tls.cert_file),
        ("ssl_keyfile", tls.key_file),
    ):
        if path is not None:
            options[option] = str(path)
    return options
