"""Listens for links: on a Unix socket in a private folder, and on a TCP port for other nodes."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from asyncio import Task
from pathlib import Path
from typing import Generic, TypeVar

from aoti_serve.link.handshake import ListeningEnd

PREFIX, SOCKET = "aoti-link-", "link"
STARTING_S = 60.0  # between its socket's file and its first connection a process looks like a dead one

End = TypeVar("End", bound=ListeningEnd)


class LinkListener(ABC, Generic[End]):
    """Lives in an event loop. A caller must know `key`. `ends` are the established connections."""

    def __init__(self, beat_s: float) -> None:
        self.key = secrets.token_bytes(32)
        self.ends: set[End] = set()
        self._beat_s = beat_s
        self._folder = socket_folder()  # no other user can even connect
        self._listeners: list[asyncio.Server] = []
        self._ticking: Task[None] | None = None

    @property
    def path(self) -> str:
        return str(self._folder / SOCKET)

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
        shutil.rmtree(self._folder, ignore_errors=True)


def socket_folder() -> Path:
    """A new folder that only this user may enter. Folders of this user in which no process listens are removed."""
    made = Path(tempfile.mkdtemp(prefix=PREFIX))
    for folder in made.parent.glob(f"{PREFIX}*"):
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
    return made


def _abandoned(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            started = folder.stat().st_mtime
            probe.connect(str(folder / SOCKET))
        except ConnectionRefusedError:
            return time.time() - started > STARTING_S
        except OSError:  # another user's, or gone, or of a process that is stopped
            return False
    return False
