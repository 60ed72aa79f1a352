"""The link between a coordinator and its members: reports go up, targets and routes come down, heartbeats both ways.

Reports, targets and routes are bytes here; `cluster/membership/wire` reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from aoti_serve.address import Address
from aoti_serve.errors import AotiServeError, LinkBroken
from aoti_serve.link.frames import Frame, Kind, header
from aoti_serve.link.handshake import CallingEnd, ListeningEnd
from aoti_serve.link.listener import LinkListener

SILENT_BEATS = 4  # without a frame of the coordinator, a member ends the connection
MOST_WAITING = 16 * 2**20  # bytes that a member has not read yet
CUT_S = 1.0  # for the last frame to leave

Take = Callable[[Kind, int, memoryview], None]


class ControlHandler(Protocol):
    """The coordinator, as far as its members' connections call it, in its event loop."""

    def opened(self, end: ControlEnd) -> None:
        """A member has connected."""

    def reported(self, end: ControlEnd, call: int, report: memoryview) -> None:
        """A report; where `call` is not 0, it asks for the target."""

    def beaten(self, end: ControlEnd) -> None:
        """A heartbeat."""

    def ended(self, end: ControlEnd) -> None:
        """The connection is over. `end.cut` is true if one side has ended it, and both processes go on."""


class ControlServer(LinkListener["ControlEnd"]):
    """The coordinator's end of all its members' connections. Lives in its event loop.

    Members answer each beat at once, so that all answers come together and wake this process a few times only. A member
    that hears no beat looks for another coordinator.
    """

    def __init__(self, handler: ControlHandler, beat_s: float) -> None:
        super().__init__(beat_s)
        self.handler = handler

    def end(self) -> ControlEnd:
        return ControlEnd(self)

    def send_to(self, ends: Iterable[ControlEnd], kind: Kind, message: bytes) -> None:
        """Send the same message to many members. Its frame is made once."""
        frame = header(kind, length=len(message), total=len(message)) + message
        for end in list(ends):
            end.push(frame)


class ControlEnd(ListeningEnd):
    """The coordinator's end of the connection of one member.

    The handler notes in `heard` when something last came from the member.
    """

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

    def beat(self) -> None:
        self.push(header(Kind.BEAT))

    def push(self, frame: bytes) -> None:
        """Send a frame. A member that has stopped reading is cut off, and asks when it goes on."""
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

    def __init__(self, address: Address, member: str, take: Take) -> None:
        super().__init__(address, member)
        self._take = take

    def report(self, message: bytes, call: int = 0) -> None:
        if not self.closed.done():
            self.outgoing.send(Kind.REPORT, call, [message])

    def tick(self) -> None:
        """Count the time between two beats. Ends a connection on which nothing has come for `SILENT_BEATS` of them."""
        self.silent += 1
        if self.silent > SILENT_BEATS:
            self.cut()

    def cut(self) -> None:
        """End the connection, and say that this process goes on."""
        if not self.closed.done():
            self.outgoing.signal(Kind.LEFT)
            self.transport.close()
            asyncio.get_running_loop().call_later(CUT_S, self.transport.abort)

    def deliver(self, frame: Frame) -> None:
        if frame.kind is Kind.BEAT:
            self.outgoing.signal(Kind.BEAT)
            return
        if frame.kind not in (Kind.TARGET, Kind.ROUTE):
            raise LinkBroken(detail=f"a coordinator sends {frame.kind.name}")
        self._take(frame.kind, frame.call, frame.message)

    def end(self) -> None:
        """Nothing: a member that waits for an answer looks at `closed`."""
