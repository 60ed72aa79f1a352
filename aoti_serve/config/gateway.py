"""The section of the gateways: where they listen, and the limits of their clients."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from aoti_serve.config.scaling import ReplicaCount
from aoti_serve.config.values import PortNumber, Seconds, WatchedPath
from aoti_serve.signature.tensors import Frozen

# As browsers send it; "*" is any.
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s,*A-Z]+)$")]


class Tls(Frozen):
    """PEM files of the listener: its certificate with the chain behind it, and its private key."""

    certificate: WatchedPath
    key: WatchedPath


class WeightsLimits(Frozen):
    """The limits of every file of weights. They are keys of `gateway`; the coordinators apply them."""

    max_weights_bytes: PositiveInt = 16 * 2**30
    max_weights_tensors: PositiveInt = 100_000
    max_weights_header_bytes: PositiveInt = 16 * 2**20


class GatewayConfig(WeightsLimits):
    """The gateways, and the limits of their clients. Sizes in bytes, times in seconds, limits of requests per gateway.

    With `http_port: null` gateways do not listen; they answer through Serve's own proxies only. gRPC is answered at
    `grpc_port`, unless that is null, within the same limits. `docs` shows all routes at `/docs`, `console` a page at
    `/console`.
    A request's headers may take `header_timeout_s`, its body `body_timeout_s` and a second more for each
    `min_body_bytes_per_s` of it; a connection without a request is closed after `idle_timeout_s`, one that does not
    take its answer after `write_timeout_s`. `max_reading_bytes` is for all bodies that are being read or answered, but
    for those of up to 64 KiB. `max_json_bytes` and `max_json_values` are for the JSON of a request: nothing else runs
    while it is read.
    Within `probe_period_s` a replica whose runs fail, or end no more, gets no further requests; a model that nobody
    asks is probed for that. With null it is not, and a replica that is connected counts as ready.
    `admin_tokens` and `inference_tokens` are files of tokens, read by each gateway on its own node and again when they
    change: who may change weights, and who may ask. Without the first, the token of the server's user opens the weights
    API; without the second, everybody may ask. `cors_origins` are the origins of web pages that may ask, over HTTP.
    """

    host: str = "127.0.0.1"
    http_port: PortNumber | None = 8000
    grpc_port: PortNumber | None = 8001
    tls: Tls | None = None
    admin_tokens: WatchedPath | None = None
    inference_tokens: WatchedPath | None = None
    cors_origins: tuple[Origin, ...] = ()
    replicas: ReplicaCount = 1
    access_log: Annotated[float, Field(ge=0, le=1)] = 0.0
    docs: bool = True
    console: bool = True
    probe_period_s: Seconds | None = 10.0
    max_connections: PositiveInt = 4096
    max_header_bytes: PositiveInt = 32 * 2**10
    max_headers: PositiveInt = 100
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    min_body_bytes_per_s: PositiveInt = 2**20
    idle_timeout_s: Seconds = 60.0
    write_timeout_s: Seconds = 60.0
    max_reading_bytes: PositiveInt = 512 * 2**20
    max_body_bytes: PositiveInt = 64 * 2**20
    max_json_bytes: PositiveInt = 8 * 2**20
    max_json_values: PositiveInt = 2**19
    max_request_tensors: PositiveInt = 256
    max_request_rows: PositiveInt = 65_536

    @model_validator(mode="after")
    def _room_for_a_body(self) -> GatewayConfig:
        if self.max_reading_bytes < self.max_body_bytes:
            raise ValueError("max_reading_bytes is below max_body_bytes: a body that large could never be read")
        return self

    @model_validator(mode="after")
    def _two_ports(self) -> GatewayConfig:
        if self.grpc_port is not None and self.grpc_port == self.http_port:
            raise ValueError(
                f"http_port and grpc_port are both {self.http_port}; change one, or write `grpc_port: null`"
            )
        return self
