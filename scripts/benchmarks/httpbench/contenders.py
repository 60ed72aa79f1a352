"""What a contender is: a server, and where it is asked."""

from __future__ import annotations

from typing import NamedTuple

from httpbench.bodies import Protocol
from httpbench.loads import ALONE, BUSY, Load
from httpbench.servers import Server

V2_PATH = "/v2/models/mlp/infer"
OURS, NOOP, BARE = "aoti_serve", "noop", "bare"
FASTEST_OF_RAY = "ray_serve_fast"
PEERS = ("ray_serve", FASTEST_OF_RAY, "litserve", "litserve_repaired", "pytriton", "fastapi")


class Endpoint(NamedTuple):
    """One thing that is measured: `name` is a family, or a family's setting after a comma.

    `echoes`: it answers with what it was sent, and computes nothing.
    """

    name: str
    path: str
    protocol: Protocol
    loads: tuple[Load, ...] = (BUSY, ALONE)
    echoes: bool = False


class Contender(NamedTuple):
    server: Server
    endpoints: tuple[Endpoint, ...]

    @property
    def name(self) -> str:
        return self.server.name


def family(name: str) -> str:
    """Whose setting an endpoint is."""
    return name.partition(",")[0]
