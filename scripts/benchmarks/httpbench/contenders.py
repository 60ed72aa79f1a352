"""What a contender is: a server, and where it is asked."""

from __future__ import annotations

from typing import Literal, NamedTuple

from httpbench.bodies import Protocol
from httpbench.loads import ALONE, BUSY, Load
from httpbench.servers import Server

V2_PATH = "/v2/models/mlp/infer"
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
OURS, NOOP, BARE = "aoti_serve", "noop", "bare"
GRPC, HTTP = f"{OURS}, gRPC", f"{OURS}, HTTP by h2load"
Client = Literal["wrk", "h2load"]
FASTEST_OF_RAY = "ray_serve_fast"
PEERS = ("ray_serve", FASTEST_OF_RAY, "litserve", "litserve_repaired", "pytriton", "fastapi")


class Endpoint(NamedTuple):
    """One thing that is measured: `name` is a family, or a family's setting after a comma.

    `echoes`: it answers with what it was sent, and computes nothing. `port`: another one than the server's own.
    """

    name: str
    path: str
    protocol: Protocol
    loads: tuple[Load, ...] = (BUSY, ALONE)
    echoes: bool = False
    port: int | None = None
    client: Client = "wrk"

    def url(self, server: str) -> str:
        """Where it is asked, if its server is at this URL."""
        base = server if self.port is None else f"{server.rpartition(':')[0]}:{self.port}"
        return base + self.path


class Contender(NamedTuple):
    server: Server
    endpoints: tuple[Endpoint, ...]

    @property
    def name(self) -> str:
        return self.server.name


def family(name: str) -> str:
    """Whose setting an endpoint is."""
    return name.partition(",")[0]
