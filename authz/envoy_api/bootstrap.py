"""An Envoy bootstrap for a sidecar's settings, built with Envoy's own types.

It is meant to be run at an edge as it is, and to be read: the choices that guard something say so
beside them. Needs `envoy_data_plane` (the extra `envoy`); nothing on the way of a check imports it.
"""

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import betterproto2
import yaml
from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.overload import v3 as overload
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.access_loggers.stream import v3 as stream
from envoy_data_plane.envoy.extensions.filters.http.ext_authz import v3 as ext_authz
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import (
    v3 as early_header_mutation,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections import (
    v3 as downstream_connections,
)
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstreams_http
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any as AnyMessage
from envoy_data_plane.google.protobuf import Struct

from authz.addresses import split_host_port
from authz.check.csrf import CSRF_HEADERS
from authz.check.policy import RoutePolicies
from authz.check.request import FORWARDED_PROTO_HEADER, PROOF_HEADER, REQUEST_ID_HEADER
from authz.envoy_api.bootstrap_metrics import admin_cluster, metrics_listener
from authz.envoy_api.bootstrap_tls import DownstreamTls, transport_socket
from authz.settings import Settings

CHECK_SERVICE = "envoy.service.auth.v3.Authorization"
EXT_AUTHZ_FILTER = "envoy.filters.http.ext_authz"
"""The filter's name, the key of its per-route configuration, and its metadata namespace."""
SIDECAR_CLUSTER = "authz"
UPSTREAM_CLUSTER = "upstream"

OWN_HEADERS = matcher.RegexMatcher(regex="x[-_]authz[-_].*")
"""The headers that only the sidecar may set, also as CGI-like servers would read them."""

CHECK_TIMEOUT_MIN = 0.2
"""Seconds; Envoy's own default for ext_authz."""
QUESTIONS = 3
"""That a check may ask the store in turn: whether the token is revoked, and whether its proof and
then the token itself were used. Once one isn't answered in time, no other is asked."""
CHECK_TIMEOUT_MARGIN = 0.025
"""Seconds of transport and scheduling on top of what the sidecar itself may wait for, where every
answer comes at the last moment. With the defaults: 3 x 25 + 100 + 25 = 200 ms."""
MAX_CONNECTIONS = 50_000
"""Downstream connections; the figure of Envoy's own edge example. Without any, Envoy warns."""
CONNECTION_BUFFER = 32_768
"""Bytes buffered per connection, as in Envoy's edge example."""
MAX_REQUEST_HEADERS_KB = 32
"""A token has 8 KiB at most; the rest is for cookies and the path."""

ACCESS_LOG = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%PATH(NQ)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "upstream": "%UPSTREAM_HOST%",
    "authz": f"%METADATA(DYNAMIC:{EXT_AUTHZ_FILTER})%",
}
"""One JSON object a line. `NQ`: the path without its query string, which may hold secrets. No
header that carries a credential is in it; `authz` is what the sidecar says about the request."""


