"""A server that answers OK to every check without looking at it: what the transport alone costs.

    python baseline.py LISTEN [LISTEN ...] [--record FILE]

The transport is the sidecar's: grpcio's asyncio server on uvloop, bytes in and bytes out. With
`--record` the last request's bytes are kept in FILE, for h2load to send again.
"""

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from authz.envoy_api import check_pb2
from authz.envoy_api.service import AUTHORIZATION_SERVICE

Context = grpc.aio.ServicerContext[bytes, bytes]
Answer = Callable[[bytes, Context], Awaitable[bytes]]


def ok_response() -> bytes:
    """The smallest CheckResponse that says OK in so many words."""
    response = check_pb2.CheckResponse()
    response.ok_response.SetInParent()
    return response.SerializeToString()


OK = ok_response()


async def answer_ok(data: bytes, context: Context) -> bytes:
    del data, context
    return OK


def recorder(path: Path) -> Answer:
    async def record(data: bytes, context: Context) -> bytes:
        del context
        await asyncio.to_thread(path.write_bytes, data)
        return OK

    return record


async def serve(listen: Sequence[str], answer: Answer) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
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


def loop_factory() -> Any:
    try:
        import uvloop  # optional in the sidecar, too
    except ImportError:
        return None
    return uvloop.new_event_loop


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer OK to every check.")
    parser.add_argument("listen", nargs="+", help="unix:/path or host:port")
    parser.add_argument("--record", type=Path, help="keep the last request's bytes here")
    options = parser.parse_args()
    answer = recorder(options.record) if options.record else answer_ok
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(options.listen, answer))


if __name__ == "__main__":
    main()
