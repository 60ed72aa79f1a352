"""Who is told of a request."""

from __future__ import annotations

from typing import Protocol


class Receiver(Protocol):
    """Is told of a request, in the event loop. Its answer goes to the stream."""

    def take(self, data: bytes) -> None:
        """More of the body has come. The receiver gives as many bytes to the stream, at once or later."""

    def end(self) -> None:
        """The body is complete."""

    def lose(self) -> None:
        """The client has given up, or gone: nothing that is sent from now on reaches it."""

    def leave(self) -> None:
        """The server is about to stop: what has no end of its own must end now."""

    def look(self, elapsed: float) -> None:
        """`elapsed` seconds are over since the last look. About once a second."""


class Nobody:
    """The receiver of a request that has its answer."""

    def take(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def lose(self) -> None: ...

    def leave(self) -> None: ...

    def look(self, elapsed: float) -> None: ...


NOBODY = Nobody()
