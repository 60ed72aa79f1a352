"""The requests in flight: their number, the bytes of their bodies, and no more when the server stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from aoti_serve.errors import BodyTooLarge, ReadingTooMuch, Stopping

SMALL = 64 * 2**10
RETRY_AFTER_S = 1


@dataclass
class InFlight:
    """Counts requests in flight, and refuses new ones once it is closed. One per gateway, used in its event loop."""

    inside: int = 0
    open: bool = True

    def __enter__(self) -> None:
        """Count one more. Raises Stopping once it is closed."""
        if not self.open:
            raise Stopping()
        self.inside += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


class BodyLimits(NamedTuple):
    """The largest size of a body in bytes, the key that sets it, and the error beyond it."""

    limit: int
    setting: str
    error: type[BodyTooLarge] = BodyTooLarge

    def check(self, size: int) -> None:
        if size > self.limit:
            raise self.error(limit=self.limit, setting=self.setting)


@dataclass
class ReadingBudget:
    """The bytes of bodies that one gateway may hold at once, counted from before they are read until they are answered.

    Bodies of up to `SMALL` bytes do not count: there are no more of them than connections and calls. So a client with
    large bodies, which may come slowly, cannot have small requests refused. Used in the gateway's event loop.
    """

    limit: int
    held: int = 0


@dataclass(slots=True)
class CallBytes:
    """What the shares of one call hold in all. They count as one body does: from `SMALL` bytes on all of them."""

    budget: ReadingBudget
    size: int = 0

    @property
    def has_room(self) -> bool:
        """Whether a further small body fits in."""
        return self.size <= SMALL or self.budget.held + SMALL <= self.budget.limit

    def check(self, more: int) -> None:
        """Raise ReadingTooMuch if so many bytes more do not fit in."""
        budget = self.budget
        if budget.held + _counted(self.size + more) - _counted(self.size) > budget.limit:
            raise ReadingTooMuch(held=budget.held, limit=budget.limit, retry_after=RETRY_AFTER_S)

    def add(self, more: int) -> None:
        before, self.size = self.size, self.size + more
        self.budget.held += _counted(self.size) - _counted(before)


def _counted(size: int) -> int:
    return size if size > SMALL else 0


class Share:
    """The part of the budget that one request holds, until its block ends or it is released.

    Those of one call are parts of its `CallBytes`; an HTTP request stands alone.
    """

    __slots__ = ("_call", "_size")

    def __init__(self, holder: ReadingBudget | CallBytes) -> None:
        self._call = holder if isinstance(holder, CallBytes) else CallBytes(holder)
        self._size = 0

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Hold nothing any more."""
        self._call.add(-self._size)
        self._size = 0

    def grow(self, size: int) -> None:
        """Hold at least `size` bytes in all. Raises ReadingTooMuch for more than `SMALL`."""
        if (more := size - self._size) <= 0:
            return
        if size > SMALL:
            self._call.check(more)
        self._call.add(more)
        self._size = size
