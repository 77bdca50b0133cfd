"""Envoy's readiness and metrics for probes and Prometheus, without the rest of its admin interface.

Whoever reaches the admin interface can stop Envoy, so that stays on loopback. Kubernetes' probes
and Prometheus come to the pod's own address: a listener of its own passes on two paths, and GET
and HEAD only.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any as AnyMessage

ADMIN_CLUSTER = "admin"
PATHS = ("/ready", "/stats/prometheus")


def metrics_listener(address: core.Address) -> listener.Listener:
    """Answers `PATHS` at `address`, and 404 to all else."""
    reading = route.HeaderMatcher(
        name=":method", string_match=matcher.StringMatcher(safe_regex=matcher.RegexMatcher(
            regex="GET|HEAD"
        ))
    )  # fmt: skip
    routes = [
        route.Route(
            match=route.RouteMatch(path=path, headers=[reading]),
            route=route.RouteAction(cluster=ADMIN_CLUSTER, timeout=timedelta(seconds=5)),
        )
        for path in PATHS
    ]
    manager = hcm.HttpConnectionManager(
        stat_prefix="metrics",
        codec_type=hcm.HttpConnectionManagerCodecType.AUTO,
        normalize_path=True,
        request_headers_timeout=timedelta(seconds=5),
        stream_idle_timeout=timedelta(seconds=10),
        route_config=route.RouteConfiguration(
            name="metrics",
            virtual_hosts=[route.VirtualHost(name="metrics", domains=["*"], routes=routes)],
        ),
        http_filters=[
            hcm.HttpFilter(
                name="envoy.filters.http.router", typed_config=AnyMessage.pack(router.Router())
            )
        ],
    )
    return listener.Listener(
        name="metrics",
        address=address,
        filter_chains=[
            listener.FilterChain(
                filters=[
                    listener.Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=AnyMessage.pack(manager),
                    )
                ]
            )
        ],
        # Probes must not fail for the connections of others.
        ignore_global_conn_limit=True,
    )


def admin_cluster(address: core.Address) -> cluster.Cluster:
    """Envoy's own admin interface."""
    return cluster.Cluster(
        name=ADMIN_CLUSTER,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=ADMIN_CLUSTER,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address)),
                    ]
                )
            ],
        ),
    )
