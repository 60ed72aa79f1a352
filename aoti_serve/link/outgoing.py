"""Messages on their way out: the small at once, the large in turns."""

from __future__ import annotations

from asyncio import WriteTransport
from collections import deque
from collections.abc import Iterator, Sequence

from aoti_serve.link.frames import PART, Kind, header

JOINED_FRAME_BYTES = 16 * 2**10  # below this one copy costs less than several buffers
ByteBuffer = bytes | memoryview


class Outgoing:
    """Writes frames while the transport takes them. Lives at both ends, in the event loop.

    A message of at most a part goes at once. Larger messages take turns, part by part, and wait while the transport is
    `full`; their buffers must not change until they have gone.
    """

    def __init__(self, transport: WriteTransport) -> None:
        self._transport = transport
        self.full = False
        self._waiting: dict[int, Iterator[list[ByteBuffer]]] = {}
        self._turns: deque[int] = deque()

    def signal(self, kind: Kind, call: int = 0, busy: int = 0) -> None:
        """Send a frame without a message."""
        self._transport.write(header(kind, call, busy=busy))

    def send(self, kind: Kind, call: int, message: Sequence[ByteBuffer], busy: int = 0) -> None:
        """Send a message, given as the buffers of which it is made."""
        total = sum(map(len, message))
        head = header(kind, call, length=min(total, PART), total=total, busy=busy)
        if total <= JOINED_FRAME_BYTES:
            self._transport.write(b"".join([head, *message]))
        elif total <= PART:
            self._transport.writelines([head, *message])
        else:
            self._waiting[call] = frames(head, call, message, total)
            self._turns.append(call)
            self._pump()

    def cancel(self, call: int) -> None:
        """Send no more of this message, if parts of it still wait."""
        self._waiting.pop(call, None)

    def pause(self) -> None:
        self.full = True

    def resume(self) -> None:
        self.full = False
        self._pump()

    def _pump(self) -> None:
        while self._turns and not self.full:
            call = self._turns.popleft()
            part = next(self._waiting.get(call, iter(())), None)
            if part is None:
                self._waiting.pop(call, None)
            else:
                self._turns.append(call)
                self._transport.writelines(part)


def frames(head: bytes, call: int, message: Sequence[ByteBuffer], total: int) -> Iterator[list[ByteBuffer]]:
    """A large message frame by frame."""
    frame: list[ByteBuffer] = [head]
    room = PART
    for buffer in message:
        view = memoryview(buffer)
        while view:
            frame.append(view[:room])
            total -= len(view[:room])
            view, room = view[room:], room - len(view[:room])
            if room == 0 and total:
                yield frame
                frame, room = [header(Kind.MORE, call, length=min(total, PART))], PART
    yield frame
