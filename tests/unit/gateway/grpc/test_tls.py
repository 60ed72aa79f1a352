"""gRPC over TLS, with the certificate of HTTPS."""

from __future__ import annotations

from pathlib import Path

import grpc

from aoti_serve.config import GatewayConfig
from tests.unit.gateway.grpc.test_server import Echo, call, listener_of, raw_of, request
from tests.unit.gateway.listener.test_tls import made
from tests.unit.gateway.listener.wired import HOST, free_port
from tests.unit.gateway.plane import Plane


async def test_calls_are_answered_over_tls_and_without_it_they_are_not(tmp_path: Path) -> None:
    config = GatewayConfig(host=HOST, grpc_port=free_port(), tls=made(tmp_path))
    assert config.tls is not None
    listener = listener_of(Plane(Echo(config), config.max_reading_bytes), config)
    await listener.open()
    trusted = grpc.ssl_channel_credentials(Path(config.tls.certificate).read_bytes())
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.secure_channel(f"{HOST}:{config.grpc_port}", trusted, options) as channel:
        for rows in (1, 8):
            assert len(raw_of(await call(channel, "ModelInfer", request(rows)))) == rows * 8
    async with grpc.aio.insecure_channel(f"{HOST}:{config.grpc_port}", options) as channel:
        assert await call(channel, "ServerLive").code() is grpc.StatusCode.UNAVAILABLE
    await listener.close(0)
