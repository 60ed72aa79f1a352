"""The section of the gateways: where they listen, and the limits of their clients."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from aoti_serve.config.scaling import ReplicaCount
from aoti_serve.config.values import Form, PortNumber, Seconds, WatchedPath
from aoti_serve.signature.tensors import Frozen

# As browsers send it; "*" is any.
Origin = Annotated[
    str, Form(r"\*|[a-z][a-z0-9+.-]*://[^/\s,*A-Z]+", "an origin, such as https://example.org without a path, or *")
]


class Tls(Frozen):
    """PEM files of the listener, for HTTPS and gRPC.

    Where the system does not know their authority, commands take it from `SSL_CERT_FILE`.
    """

    certificate: WatchedPath
    """With the chain behind it."""
    key: WatchedPath
    """The private key."""


class WeightsLimits(Frozen):
    """The limits of every file of weights. They are keys of `gateway`; the coordinators apply them."""

    max_weights_bytes: PositiveInt = 16 * 2**30
    """Of a file of weights."""
    max_weights_tensors: PositiveInt = 100_000
    """In a file of weights."""
    max_weights_header_bytes: PositiveInt = 16 * 2**20
    """Of the header of a file of weights."""


class GatewayConfig(WeightsLimits):
    """The gateways, and the limits of their clients: sizes in bytes, times in seconds, for each gateway."""

    host: str = "127.0.0.1"
    """Where gateways listen."""
    http_port: PortNumber | None = 8000
    """Null: they do not listen, and answer through Serve's own proxies only."""
    grpc_port: PortNumber | None = 8001
    """Where the same gateways answer over gRPC, within the same limits; null: they do not."""
    tls: Tls | None = None
    """Without it the listener does not encrypt."""
    admin_tokens: WatchedPath | None = None
    """A file of tokens, a line each, on every node with a gateway, read again when it changes: who may change
    weights. Null: who has the token of the server's user.
    """
    inference_tokens: WatchedPath | None = None
    """A file as `admin_tokens`: who may ask. Null: everybody."""
    cors_origins: tuple[Origin, ...] = ()
    """Of web pages that may ask over HTTP and read the answers, such as `[https://app.example]`, or `["*"]` for
    any.
    """
    replicas: ReplicaCount = 1
    """Gateways: a count, or bounds for autoscaling, by requests in hand."""
    access_log: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A line for each request, over HTTP and gRPC, to the logger `aoti_serve.access`: `true`, `false`, or for a
    part of them, such as 0.01.
    """
    docs: bool = True
    """Whether gateways show their routes: `/docs`, `/openapi.json`. With `inference_tokens` the document asks for
    one, and the page, which has none, cannot show it.
    """
    console: bool = True
    """Whether gateways show the page `/console` (docs/guides/console.md)."""
    probe_period_s: Seconds | None = 10.0
    """Within that a replica whose runs fail, or end no more, gets no further requests; longer if its runs take
    more than a twentieth of it. A model that nobody asks is probed twice in it, with the smallest inputs that it
    takes. Null: never, and a replica that is connected counts as ready.
    """
    max_connections: PositiveInt = 4096
    """Open at once, over HTTP and over gRPC, and gRPC calls under way; beyond it a 503, RESOURCE_EXHAUSTED."""
    max_header_bytes: PositiveInt = 32 * 2**10
    """Of a request; beyond it a 431."""
    max_headers: PositiveInt = 100
    """Of a request; beyond it a 431."""
    header_timeout_s: Seconds = 10.0
    """Within that the headers must have come; else a 408."""
    body_timeout_s: Seconds = 30.0
    """A body may take that, and longer only at `min_body_bytes_per_s`; else a 408."""
    min_body_bytes_per_s: PositiveInt = 2**20
    """The least pace of a body that takes longer than `body_timeout_s`."""
    idle_timeout_s: Seconds = 60.0
    """Then a connection without a further request is closed."""
    write_timeout_s: Seconds = 60.0
    """Then a connection is closed whose client takes nothing of its answer."""
    max_reading_bytes: PositiveInt = 512 * 2**20
    """Bodies of all requests that are being read or answered, but for those of up to 64 KiB; beyond it a 503.

    The messages of one gRPC stream count as one body, together with the answers that wait behind another one.
    """
    max_body_bytes: PositiveInt = 64 * 2**20
    """Of a request, compressed or not; beyond it a 413."""
    max_json_bytes: PositiveInt = 8 * 2**20
    """Of a request's JSON, binary tensors not counted; beyond it a 413. Nothing else runs while it is read."""
    max_json_values: PositiveInt = 2**19
    """Numbers and such in a request's JSON; beyond it a 413."""
    max_request_tensors: PositiveInt = 256
    """Inputs, or outputs, that a request may name; beyond it a 400."""
    max_request_rows: PositiveInt = 65_536
    """Of a request; beyond it a 400."""

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
