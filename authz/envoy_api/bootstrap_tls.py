"""TLS towards the clients of the Envoy of a bootstrap."""

from dataclasses import dataclass

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.google.protobuf import Any as AnyMessage


@dataclass(frozen=True, slots=True)
class DownstreamTls:
    """Paths of PEM files, as Envoy finds them."""

    cert_file: str
    """The certificate and its chain."""
    key_file: str
    client_ca_file: str | None = None
    """Clients may show a certificate that one of these signed; Envoy passes it on."""


def transport_socket(files: DownstreamTls) -> core.TransportSocket:
    """HTTP/2 and HTTP/1.1 by TLS 1.2 or later."""
    context = tls.CommonTlsContext(
        tls_params=tls.TlsParameters(
            tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2
        ),
        tls_certificates=[
            tls.TlsCertificate(
                certificate_chain=core.DataSource(filename=files.cert_file),
                private_key=core.DataSource(filename=files.key_file),
            )
        ],
        alpn_protocols=["h2", "http/1.1"],
    )
    if files.client_ca_file is not None:
        context.validation_context = tls.CertificateValidationContext(
            trusted_ca=core.DataSource(filename=files.client_ca_file)
        )
    return core.TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=AnyMessage.pack(
            # Whether a certificate is needed is the token's and the route's matter.
            tls.DownstreamTlsContext(common_tls_context=context, require_client_certificate=False)
        ),
    )
