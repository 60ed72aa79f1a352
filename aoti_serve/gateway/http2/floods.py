"""How many frames a client may send that bring nothing of a request: each costs more to read than to write."""

from __future__ import annotations

from aoti_serve.gateway.http2.frames import BrokenConnection, ErrorCode

CONTROL_FRAMES = 10_000  # between two looks
FRAMES_PER_DATA = 4  # more, for each DATA frame that the client is sent: gRPC's own gives two windows back for each
RESET_FRAMES = 4  # frames of which a stream that ends too early costs the time
STREAMS_PER_FRAME = 32  # whose windows are set anew in the time of one frame


class FloodMeter:
    """Counts frames for nothing. `sent` are the DATA frames that the client was sent, which make it send others."""

    __slots__ = ("_counted", "sent")

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Count anew. About once a second."""
        self._counted = self.sent = 0

    def count(self, frames: int = 1) -> None:
        """Raises BrokenConnection if it was too much."""
        self._counted += frames
        if self._counted > CONTROL_FRAMES + FRAMES_PER_DATA * self.sent:
            raise BrokenConnection(
                ErrorCode.ENHANCE_YOUR_CALM, f"more than {CONTROL_FRAMES} frames for nothing in a second"
            )
