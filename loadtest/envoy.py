"""The Envoy under load: what `authz envoy` prints, with a listener for each way of deciding."""

import json
from collections.abc import Mapping
from typing import Any

from authz.envoy_api.bootstrap import EXT_AUTHZ_FILTER, as_mapping, build_bootstrap
from authz.settings import Settings
from loadtest.subjects import Way
from loadtest.tokens import AUDIENCE, ISSUER, TOKENS

BODY = "ok\n"
NO_UPSTREAM = "127.0.0.1:1"  # build_bootstrap wants one; its cluster is taken out again
MAX_REQUEST_HEADERS_KB = 96
"""`authz envoy` has 32, and 60 are sent here. Envoy takes up to 8192."""
JWT_CACHE_SIZE = 2 * TOKENS
"""Envoy's default is 100: every token of a run has room, and those of its warm-up."""


def bootstrap(
    ports: Mapping[str, int],
    settings: Mapping[str, Settings],
    *,
    public_key: Mapping[str, Any],
    admin: int,
) -> Any:
    """In JSON form: for each name a listener on its port. `settings` has those of the sidecar it
    asks, of all but the ways `none` and `jwt-authn`. `public_key` is the JWK of the issuer.

    Four things differ from what `authz envoy` prints, for all alike. The route answers by itself,
    so that no upstream is measured. There is no access log, which would fill a disk. The sidecars'
    health isn't checked: only what is asked should be at work. Headers may be larger.
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
        listener["name"] = name
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        _answer_without_upstream(manager)
        _decide(manager, name, public_key)
        listeners.append(listener)
        if name in settings:
            cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
            del cluster["health_checks"]
            clusters.append(cluster)
    return {**one, "static_resources": {"listeners": listeners, "clusters": clusters}}


def _answer_without_upstream(manager: Any) -> None:
    del manager["access_log"]
    manager["max_request_headers_kb"] = MAX_REQUEST_HEADERS_KB
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        del route["route"]
        route["direct_response"] = {"status": 200, "body": {"inline_string": BODY}}


def _decide(manager: Any, name: str, public_key: Mapping[str, Any]) -> None:
    """Set the filters of a listener: the sidecar's, Envoy's own, or none."""
    ext_authz, router = manager["http_filters"]
    if ext_authz["name"] != EXT_AUTHZ_FILTER:
        raise AssertionError("the bootstrap of `authz envoy` has changed: see loadtest/envoy.py")
    if name == Way.NONE:
        manager["http_filters"] = [router]
    elif name == Way.JWT_AUTHN:
        manager["http_filters"] = [_jwt_authn(public_key), router]
    else:
        ext_authz["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = name
        if name == Way.ALL_HEADERS:
            del ext_authz["typed_config"]["allowed_headers"]


def _jwt_authn(public_key: Mapping[str, Any]) -> dict[str, Any]:
    """Envoy's filter for the same issuer: signature, times, audience; tokens are remembered."""
    package = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3"
    provider = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "forward": True,
        "local_jwks": {"inline_string": json.dumps({"keys": [public_key]})},
        "jwt_cache_config": {"jwt_cache_size": JWT_CACHE_SIZE},
    }
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": f"{package}.JwtAuthentication",
            "providers": {"issuer": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
        },
    }
