"""The link between a coordinator and its members: reports go up, targets and routes come down, heartbeats both ways.

What reports and targets say is the business of those who use this; here they are bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from aoti_serve.address import Address
from aoti_serve.errors import AotiServeError, LinkBroken
from aoti_serve.link.connection import CallingEnd, ListeningEnd, connect_end
from aoti_serve.link.frames import Frame, Kind, header
from aoti_serve.link.listener import LinkListener

SILENT_BEATS = 4  # without a word of the coordinator, a member ends the connection
MOST_WAITING = 16 * 2**20  # bytes that a member has not read yet
CUT_S = 1.0  # for the last word to leave

Take = Callable[[Kind, int, memoryview], None]


class ControlHandler(Protocol):
    """What a coordinator does with what its members say. Called in its event loop."""

    def opened(self, end: ControlEnd) -> None:
        """A member has connected."""

    def reported(self, end: ControlEnd, call: int, report: memoryview) -> None:
        """A report; where `call` is not 0, it asks for the target."""

    def beaten(self, end: ControlEnd) -> None:
        """A heartbeat."""

    def ended(self, end: ControlEnd) -> None:
        """The connection is over; `cut` if one of both sides has ended it, while its process goes on."""


class ControlServer(LinkListener["ControlEnd"]):
    """The coordinator's end of all its members' connections. Lives in its event loop."""

    def __init__(self, handler: ControlHandler, beat_s: float) -> None:
        super().__init__()
        self.handler = handler
        self._beat_s = beat_s

    def end(self) -> ControlEnd:
        return ControlEnd(self)

    async def tick(self) -> None:
        """Beat; members answer at once. So the answers come together, and wake this process a few times, not for each.

        A member that hears no beat looks for another coordinator.
        """
        while True:
            await asyncio.sleep(self._beat_s)
            self.send(self.ends, header(Kind.BEAT))

    def send_to(self, ends: Iterable[ControlEnd], kind: Kind, message: bytes) -> None:
        """The same message to many, written down once."""
        self.send(ends, header(kind, length=len(message), total=len(message)) + message)

    def send(self, ends: Iterable[ControlEnd], frame: bytes) -> None:
        for end in list(ends):
            end.push(frame)


class ControlEnd(ListeningEnd):
    """One member's connection, as the coordinator sees it. `heard` is for its handler: when there was a word of it."""

    def __init__(self, server: ControlServer) -> None:
        super().__init__(server.key)
        self.heard = 0.0
        self.cut = False
        self._server = server

    def welcome(self) -> None:
        self._server.ends.add(self)
        self._server.handler.opened(self)

    def answer(self, call: int, kind: Kind, message: bytes) -> None:
        if not self.closed.done():
            self.outgoing.send(kind, call, [message])

    def push(self, frame: bytes) -> None:
        """Not into the memory of this process, if the member has stopped reading: it asks when it goes on."""
        if self.transport.get_write_buffer_size() > MOST_WAITING:
            self.abort(LinkBroken(detail=f"member {self.name} does not read"))
        elif not self.closed.done():
            self.transport.write(frame)

    def abort(self, error: AotiServeError | None = None) -> None:
        self.cut = True
        super().abort(error)

    def deliver(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.REPORT:
                self._server.handler.reported(self, frame.call, frame.message)
            case Kind.BEAT:
                self._server.handler.beaten(self)
            case Kind.LEFT:
                self.cut = True
            case _:
                raise LinkBroken(detail=f"a member sends {frame.kind.name}")

    def end(self) -> None:
        if self in self._server.ends:
            self._server.ends.discard(self)
            self._server.handler.ended(self)


class ControlLink(CallingEnd):
    """A member's end. `take` gets each TARGET and ROUTE that arrives, with the number of the question it answers."""

    def __init__(self, key: bytes, member: str, take: Take) -> None:
        super().__init__(key, member)
        self._take = take
        self._silent = 0

    def report(self, message: bytes, call: int = 0) -> None:
        if not self.closed.done():
            self.outgoing.send(Kind.REPORT, call, [message])

    def tick(self) -> None:
        """The time between two beats has passed. Ends a connection of whose other end nothing was heard for long.

        Ticks are counted, not seconds: a process that was stopped must not take that for the silence of others.
        """
        self._silent += 1
        if self._silent > SILENT_BEATS:
            self.cut()

    def cut(self) -> None:
        """End the connection, and say that this process goes on."""
        if not self.closed.done():
            self.outgoing.signal(Kind.LEFT)
            self.transport.close()
            asyncio.get_running_loop().call_later(CUT_S, self.transport.abort)

    def buffer_updated(self, nbytes: int) -> None:
        self._silent = 0
        super().buffer_updated(nbytes)

    def deliver(self, frame: Frame) -> None:
        if frame.kind is Kind.BEAT:
            self.outgoing.signal(Kind.BEAT)
            return
        if frame.kind not in (Kind.TARGET, Kind.ROUTE):
            raise LinkBroken(detail=f"a coordinator sends {frame.kind.name}")
        self._take(frame.kind, frame.call, frame.message)

    def end(self) -> None:
        """Those who wait for answers look at `closed`."""


async def connect_control(address: Address, member: str, node: str, take: Take) -> ControlLink:
    """A member's connection to the coordinator at `address`. Raises OSError or LinkRefused."""
    return await connect_end(lambda: ControlLink(address.key, member, take), address, node)
