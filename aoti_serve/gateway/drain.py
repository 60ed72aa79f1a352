"""The count of requests in flight, and the end of admission when the server stops."""

from __future__ import annotations

from types import TracebackType

from aoti_serve.errors import Stopping


class InFlight:
    """Counts requests in flight, and refuses new ones once it is closed. One per gateway, used in its event loop."""

    def __init__(self) -> None:
        self.inside = 0
        self.open = True

    def __enter__(self) -> None:
        """Count one more. Raises Stopping once it is closed."""
        if not self.open:
            raise Stopping()
        self.inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.inside -= 1
