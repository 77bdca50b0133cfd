"""Fixtures that many tests share, and the marker `needs_tool`."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from support.certificates import Certificates, make_certificates
from support.cluster import ValkeyCluster
from support.envoy import Envoy, ExtAuthz
from support.network import can_unshare
from support.openbao import OpenBao
from support.sidecar import Sidecar
from support.upstream import Upstream
from support.valkey import ValkeyServer

StartCluster = Callable[..., ValkeyCluster]
StartEnvoy = Callable[..., Envoy]
StartSidecar = Callable[..., Sidecar]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`needs_tool(name)` skips where the program is absent, and `needs_namespaces` where this user
    may make none; except in CI, where all must be.
    """
    for mark in item.iter_markers("needs_tool"):
        (name,) = mark.args
        if not shutil.which(name):
            _skip(f"needs the program {name!r} on PATH; .ci/run installs it")
    if item.get_closest_marker("needs_namespaces") and not can_unshare():
        _skip("needs root on Linux, for namespaces of networks and mounts")


def _skip(why: str) -> None:
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        pytest.fail(f"in CI nothing is skipped: {why}", pytrace=False)
    pytest.skip(why)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A command that a test runs in this process sets up logging for the whole of it, towards a
    stream that is gone after the test.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A single, empty server without a password."""
    with ValkeyServer(tmp_path / "valkey") as server:
        yield server


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """Unsealed, and to be left so. Each test has keys of its own in it."""
    with OpenBao(tmp_path_factory.mktemp("openbao")) as openbao:
        yield openbao


@pytest.fixture(scope="session")
def _shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    cluster = ValkeyCluster(tmp_path_factory.mktemp("cluster")).start()
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(_shared_cluster: ValkeyCluster) -> ValkeyCluster:
    """Three masters and three replicas, all well, no key in them. A test may kill, freeze and move
    what it likes; the next one gets the cluster healed.
    """
    _shared_cluster.reset()
    return _shared_cluster


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[StartCluster]:
    """Start a cluster of the test's own: `start_cluster(password=…, tls=…)`. Takes two seconds."""
    with ExitStack() as stack:

        def start(**options: Any) -> ValkeyCluster:
            name = f"cluster-{len(list(tmp_path.glob('cluster-*')))}"
            cluster = ValkeyCluster(tmp_path / name, **options)
            stack.callback(cluster.stop)
            return cluster.start()

        yield start


@pytest.fixture
def start_sidecar(tmp_path: Path) -> Iterator[StartSidecar]:
    """Start a sidecar: `start_sidecar({"store": {…}}, AUTHZ_FAIL_MODE="closed")`."""
    with ExitStack() as stack:

        def start(settings: Mapping[str, Any] | None = None, **env: str) -> Sidecar:
            name = f"sidecar-{len(list(tmp_path.glob('sidecar-*')))}"
            sidecar = Sidecar(tmp_path / name, settings, **env)
            stack.callback(sidecar.stop)
            return sidecar.start()

        yield start


@pytest.fixture
def start_envoy(tmp_path: Path, upstream: Upstream) -> Iterator[StartEnvoy]:
    """Start an Envoy that asks a sidecar: `start_envoy(sidecar.socket, routes={"/public": {…}})`.
    Further arguments are the fields of `ExtAuthz`.
    """
    with ExitStack() as stack:

        def start(sidecar: str, **ext_authz: Any) -> Envoy:
            envoy = Envoy.for_sidecar(
                tmp_path / f"envoy-{len(list(tmp_path.glob('envoy-*')))}",
                sidecar=sidecar,
                upstream_port=upstream.port,
                ext_authz=ExtAuthz(**ext_authz),
            )
            stack.callback(envoy.stop)
            return envoy.start()

        yield start