class BootstrapError(ValueError):
    """An address or a route can't be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Route:
    """What holds for the paths under a prefix."""

    prefix: str
    """Of whole path segments: `/public` is `/public` and `/public/…`, not `/publicity`."""
    extensions: Mapping[str, str] | None
    """`context_extensions` (the `authz.*` policy); None: the sidecar is not asked at all."""


def build_bootstrap(
    settings: Settings,
    *,
    listen: str,
    upstream: str,
    admin: str,
    routes: Sequence[Route] = (),
    tls: DownstreamTls | None = None,
    metrics: str | None = None,
    shadow: bool = False,
) -> bootstrap.Bootstrap:
    """The bootstrap of an Envoy that asks the sidecar of `settings` about every request.

    `listen` and `admin` are `host:port` with an IP address; `upstream` is `host:port` or
    `unix:/path`. `tls` is of `listen`. `metrics`: where `/ready` and `/stats/prometheus` are
    answered besides `admin`. `shadow`: nothing is refused, only counted.
    BootstrapError: an address or a route can't be used. PolicyError: a route's policy.
    """
    listeners = [_listener(settings, listen, routes, tls, shadow=shadow)]
    clusters = [_sidecar_cluster(settings), _upstream_cluster(upstream)]
    if metrics is not None:
        listeners.append(metrics_listener(_ip_address(metrics)))
        clusters.append(admin_cluster(_ip_address(admin)))
    return bootstrap.Bootstrap(
        admin=bootstrap.Admin(address=_ip_address(admin)),
        static_resources=bootstrap.BootstrapStaticResources(listeners=listeners, clusters=clusters),
        overload_manager=overload.OverloadManager(
            resource_monitors=[
                overload.ResourceMonitor(
                    name="envoy.resource_monitors.global_downstream_max_connections",
                    typed_config=AnyMessage.pack(
                        downstream_connections.DownstreamConnectionsConfig(
                            max_active_downstream_connections=MAX_CONNECTIONS
                        )
                    ),
                )
            ]
        ),
    )


def as_mapping(message: betterproto2.Message) -> dict[str, Any]:
    """The message in the JSON form of protobuf, with the field names of the .proto files.

    Two defaults that a reader looks for are written out: `failure_mode_allow: false` and a
    `healthy_panic_threshold` of 0.
    """
    mapping = message.to_dict(casing=betterproto2.Casing.SNAKE)
    _spell_out(mapping)
    return mapping


def render(message: betterproto2.Message, form: Literal["yaml", "json"]) -> str:
    """`as_mapping` as text that Envoy reads with `--config-path` (`.yaml` or `.json`)."""
    mapping = as_mapping(message)
    if form == "json":
        return json.dumps(mapping, indent=2) + "\n"
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, width=100)


def sidecar_address(settings: Settings) -> str:
    """Where Envoy finds the sidecar: the first Unix socket of `listen`, else its first address."""
    sockets = [address for address in settings.listen if address.startswith("unix:")]
    return (sockets or settings.listen)[0]


def allowed_headers(
    settings: Settings, routes: Sequence[Route] = ()
) -> list[matcher.StringMatcher]:
    """The request headers that the sidecar reads, and no other: less to copy on both sides, and
    what isn't sent can't leak. PolicyError: a route's policy can't be read.
    """
    names = [c.removeprefix("header:") for c in settings.credentials if c.startswith("header:")]
    if any(c.startswith("cookie:") for c in settings.credentials):
        names += ["cookie", *CSRF_HEADERS]
    policies = RoutePolicies(settings.fail_mode, require_https=settings.require_https)
    if any(policies.of(one.extensions or {}).require_https for one in [Route("/", {}), *routes]):
        names.append(FORWARDED_PROTO_HEADER)
    names += [PROOF_HEADER, REQUEST_ID_HEADER]
    exact = [matcher.StringMatcher(exact=name) for name in dict.fromkeys(names)]
    return [*exact, matcher.StringMatcher(safe_regex=OWN_HEADERS)]


def check_timeout(settings: Settings) -> float:
    """Seconds after which Envoy gives up on a check: later than the sidecar does, or a slow store
    would be a 503 of Envoy's instead of the sidecar's fail mode.
    """
    waits = QUESTIONS * settings.store.timeout
    waits += settings.audit.timeout if settings.audit.path else 0
    return max(CHECK_TIMEOUT_MIN, round(waits + CHECK_TIMEOUT_MARGIN, 3))


def _ext_authz(
    settings: Settings, routes: Sequence[Route], tls: DownstreamTls | None, *, shadow: bool
) -> ext_authz.ExtAuthz:
    return ext_authz.ExtAuthz(
        transport_api_version=core.ApiVersion.V3,
        stat_prefix="authz",
        # No retry_policy: with one, a dead sidecar costs the whole timeout instead of 1 ms.
        grpc_service=core.GrpcService(
            envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=SIDECAR_CLUSTER),
            timeout=timedelta(seconds=check_timeout(settings)),
        ),
        # The sidecar has its own fail mode, on record. Envoy's would be silent.
        failure_mode_allow=False,
        status_on_error=envoy_type.HttpStatus(code=envoy_type.StatusCode.ServiceUnavailable),
        validate_mutations=True,
        # The sidecar may set its own headers and touch no others.
        decoder_header_mutation_rules=mutation_rules.HeaderMutationRules(
            disallow_all=True,
            allow_expression=OWN_HEADERS,
            disallow_is_error=True,
        ),
        allowed_headers=matcher.ListStringMatcher(patterns=allowed_headers(settings, routes)),
        shadow_mode=shadow,
        # 2 KB a check, so only where a token may be bound to it.
        include_peer_certificate=tls is not None and tls.client_ca_file is not None,
    )


def _connection_manager(
    settings: Settings, routes: Sequence[Route], tls: DownstreamTls | None, *, shadow: bool
) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix="ingress",
        codec_type=hcm.HttpConnectionManagerCodecType.AUTO,
        # An edge: what a client says in x-forwarded-for and x-forwarded-proto is overwritten.
        use_remote_address=True,
        # A path has one spelling before a route, and with it a policy, is chosen.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=(
            hcm.HttpConnectionManagerPathWithEscapedSlashesAction.UNESCAPE_AND_REDIRECT
        ),
        max_request_headers_kb=MAX_REQUEST_HEADERS_KB,
        stream_idle_timeout=timedelta(seconds=300),
        request_timeout=timedelta(seconds=300),
        request_headers_timeout=timedelta(seconds=10),
        common_http_protocol_options=core.HttpProtocolOptions(
            idle_timeout=timedelta(hours=1),
            max_headers_count=100,
            # Servers that read `_` as `-` would take x_authz_subject for ours.
            headers_with_underscores_action=(
                core.HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST
            ),
        ),
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=100,
            initial_stream_window_size=65_536,
            initial_connection_window_size=1_048_576,
        ),
        # Before routing, so that it also holds where ext_authz is switched off.
        early_header_mutation_extensions=[
            core.TypedExtensionConfig(
                name="envoy.http.early_header_mutation.header_mutation",
                typed_config=AnyMessage.pack(
                    early_header_mutation.HeaderMutation(
                        mutations=[
                            mutation_rules.HeaderMutation(
                                remove_on_match=mutation_rules.HeaderMutationRemoveOnMatch(
                                    key_matcher=matcher.StringMatcher(safe_regex=OWN_HEADERS)
                                )
                            )
                        ]
                    )
                ),
            )
        ],
        access_log=[
            accesslog.AccessLog(
                name="envoy.access_loggers.stdout",
                typed_config=AnyMessage.pack(
                    stream.StdoutAccessLog(
                        log_format=core.SubstitutionFormatString(
                            json_format=Struct.from_dict(ACCESS_LOG)
                        )
                    )
                ),
            )
        ],
        route_config=route.RouteConfiguration(
            name="routes",
            virtual_hosts=[
                route.VirtualHost(name="all", domains=["*"], routes=_routes(routes)),
            ],
        ),
        http_filters=[
            hcm.HttpFilter(
                name=EXT_AUTHZ_FILTER,
                typed_config=AnyMessage.pack(_ext_authz(settings, routes, tls, shadow=shadow)),
            ),
            hcm.HttpFilter(
                name="envoy.filters.http.router", typed_config=AnyMessage.pack(router.Router())
            ),
        ],
    )


def _listener(
    settings: Settings,
    address: str,
    routes: Sequence[Route],
    tls: DownstreamTls | None,
    *,
    shadow: bool,
) -> listener.Listener:
    return listener.Listener(
        name="ingress",
        address=_ip_address(address),
        per_connection_buffer_limit_bytes=CONNECTION_BUFFER,
        filter_chains=[
            listener.FilterChain(
                filters=[
                    listener.Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=AnyMessage.pack(
                            _connection_manager(settings, routes, tls, shadow=shadow)
                        ),
                    )
                ],
                transport_socket=None if tls is None else transport_socket(tls),
            )
        ],
    )


def _routes(routes: Sequence[Route]) -> list[route.Route]:
    """Longest prefix first, since Envoy takes the first that matches; at the end, everything."""
    by_prefix: dict[str, Route] = {"/": Route("/", {})}
    given: set[str] = set()
    for one in routes:
        prefix = one.prefix.rstrip("/") or "/"
        if not prefix.startswith("/") or any(c in prefix for c in "?#") or not prefix.isascii():
            raise BootstrapError(f"route {one.prefix!r} is not a path such as /public")
        if prefix in given:
            raise BootstrapError(f"route {one.prefix!r} is given twice")
        given.add(prefix)
        by_prefix[prefix] = Route(prefix, one.extensions)
    ordered = sorted(by_prefix.values(), key=lambda r: (-len(r.prefix), r.prefix))
    return [
        route.Route(
            match=(
                route.RouteMatch(prefix="/")
                if one.prefix == "/"
                else route.RouteMatch(path_separated_prefix=one.prefix)
            ),
            route=route.RouteAction(cluster=UPSTREAM_CLUSTER),
            typed_per_filter_config=_per_route(one),
        )
        for one in ordered
    ]


def _per_route(one: Route) -> dict[str, AnyMessage]:
    if one.extensions is None:
        settings = ext_authz.ExtAuthzPerRoute(disabled=True)
    elif one.extensions:
        settings = ext_authz.ExtAuthzPerRoute(
            check_settings=ext_authz.CheckSettings(context_extensions=dict(one.extensions))
        )
    else:
        return {}
    return {EXT_AUTHZ_FILTER: AnyMessage.pack(settings)}


def _sidecar_cluster(settings: Settings) -> cluster.Cluster:
    http2 = core.Http2ProtocolOptions(
        connection_keepalive=core.KeepaliveSettings(
            interval=timedelta(seconds=30), timeout=timedelta(seconds=5)
        )
    )
    return cluster.Cluster(
        **_endpoint(SIDECAR_CLUSTER, sidecar_address(settings)),
        connect_timeout=timedelta(milliseconds=250),
        circuit_breakers=cluster.CircuitBreakers(
            thresholds=[
                cluster.CircuitBreakersThresholds(
                    max_pending_requests=1024, max_requests=4096, track_remaining=True
                )
            ]
        ),
        # A sidecar that says NOT_SERVING isn't asked: 503 at once, without waiting for a timeout.
        common_lb_config=cluster.ClusterCommonLbConfig(
            healthy_panic_threshold=envoy_type.Percent(value=0)
        ),
        health_checks=[
            core.HealthCheck(
                timeout=timedelta(seconds=1),
                interval=timedelta(seconds=2),
                # The default without traffic is a minute, a long time to be taken for dead.
                no_traffic_interval=timedelta(seconds=2),
                unhealthy_interval=timedelta(milliseconds=250),
                unhealthy_threshold=2,
                healthy_threshold=1,
                grpc_health_check=core.HealthCheckGrpcHealthCheck(service_name=CHECK_SERVICE),
            )
        ],
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": AnyMessage.pack(
                upstreams_http.HttpProtocolOptions(
                    explicit_http_config=upstreams_http.HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=http2
                    )
                )
            )
        },
    )


def _upstream_cluster(address: str) -> cluster.Cluster:
    return cluster.Cluster(
        **_endpoint(UPSTREAM_CLUSTER, address),
        connect_timeout=timedelta(seconds=5),
        per_connection_buffer_limit_bytes=CONNECTION_BUFFER,
    )


def _endpoint(name: str, address: str) -> dict[str, Any]:
    """The fields of a cluster with one endpoint; a host name is resolved by Envoy."""
    kind = cluster.ClusterDiscoveryType.STATIC
    if address.startswith("unix:"):
        where = core.Address(pipe=core.Pipe(path=address.removeprefix("unix:")))
    else:
        host, port = _host_port(address)
        try:
            # What listens on every address is asked on loopback.
            if (ip := ipaddress.ip_address(host)).is_unspecified:
                host = "127.0.0.1" if ip.version == 4 else "::1"  # noqa: PLR2004  the IP version
        except ValueError:
            kind = cluster.ClusterDiscoveryType.STRICT_DNS
        where = core.Address(socket_address=core.SocketAddress(address=host, port_value=port))
    return {
        "name": name,
        "type": kind,
        "load_assignment": endpoint.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=where)),
                    ]
                )
            ],
        ),
    }


def _ip_address(address: str) -> core.Address:
    host, port = _host_port(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise BootstrapError(f"{address!r}: Envoy listens on an IP address and a port") from None
    return core.Address(socket_address=core.SocketAddress(address=host, port_value=port))


def _host_port(address: str) -> tuple[str, int]:
    try:
        return split_host_port(address)
    except ValueError as error:
        raise BootstrapError(str(error)) from None


def _spell_out(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _spell_out(item)
    elif isinstance(value, dict):
        if value.get("@type", "").endswith(".ext_authz.v3.ExtAuthz"):
            value.setdefault("failure_mode_allow", False)
        if value.get("healthy_panic_threshold") == {}:
            value["healthy_panic_threshold"] = {"value": 0}
        for item in value.values():
            _spell_out(item)


class _Dumper(yaml.SafeDumper):
    """YAML whose lists are indented under their key, as in Envoy's own examples."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True
