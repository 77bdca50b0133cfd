"""A server that answers OK to every check without looking at it: what a transport alone costs.

    python ok_only.py native|grpcio LISTEN [LISTEN ...] [--record FILE]

`grpcio` is grpcio's asyncio server on uvloop, bytes in and bytes out; `native` is the sidecar's
own. With `--record` the last request's bytes are kept in FILE, for load without Envoy. It is run as
a script of its own, so nothing of the load test is in its memory.
"""

import argparse
import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from authz.envoy_api import check_pb2
from authz.envoy_api.service import AUTHORIZATION_SERVICE, CheckService


def ok_response() -> bytes:
    """The smallest CheckResponse that says OK in so many words."""
    response = check_pb2.CheckResponse()
    response.ok_response.SetInParent()
    return response.SerializeToString()


OK = ok_response()


class Answers(Protocol):
    """What a server asks: a CheckRequest's bytes for a CheckResponse's."""

    def check(self, data: bytes) -> bytes: ...


class AnswersOk:
    def check(self, data: bytes) -> bytes:
        del data
        return OK


class Recorder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, data: bytes) -> bytes:
        self._path.write_bytes(data)  # blocks, but it is asked three times in all
        return OK


async def serve_grpcio(listen: Sequence[str], answers: Answers, stopping: asyncio.Event) -> None:
    import grpc  # deferred: the native server shall not carry it

    async def answer(data: bytes, context: object) -> bytes:
        del context
        return answers.check(data)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(AUTHORIZATION_SERVICE, {"Check": handler}),)
    )
    for address in listen:
        server.add_insecure_port(address)
    await server.start()
    await stopping.wait()
    await server.stop(0)


async def serve_native(listen: Sequence[str], answers: Answers, stopping: asyncio.Event) -> None:
    from authz.envoy_api.server import NativeServer  # deferred, as grpc is

    # All that it wants of a service is `check`.
    server = NativeServer(cast("CheckService", answers), listen)
    await server.start()
    await stopping.wait()
    await server.stop(0)


TRANSPORTS = {"grpcio": serve_grpcio, "native": serve_native}


async def serve(transport: str, listen: Sequence[str], answers: Answers) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await TRANSPORTS[transport](listen, answers, stopping)


def loop_factory() -> Any:
    try:
        import uvloop  # optional in the sidecar, too
    except ImportError:
        return None
    return uvloop.new_event_loop


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer OK to every check.")
    parser.add_argument("transport", choices=TRANSPORTS)
    parser.add_argument("listen", nargs="+", help="unix:/path or host:port")
    parser.add_argument("--record", type=Path, help="keep the last request's bytes here")
    options = parser.parse_args()
    answers = Recorder(options.record) if options.record else AnswersOk()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(options.transport, options.listen, answers))


if __name__ == "__main__":
    main()
