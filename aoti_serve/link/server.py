"""The replica's end of its links."""

from __future__ import annotations

import asyncio
import logging
import shutil
from asyncio import Task
from collections.abc import Awaitable, Callable

from aoti_serve.errors import LinkBroken
from aoti_serve.link.connection import LinkConnection
from aoti_serve.link.folder import SOCKET, socket_folder
from aoti_serve.link.frames import Frame, Kind
from aoti_serve.link.handshake import INTRODUCTION, greeting, key, read_introduction
from aoti_serve.link.messages import AnswerMessage, BatchMessage, answer_bytes, batch_of, failure_bytes

logger = logging.getLogger("ray.serve")
BEAT_S = 0.25

BatchHandler = Callable[[str, BatchMessage], Awaitable[AnswerMessage]]


class LinkServer:
    """Takes batches from every gateway, and answers. Lives in the replica's event loop.

    `run(gateway, batch)` answers a batch of the gateway of that name; it is cancelled when nobody waits for the answer
    any more. `key` is what a gateway must know.
    """

    def __init__(self, run: BatchHandler) -> None:
        self.key = key()
        self.run = run
        self.busy = 0
        self._folder = socket_folder()  # nobody else can even connect
        self._listeners: list[asyncio.Server] = []
        self._links: set[ReplicaEnd] = set()
        self._leaving = False
        self._changed = asyncio.Event()
        self._beating: Task[None] | None = None

    @property
    def path(self) -> str:
        return str(self._folder / SOCKET)

    async def open(self) -> None:
        """Listen for gateways on this node."""
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_unix_server(self._end, self.path))
        self._beating = loop.create_task(self._beat())

    async def open_to_nodes(self, host: str) -> int:
        """Listen for gateways on other nodes as well; the port."""
        listener = await asyncio.get_running_loop().create_server(self._end, host, 0)
        self._listeners.append(listener)
        port: int = listener.sockets[0].getsockname()[1]
        return port

    async def leave(self, seconds: float) -> bool:
        """Have no new batches sent, and answer what is in hand; whether that was done in time."""
        self._leaving = True
        for link in self._links:
            link.leave()
        try:
            async with asyncio.timeout(seconds):
                while self.busy or not all(link.left for link in self._links):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """End all links, and leave nothing behind."""
        if self._beating is not None:
            self._beating.cancel()
        for listener in self._listeners:
            listener.close()
        for link in list(self._links):
            link.transport.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def opened(self, link: ReplicaEnd) -> None:
        self._links.add(link)
        if self._leaving:
            link.leave()

    def ended(self, link: ReplicaEnd) -> None:
        self._links.discard(link)
        self._changed.set()

    def began(self) -> None:
        self.busy += 1

    def done(self) -> None:
        self.busy -= 1
        self._changed.set()

    def heard(self) -> None:
        """A gateway has heard that this replica leaves."""
        self._changed.set()

    def _end(self) -> ReplicaEnd:
        return ReplicaEnd(self)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for link in self._links:
                link.beat()


class ReplicaEnd(LinkConnection):
    """One gateway's connection, as the replica sees it."""

    def __init__(self, server: LinkServer) -> None:
        super().__init__()
        self.left = False
        self._server = server
        self._gateway = ""
        self._tasks: dict[int, Task[None]] = {}

    def leave(self) -> None:
        self.outgoing.signal(Kind.LEAVING, busy=self._server.busy)

    def beat(self) -> None:
        """Not into the memory of this process, if the gateway has stopped reading."""
        if not self.outgoing.full:
            self.outgoing.signal(Kind.BEAT, busy=self._server.busy)

    def begin(self) -> None:
        mine = greeting()
        self.transport.write(mine)
        self.expect(INTRODUCTION.size, lambda answer: self._introduce(mine, answer))

    def deliver(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.BATCH:
                self._take(frame)
            case Kind.CANCEL:
                self._cancel(frame.call)
            case Kind.LEFT:
                self.left = True
                self._server.heard()
            case _:
                raise LinkBroken(detail=f"a gateway sends {frame.kind.name}")

    def end(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._server.ended(self)

    def _introduce(self, mine: bytes, answer: bytes) -> None:
        self._gateway, proof = read_introduction(self._server.key, mine, answer)
        self.transport.write(proof)
        self.establish()
        self._server.opened(self)

    def _take(self, frame: Frame) -> None:
        self._server.began()
        work = self._answer(frame.call, batch_of(frame.message))
        self._tasks[frame.call] = task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda _: self._done(frame.call))

    def _done(self, call: int) -> None:
        del self._tasks[call]
        self._server.done()

    def _cancel(self, call: int) -> None:
        self._incoming.drop(call)
        if call in self._tasks:
            self._tasks[call].cancel()

    async def _answer(self, call: int, batch: BatchMessage) -> None:
        try:
            kind, message = Kind.ANSWER, answer_bytes(await self._server.run(self._gateway, batch))
        except Exception as error:
            kind, message = Kind.FAILURE, [failure_bytes(error)]
        if not self.closed.done():
            self.outgoing.send(kind, call, message, busy=self._server.busy - 1)
