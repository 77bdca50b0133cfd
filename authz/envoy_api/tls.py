"""TLS towards Envoy: `listen_tls` of the settings as an `ssl.SSLContext`."""

import ssl

from authz.settings import ListenTlsSettings, SettingsError

HTTP2 = "h2"
"""The ALPN identifier (RFC 9113 section 3.2)."""

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: what RFC 9113 section 9.2.2 and its appendix A leave. TLS 1.3 has only such."""


def server_context(settings: ListenTlsSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer, ALPN `h2`. SettingsError: a file can't be read, or the key doesn't fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION  # RFC 9113 section 9.2.1
    context.set_alpn_protocols([HTTP2])
    for name in ("cert_file", "key_file", "client_ca_file"):
        _require_readable(settings, name)
    try:
        # With a passphrase of our own, for OpenSSL would ask for one on the terminal.
        context.load_cert_chain(settings.cert_file, settings.key_file, password="")
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        where = f"listen_tls.cert_file and key_file: {settings.cert_file}, {settings.key_file}"
        raise SettingsError(f"{where}: {_reason(error)}") from None
    if settings.client_ca_file is not None:
        try:
            context.load_verify_locations(settings.client_ca_file)
        except (OSError, ValueError) as error:
            where = f"listen_tls.client_ca_file: {settings.client_ca_file}"
            raise SettingsError(f"{where}: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _require_readable(settings: ListenTlsSettings, name: str) -> None:
    """OpenSSL doesn't say which of the files it couldn't read."""
    path = getattr(settings, name)
    if path is None:
        return
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(f"listen_tls.{name}: {path}: {error.strerror}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error).splitlines()[0] if str(error) else type(error).__name__
