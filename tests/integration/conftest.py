"""A sidecar on the run's cluster with the real Envoy in front, for the tests of one module."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import http
from support.cluster import ValkeyCluster
from support.envoy import Envoy, ExtAuthz
from support.grpc import CheckClient
from support.jwks import AUDIENCE, ISSUER, ec_key, jwk, jwks, rsa_key
from support.sidecar import KID, Sidecar
from support.upstream import Upstream

EC_KID = "test-ec"
"""The `kid` of `ec_key()`, which ISSUER has beside `rsa_key()` as KID."""

PATIENT_STORE = {"timeout": "2s"}
"""For tests that are not about outages: a busy machine is none."""

ROUTES: dict[str, Mapping[str, str] | None] = {
    "/public": {"authz.mode": "optional"},
    "/admin": {"authz.scopes": "admin"},
    "/read": {"authz.scopes": "read write"},
    "/orders": {"authz.audience": "orders"},
    "/misspelt": {"authz.scope": "admin"},
    "/unusable": {"authz.mode": "perhaps"},
    "/foreign": {"other.service": "x"},
    "/unchecked": None,
}
"""Path prefixes and their `context_extensions`; everywhere else there are none."""

Deploy = Callable[..., "Deployment"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A sidecar and the Envoy that asks it; behind both the echo upstream."""

    sidecar: Sidecar
    envoy: Envoy
    upstream: Upstream

    def get(self, path: str = "/", **request: Any) -> http.Response:
        """Through Envoy; the arguments are those of `support.http.request`."""
        return http.request(self.envoy.port, path, **request)

    @property
    def client(self) -> CheckClient:
        """Past Envoy, on the sidecar's Unix socket."""
        return self.sidecar.client


def issuer(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of ISSUER with an RSA and an EC key, for RS256, PS256 and ES256."""
    path = folder / "issuer.json"
    path.write_text(jwks(jwk(rsa_key(), KID), jwk(ec_key(), EC_KID)))
    return {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "algorithms": ["RS256", "PS256", "ES256"],
        "keys": {"jwks_file": str(path)},
        **changes,
    }


@pytest.fixture(scope="module")
def deploy(
    tmp_path_factory: pytest.TempPathFactory, _shared_cluster: ValkeyCluster, upstream: Upstream
) -> Iterator[Deploy]:
    """Start a sidecar on the cluster, or take one, and an Envoy in front:
    `deploy({"leeway": "0s"}, encode_raw_headers=True)`, `deploy(sidecar=…, routes={…})`.
    """
    _shared_cluster.reset()  # a module before may have ended with a node killed or frozen
    with ExitStack() as stack:

        def start(
            settings: Mapping[str, Any] | None = None,
            *,
            sidecar: Sidecar | None = None,
            **ext_authz: Any,
        ) -> Deployment:
            folder = tmp_path_factory.mktemp("deployment")
            if sidecar is None:
                defaults = {
                    "store": {"url": _shared_cluster.url, **PATIENT_STORE},
                    "issuers": [issuer(folder)],
                }
                sidecar = Sidecar(folder / "sidecar", {**defaults, **(settings or {})})
                stack.callback(sidecar.stop)
                sidecar.start()
            envoy = Envoy.for_sidecar(
                folder / "envoy",
                sidecar=sidecar.socket,
                upstream_port=upstream.port,
                ext_authz=ExtAuthz(**{"routes": ROUTES, **ext_authz}),
            )
            stack.callback(envoy.stop)
            return Deployment(sidecar, envoy.start(), upstream)

        yield start


@pytest.fixture(scope="module")
def deployment(deploy: Deploy) -> Deployment:
    """The plain one: every header is sent to the sidecar, joined, and the routes are ROUTES."""
    return deploy()
