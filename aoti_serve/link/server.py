"""The replica's end of its links."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Task
from collections.abc import Awaitable, Callable

from aoti_serve.errors import AotiServeError, LinkBroken
from aoti_serve.link.frames import Frame, Kind
from aoti_serve.link.handshake import ListeningEnd
from aoti_serve.link.listener import LinkListener
from aoti_serve.link.messages import AnswerMessage, BatchMessage, answer_bytes, batch_of, failure_bytes

logger = logging.getLogger("ray.serve")
BEAT_S = 0.25

BatchHandler = Callable[[str, BatchMessage], Awaitable[AnswerMessage]]


class LinkServer(LinkListener["ReplicaEnd"]):
    """Takes batches from every gateway, and answers. Lives in the replica's event loop.

    `run(gateway, batch)` answers a batch of the gateway of that name; it is cancelled when its answer is not wanted any
    more. `busy` counts the batches in hand, `changed` is set when it falls or a gateway is gone.
    """

    def __init__(self, run: BatchHandler) -> None:
        super().__init__(BEAT_S)
        self.run = run
        self.busy = 0
        self.leaving = False
        self.changed = asyncio.Event()

    def end(self) -> ReplicaEnd:
        return ReplicaEnd(self)

    async def leave(self, seconds: float) -> bool:
        """Tell gateways to send no new batches, and answer those in hand. Returns whether that was done in time."""
        self.leaving = True
        for link in self.ends:
            link.leave()
        try:
            async with asyncio.timeout(seconds):
                while self.busy or not all(link.left for link in self.ends):
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True


class ReplicaEnd(ListeningEnd):
    """The replica's end of the connection of one gateway. `left` is true when the gateway sends no more batches."""

    def __init__(self, server: LinkServer) -> None:
        super().__init__(server.key)
        self.left = False
        self._server = server
        self._tasks: dict[int, Task[None]] = {}

    def welcome(self) -> None:
        self._server.ends.add(self)
        if self._server.leaving:
            self.leave()

    def leave(self) -> None:
        self.outgoing.signal(Kind.LEAVING, busy=self._server.busy)

    def beat(self) -> None:
        if not self.outgoing.full:  # else beats would fill this process's memory while the gateway does not read
            self.outgoing.signal(Kind.BEAT, busy=self._server.busy)

    def deliver(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.BATCH:
                self._take(frame)
            case Kind.CANCEL:
                self._cancel(frame.call)
            case Kind.LEFT:
                self.left = True
                self._server.changed.set()
            case _:
                raise LinkBroken(detail=f"a gateway sends {frame.kind.name}")

    def end(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._server.ends.discard(self)
        self._server.changed.set()

    def _take(self, frame: Frame) -> None:
        work = self._answer(frame.call, batch_of(frame.message))
        self._server.busy += 1
        self._tasks[frame.call] = task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda _: self._done(frame.call))

    def _done(self, call: int) -> None:
        del self._tasks[call]
        self._server.busy -= 1
        self._server.changed.set()

    def _cancel(self, call: int) -> None:
        self._incoming.drop(call)
        if call in self._tasks:
            self._tasks[call].cancel()

    async def _answer(self, call: int, batch: BatchMessage) -> None:
        try:
            kind, message = Kind.ANSWER, answer_bytes(await self._server.run(self.name, batch))
        except Exception as error:
            if not isinstance(error, AotiServeError):
                logger.error("a batch of gateway %s failed: %r", self.name, error)
            kind, message = Kind.FAILURE, [failure_bytes(error)]
        if not self.closed.done():
            self.outgoing.send(kind, call, message, busy=self._server.busy - 1)
