"""Frames out of the pieces in which bytes arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aoti_serve.errors import LinkBroken
from aoti_serve.link.frames import FRAME_HEADER, KINDS, MOST_BYTES, PART, WITH_MESSAGE, Frame, Kind
from aoti_serve.link.memory import MEMORY

SCRATCH = 16 * 2**10
NO_BYTES = memoryview(b"")


@dataclass(slots=True)
class Message:
    """A message of which parts have arrived, in the memory in which it stays."""

    kind: Kind
    busy: int
    view: memoryview
    filled: int = 0


class Incoming:
    """Turns received bytes into frames, without I/O of its own. Lives at both ends.

    Small frames are many to a read, and are copied out of the scratch memory; a large part is received in place.
    """

    def __init__(self, deliver: Callable[[Frame], None]) -> None:
        self._deliver = deliver
        self._scratch = memoryview(bytearray(SCRATCH))
        self._start = self._end = 0
        self._messages: dict[int, Message] = {}
        self._call, self._left = 0, 0  # which message is received in place, and how much of its part is to come

    def buffer(self) -> memoryview:
        """The memory for the next bytes."""
        if self._left:
            message = self._messages[self._call]
            return message.view[message.filled : message.filled + self._left]
        return self._scratch[self._end :]

    def received(self, nbytes: int) -> None:
        """Take `nbytes` that are in the buffer. Raises LinkBroken for bytes that no process of ours would send."""
        if self._left:
            self._left -= nbytes
            self._fill(self._call, nbytes)
            return
        self._end += nbytes
        while not self._left and self._end - self._start >= FRAME_HEADER.size:
            self._frame()
        self._scratch[: self._end - self._start] = self._scratch[self._start : self._end]
        self._start, self._end = 0, self._end - self._start

    def drop(self, call: int) -> None:
        """Forget a message whose rest will not come."""
        self._messages.pop(call, None)

    def _frame(self) -> None:
        """Take the header at the start of the scratch memory, and the bytes of its part that are there."""
        length, code, busy, call, total = FRAME_HEADER.unpack_from(self._scratch, self._start)
        self._start += FRAME_HEADER.size
        kind = KINDS.get(code)
        if kind in WITH_MESSAGE:
            self._begin(Kind(code), call, busy, length, total)
        elif kind is not Kind.MORE:
            if kind is None or length:
                raise LinkBroken(detail=f"a frame of kind {code} with {length} bytes")
            self._deliver(Frame(kind, call, busy, NO_BYTES))
            return
        message = self._messages.get(call)
        if message is None or not 0 < length <= min(PART, len(message.view) - message.filled):
            raise LinkBroken(detail=f"a part of {length} bytes for call {call}")
        here = min(length, self._end - self._start)
        message.view[message.filled : message.filled + here] = self._scratch[self._start : self._start + here]
        self._start += here
        self._call, self._left = call, length - here
        self._fill(call, here)

    def _begin(self, kind: Kind, call: int, busy: int, length: int, total: int) -> None:
        if call in self._messages or not length <= total <= MOST_BYTES:
            raise LinkBroken(detail=f"call {call} begins with {length} of {total} bytes")
        self._messages[call] = Message(kind, busy, MEMORY.take(total))

    def _fill(self, call: int, nbytes: int) -> None:
        message = self._messages[call]
        message.filled += nbytes
        if message.filled == len(message.view):
            del self._messages[call]
            self._deliver(Frame(message.kind, call, message.busy, message.view))
