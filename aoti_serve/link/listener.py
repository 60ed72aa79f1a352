"""Listens for links: on a Unix socket in a private folder, and on a TCP port for other nodes."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from asyncio import Task
from typing import Generic, TypeVar

from aoti_serve.folders import ProcessFolder
from aoti_serve.link.handshake import ListeningEnd

PREFIX, SOCKET = "aoti-sockets-", "link"

End = TypeVar("End", bound=ListeningEnd)


class LinkListener(ABC, Generic[End]):
    """Lives in an event loop. A caller must know `key`. `ends` are the established connections."""

    def __init__(self, beat_s: float) -> None:
        self.key = secrets.token_bytes(32)
        self.ends: set[End] = set()
        self._beat_s = beat_s
        self._folder = ProcessFolder(PREFIX)  # no other user can even connect
        self._listeners: list[asyncio.Server] = []
        self._ticking: Task[None] | None = None

    @property
    def path(self) -> str:
        return str(self._folder.path / SOCKET)

    @abstractmethod
    def end(self) -> End:
        """The protocol of a new connection."""

    async def tick(self) -> None:
        """Send beats on all connections. Runs as a task while this listens."""
        while True:
            await asyncio.sleep(self._beat_s)
            for end in list(self.ends):
                end.beat()

    async def open(self) -> None:
        """Listen for callers on this node."""
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_unix_server(self.end, self.path))
        self._ticking = loop.create_task(self.tick())

    async def open_to_nodes(self, host: str) -> int:
        """Listen for callers on other nodes as well; returns the port."""
        listener = await asyncio.get_running_loop().create_server(self.end, host, 0)
        self._listeners.append(listener)
        port: int = listener.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """End all connections, and leave nothing behind."""
        if self._ticking is not None:
            self._ticking.cancel()
        for listener in self._listeners:
            listener.close()
        for end in list(self.ends):
            end.transport.close()
        self._folder.remove()
