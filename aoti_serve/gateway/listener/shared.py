"""What the connections of one listener have in common."""

from __future__ import annotations

import asyncio
from typing import Protocol

from uvicorn.server import ServerState

from aoti_serve.gateway.request_log import RequestLog


class Connection(Protocol):
    """A client's connection, as its listener sees it."""

    transport: asyncio.Transport

    def look(self, now: float, elapsed: float) -> None:
        """End it if it takes too long. `elapsed` is the time in seconds since the last call."""

    def shutdown(self) -> None:
        """Let the client know that this server takes no more requests soon."""

    def end_if_quiet(self, now: float, seconds: float) -> None:
        """End it if no request has begun for `seconds`, and none waits in the socket."""


class Shared(ServerState):
    """State that all connections of a listener share. `tasks` answer requests; while `leaving`, each answer is its
    connection's last.
    """

    connections: set[Connection]  # type: ignore[assignment]

    def __init__(self, log: RequestLog) -> None:
        super().__init__()
        self.leaving = False
        self.log = log
