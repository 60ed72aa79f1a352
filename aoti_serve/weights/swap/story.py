"""The last events of a model's cluster: they explain why a swap went as it did."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from aoti_serve.signature.tensors import Frozen

LENGTH = 400


class StoryEvent(Frozen):
    """`at` is in seconds of the coordinator's clock; `member` is empty where the coordinator itself has acted."""

    at: float
    member: str
    event: str

    def __str__(self) -> str:
        return f"{self.at:.3f} {self.member or 'coordinator'}: {self.event}"


class Story:
    """Keeps the last `LENGTH` events."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: deque[tuple[float, str, str]] = deque(maxlen=LENGTH)

    def tell(self, event: str, member: str = "") -> None:
        self._events.append((self._clock(), member, event))

    def events(self) -> tuple[StoryEvent, ...]:
        """The events, oldest first."""
        return tuple(StoryEvent(at=round(at, 3), member=member, event=event) for at, member, event in self._events)
