"""Messages cut out of a call's body: a byte that says whether one is compressed, four of its length, its content.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from aoti_serve.errors import InvalidBody
from aoti_serve.gateway.in_flight import BodyLimits, CallBytes, Share

_prefix = Struct(">BI")
SMALL_PIECE = 1024  # bytes


class GrpcMessage(NamedTuple):
    """A message as it was sent, and its part of the budget, which is held until whoever took it gives it back.

    `began` is when its first bytes had come, by the monotonic clock.
    """

    content: bytes
    compressed: bool
    share: Share
    began: float


class MessageReader:
    """Cuts one call's body into messages. A message is counted before it is read, by the length that it announces."""

    def __init__(self, bound: BodyLimits, held: CallBytes) -> None:
        self._bound = bound
        self._held = held
        self._rest = b""
        self._share: Share | None = None
        self._missing = 0
        self._compressed = False
        self._began = 0.0
        self._pieces: list[bytes | bytearray] = []
        self._granted = 0

    @property
    def is_within(self) -> bool:
        """Whether a message is there in part."""
        return bool(self._rest) or self._share is not None

    @property
    def is_held_back(self) -> bool:
        """Whether a message has come that is not begun: the call's others hold what there is for it in the budget."""
        return bool(self._rest) and self._share is None and not self._held.has_room

    @property
    def granted(self) -> int:
        """The bytes of all messages that have begun since the last time: so many more their client may send."""
        granted, self._granted = self._granted, 0
        return granted

    def feed(self, data: bytes, most: int) -> Iterator[GrpcMessage]:
        """Messages that are complete now, so many at most. Raises BodyTooLarge, ReadingTooMuch, or InvalidBody."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        for _ in range(most):
            if self._share is None:
                if len(data) < _prefix.size or not self._held.has_room:
                    break
                self._share = self._begin(data)
                data = data[_prefix.size :]
            piece, data = data[: self._missing], data[self._missing :]
            self._keep(piece)
            self._missing -= len(piece)
            if self._missing:
                break
            yield self._finished(self._share)
        self._rest = data

    def _begin(self, data: bytes) -> Share:
        flag, length = _prefix.unpack_from(data)
        if flag > 1:
            raise InvalidBody(detail=f"a message begins with the byte {flag}; 0 is plain, 1 is compressed")
        self._bound.check(length)
        share = Share(self._held)
        share.grow(length)
        self._compressed, self._missing, self._began = bool(flag), length, time.monotonic()
        self._granted += _prefix.size + length
        return share

    def _keep(self, piece: bytes) -> None:
        """Small pieces are kept together: each alone takes 40 bytes more, and the budget counts none of these."""
        if len(piece) >= SMALL_PIECE or not self._pieces:
            self._pieces.append(piece)
        elif isinstance(last := self._pieces[-1], bytearray):
            last += piece
        else:
            self._pieces.append(bytearray(piece))

    def _finished(self, share: Share) -> GrpcMessage:
        first = self._pieces[0]
        content = first if len(self._pieces) == 1 and isinstance(first, bytes) else b"".join(self._pieces)
        self._share, self._pieces = None, []
        return GrpcMessage(content, self._compressed, share, self._began)

    def close(self) -> None:
        """Give back what a message holds that is there in part."""
        if self._share is not None:
            self._share.release()
            self._share, self._pieces, self._rest = None, [], b""


def written(content: bytes) -> bytes:
    """A message as it is sent."""
    return _prefix.pack(0, len(content)) + content
