"""Fixtures of the key tests."""

from collections.abc import Iterator

import pytest
from keys.origin import Origin

from support.certificates import Certificates


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment of whoever runs the tests would stand before loopback."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def tls_origin(certificates: Certificates) -> Iterator[Origin]:
    with Origin(certificates.server_context()) as origin:
        yield origin
