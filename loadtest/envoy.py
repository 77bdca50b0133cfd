"""The Envoy under load: what `authz envoy` prints, with a listener for each server of checks."""

from collections.abc import Mapping
from typing import Any

from authz.envoy_api.bootstrap import EXT_AUTHZ_FILTER, as_mapping, build_bootstrap
from authz.settings import Settings
from loadtest.tools import PACED_STREAMS

BODY = "ok\n"
NO_UPSTREAM = "127.0.0.1:1"  # build_bootstrap wants one; its cluster is taken out again


def bootstrap(ports: Mapping[str, int], settings: Mapping[str, Settings], admin: int) -> Any:
    """In JSON form: for each name a listener on its port, which asks the sidecar of its settings.
    A name without settings has no ext_authz filter.

    Four things differ from what `authz envoy` prints, for all alike. The route answers by itself,
    so that no upstream is measured. There is no access log, which would fill a disk. The sidecars'
    health isn't checked: only what is asked should be at work. A connection may have as many
    streams as an open loop needs.
    """
    some = next(iter(settings.values()))
    listeners, clusters = [], []
    for name, port in ports.items():
        one = as_mapping(
            build_bootstrap(
                settings.get(name, some),
                listen=f"127.0.0.1:{port}",
                upstream=NO_UPSTREAM,
                admin=f"127.0.0.1:{admin}",
            )
        )
        (listener,) = one["static_resources"]["listeners"]
        cluster = one["static_resources"]["clusters"][0]
        _rename(listener, cluster, name, asks=name in settings)
        listeners.append(listener)
        if name in settings:
            clusters.append(cluster)
    return {**one, "static_resources": {"listeners": listeners, "clusters": clusters}}


def _rename(listener: Any, cluster: Any, name: str, *, asks: bool) -> None:
    listener["name"] = name
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
    del cluster["health_checks"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["access_log"]
    manager["http2_protocol_options"]["max_concurrent_streams"] = PACED_STREAMS
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        del route["route"]
        route["direct_response"] = {"status": 200, "body": {"inline_string": BODY}}
    ext_authz, router = manager["http_filters"]
    if ext_authz["name"] != EXT_AUTHZ_FILTER:
        raise AssertionError("the bootstrap of `authz envoy` has changed: see loadtest/envoy.py")
    ext_authz["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = name
    manager["http_filters"] = [ext_authz, router] if asks else [router]
