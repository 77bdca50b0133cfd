"""Which server the settings name, and what it brings with it."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from authz.envoy_api.grpcio_server import GrpcioServer
from authz.envoy_api.open import open_server
from authz.envoy_api.server import NativeServer
from authz.settings import Settings
from support.certificates import Certificates
from support.http2_client import Http2Client, framed, grpc_headers
from support.ports import LOOPBACK, free_port
from support.serving import Answers
from support.sidecar import default_issuer


def settings_of(folder: Path, **changes: Any) -> Settings:
    listen = [f"{LOOPBACK}:{free_port()}"]
    return Settings.model_validate(
        {"issuers": [default_issuer(folder)], "listen": listen, **changes}
    )


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, NativeServer),
        ({"transport": "native"}, NativeServer),
        ({"transport": "grpcio"}, GrpcioServer),
    ],
)
async def test_the_transport_is_chosen_by_name(
    tmp_path: Path, changes: dict[str, str], kind: type
) -> None:
    assert type(open_server(settings_of(tmp_path, **changes), Answers())) is kind


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_tls_is_passed_on(tmp_path: Path, certificates: Certificates, transport: str) -> None:
    tls = {"cert_file": certificates.server, "key_file": certificates.server_key}
    server = open_server(settings_of(tmp_path, transport=transport, listen_tls=tls), Answers())
    server.reload_tls()
    await server.stop(0)


def test_the_native_server_does_not_load_grpcio() -> None:
    """It takes 10 MiB, and a library more that bytes of strangers would reach."""
    program = (
        "import sys, authz.envoy_api.open\n"
        "print(*sorted({'grpc', 'grpc_health', 'betterproto2'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split() == []


def test_without_uvloop_it_serves_as_well() -> None:
    """A process of its own: here uvloop is loaded already."""
    with tempfile.TemporaryDirectory(prefix="authz-") as folder:
        program = (
            "import asyncio, sys\n"
            "sys.modules['uvloop'] = None\n"
            "from authz.envoy_api.server import NativeServer\n"
            "from authz.event_loop import loop_factory\n"
            "class Echo:\n"
            "    def check(self, data): return data\n"
            "async def main():\n"
            f"    server = NativeServer(Echo(), ['unix:{folder}/s'])\n"
            "    await server.start()\n"
            "    print(type(asyncio.get_running_loop()).__module__, flush=True)\n"
            "    await asyncio.to_thread(sys.stdin.read)\n"
            "    await server.stop(5)\n"
            "with asyncio.Runner(loop_factory=loop_factory()) as runner: runner.run(main())\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline().startswith("asyncio.")
            with Http2Client(f"unix:{folder}/s") as client:
                assert client.call(grpc_headers(), framed(b"x")).message == b"x"
            process.stdin.close()
            assert process.wait(20) == 0
        assert not list(Path(folder).iterdir())
