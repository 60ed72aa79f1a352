"""Flow control (RFC 9113, 5.2): how much a side may still send, of one stream or of all together."""

from __future__ import annotations

from aoti_serve.gateway.http2.frames import FIRST_WINDOW, LARGEST_WINDOW, BrokenConnection, ErrorCode


class SendWindow:
    """The bytes that the peer still takes. A smaller setting may bring it below zero."""

    __slots__ = ("left",)

    def __init__(self, left: int = FIRST_WINDOW) -> None:
        self.left = left

    def grow(self, more: int) -> None:
        """Raises BrokenConnection beyond the largest window there may be."""
        self.left += more
        if self.left > LARGEST_WINDOW:
            raise BrokenConnection(ErrorCode.FLOW_CONTROL_ERROR, f"a window of more than {LARGEST_WINDOW} bytes")


class ReceiveWindow:
    """The bytes that the peer may still send, of `size` when everything is given back."""

    __slots__ = ("_left", "_owed", "_size")

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._owed = 0

    def take(self, count: int) -> None:
        """Count bytes that have come. Raises BrokenConnection if they were too many."""
        self._left -= count
        if self._left < 0:
            raise BrokenConnection(ErrorCode.FLOW_CONTROL_ERROR, f"{-self._left} bytes beyond the window")

    def give(self, count: int) -> int:
        """Give bytes back that have been dealt with. Returns the number to announce, 0 as long as it is small.

        What is beyond the largest window there may be is announced later.
        """
        self._owed += count
        if self._owed * 2 < self._size:
            return 0
        more = min(self._owed, LARGEST_WINDOW - self._left)
        self._owed -= more
        self._left += more
        return more
