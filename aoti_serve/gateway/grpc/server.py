"""The gRPC server of one gateway process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import grpc

from aoti_serve.config import GatewayConfig, Tls
from aoti_serve.errors import BadCertificate, PortTaken
from aoti_serve.gateway.listener.port import WantedPort, claim_port, listening_sockets

KEY = "gateway.grpc_port"
MESSAGE_OVERHEAD = 2**20  # bytes: what a message may have beside tensors that are as large as a body may be


class GrpcListener(grpc.GenericRpcHandler):
    """A gRPC server that answers with `methods`, by their full names, on the configured port.

    Lives in the event loop in which `open` was awaited. Gateways of one application share the port, as with HTTP.
    gRPC itself holds these limits: the length of messages and metadata, the calls at once, idle connections.
    """

    def __init__(
        self, methods: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]], config: GatewayConfig, owner: str
    ) -> None:
        self._methods = methods
        self._config = config
        self._owner = owner
        self._server = grpc.aio.server(
            handlers=[self],
            options=_options(config),
            maximum_concurrent_rpcs=config.max_connections,
        )
        self._claims = ExitStack()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The method of a call; gRPC answers UNIMPLEMENTED where there is none."""
        return self._methods.get(handler_call_details.method)

    async def open(self) -> None:
        """Claim the port, and listen. Raises PortTaken, BadCertificate, or StartFailed."""
        config = self._config
        assert config.grpc_port is not None
        credentials = None if config.tls is None else tls_credentials(config.tls)
        wanted = WantedPort(config.host, config.grpc_port, self._owner, KEY)
        claims = await asyncio.to_thread(claim_port, wanted)
        for claim in claims.values():
            self._claims.callback(claim.release)
        try:
            for address in claims:
                self._listen(
                    f"[{address}]:{wanted.port}" if ":" in address else f"{address}:{wanted.port}", credentials
                )
        except RuntimeError:  # gRPC says nothing more
            self._claims.close()
            raise PortTaken(
                port=wanted.port, host=wanted.host, holder=listening_sockets(wanted.port), key=KEY
            ) from None
        await self._server.start()

    def _listen(self, address: str, credentials: grpc.ServerCredentials | None) -> None:
        if credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, credentials)

    async def close(self, seconds: float) -> None:
        """Take no new calls, and let those in flight end; after `seconds` they are cut."""
        await self._server.stop(seconds)
        self._claims.close()


def _options(config: GatewayConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", config.max_body_bytes + MESSAGE_OVERHEAD),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", config.max_header_bytes),
        ("grpc.max_connection_idle_ms", int(config.idle_timeout_s * 1e3)),
    ]


def tls_credentials(tls: Tls) -> grpc.ServerCredentials:
    """The credentials of a gRPC server. Raises BadCertificate if the files cannot be read."""
    try:
        pair = Path(tls.key).read_bytes(), Path(tls.certificate).read_bytes()
    except OSError as error:
        raise BadCertificate(certificate=tls.certificate, key=tls.key, detail=str(error)) from None
    return grpc.ssl_server_credentials([pair])
