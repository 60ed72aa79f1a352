"""The gRPC server of one gateway process: calls of HTTP/2 streams, on the configured port."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AotiServeError, HeadersTooLarge, NotServed, TooManyCalls
from aoti_serve.gateway.client_facts import identity_from
from aoti_serve.gateway.grpc.call import GrpcCall, GrpcCalls, Method
from aoti_serve.gateway.grpc.statuses import ANSWER_HEAD, ID_KEY, NOT_GRPC, NOT_GRPC_TEXT, status_of, trailers
from aoti_serve.gateway.http2.connection import Http2Connection
from aoti_serve.gateway.http2.headers import Head, block_of
from aoti_serve.gateway.http2.receiver import NOBODY, Receiver
from aoti_serve.gateway.http2.stream import Stream
from aoti_serve.gateway.in_flight import RETRY_AFTER_S, BodyLimits, ReadingBudget
from aoti_serve.gateway.listener.port import WantedPort
from aoti_serve.gateway.listener.server import Listener
from aoti_serve.gateway.listener.shared import Shared
from aoti_serve.gateway.offload import Offload
from aoti_serve.protocol.unserved import LOADING, LOG_SETTINGS, REQUEST_TRACING, SHARED_MEMORY

KEY = "gateway.grpc_port"
MESSAGE_OVERHEAD = 2**20  # bytes: what a message may have beside tensors that are as large as a body may be


def grpc_listener(
    methods: Mapping[str, Method],
    budget: ReadingBudget,
    config: GatewayConfig,
    owner: str,
    clock: Callable[[], float] = time.monotonic,
) -> Listener:
    """A server that answers with `methods`, by their full names, at `grpc_port`. Messages count in `budget`."""
    assert config.grpc_port is not None
    bound = BodyLimits(config.max_body_bytes + MESSAGE_OVERHEAD, "gateway.max_body_bytes, and a megabyte beside it")
    offload, calls = Offload(), set[GrpcCall]()

    def connect(shared: Shared, surplus: bool) -> Http2Connection:
        of_all = GrpcCalls(config, bound, budget, offload, calls, shared.tasks)
        return Http2Connection(CallServer(methods, of_all).serve, shared, config, clock, surplus)

    return Listener(connect, WantedPort(config.host, config.grpc_port, owner, KEY), "h2", config, clock)


# Triton's methods.
_UNSERVED = {
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), LOADING),
    "TraceSetting": REQUEST_TRACING,
    "LogSettings": LOG_SETTINGS,
    **{
        f"{kind}SharedMemory{action}": SHARED_MEMORY
        for kind in ("System", "Cuda")
        for action in ("Status", "Register", "Unregister")
    },
}


class CallServer:
    """Makes a call of each request, or refuses it."""

    def __init__(self, methods: Mapping[str, Method], calls: GrpcCalls) -> None:
        self._methods = methods
        self._calls = calls

    def serve(self, stream: Stream, head: Head) -> Receiver:
        """The receiver of a new stream."""
        if head.method != "POST" or not _is_grpc(head.headers.get("content-type", "")):
            identity = identity_from(head.headers.get(ID_KEY))
            stream.respond(NOT_GRPC, NOT_GRPC_TEXT, block_of([(ID_KEY.encode(), identity.encode())]))
        elif head.too_large:
            config = self._calls.config
            _refuse(stream, head, HeadersTooLarge(max_bytes=config.max_header_bytes, max_headers=config.max_headers))
        elif (method := self._methods.get(head.path)) is None:
            _refuse(stream, head, self._not_served(head.path))
        elif len(self._calls.open) >= (limit := self._calls.config.max_connections):
            _refuse(stream, head, TooManyCalls(limit=limit, retry_after=RETRY_AFTER_S))
        else:
            return GrpcCall(stream, head, method, self._calls)
        return NOBODY

    def _not_served(self, path: str) -> NotServed:
        if (known := _UNSERVED.get(path.rpartition("/")[2])) is not None:
            return known
        names = ", ".join(name.rpartition("/")[2] for name in self._methods)
        return NotServed(what=f"the method {path}", instead=f"served are {names}")


def _is_grpc(content_type: str) -> bool:
    """Whatever the messages are; gRPC-Web, which begins likewise, is another protocol."""
    name = "application/grpc"
    return content_type == name or content_type.startswith((f"{name}+", f"{name};"))


def _refuse(stream: Stream, head: Head, error: AotiServeError) -> None:
    identity = identity_from(head.headers.get(ID_KEY))
    stream.refuse(ANSWER_HEAD + trailers(status_of(error), str(error), identity))
