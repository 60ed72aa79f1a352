"""What lets requests in, until the server is told to stop."""

from __future__ import annotations

from types import TracebackType

from aoti_serve.errors import Stopping


class InFlight:
    """Counts who is inside; once it is closed nobody else comes in. One per gateway, used in its event loop."""

    def __init__(self) -> None:
        self.inside = 0
        self.open = True

    def __enter__(self) -> None:
        """Raises Stopping if it is closed."""
        if not self.open:
            raise Stopping()
        self.inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.inside -= 1
