"""The rules by which the readers of one file go through its chunks together.

Pure: events and the time in seconds come in, grants come out. An event costs the same for ten readers and for ten
thousand: no rule looks at all readers.

- Readers go in step: the fastest is at most `width` chunks ahead of the slowest. So few chunks are kept at a time, and
  each is fetched once for all.
- A chunk goes out by copies: at most `fan_out` readers per copy fetch it at the same time, and each reader that has it
  is one more copy. So the copies multiply, and the first one does not have to serve all readers.
- Nobody waits long for one reader: one that was handed a chunk, and asks for no other within `patience` while others
  wait, is left behind. It can read on by itself, and is in step again once it has caught up.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from typing import NamedTuple


class Grant(NamedTuple):
    """A reader that may have a chunk now."""

    reader: str
    number: int


class ChunkWindow:
    """One file of `chunks` chunks. Readers are named; chunks are numbered from 0.

    `patience` is in seconds. It is also how long after the first reader another one may still begin and be waited for.
    """

    def __init__(self, chunks: int, *, width: int, patience: float, fan_out: float = math.inf) -> None:
        self.chunks = chunks
        self._width = width
        self._patience = patience
        self._fan_out = fan_out
        self._at: dict[str, int] = {}  # for each reader in step, the chunk that it waits for or has been granted
        self._there: Counter[int] = Counter()  # how many readers in step are at a chunk
        self._base = 0  # the slowest of them is there
        self._opened = 0.0
        self._waiting: defaultdict[int, OrderedDict[str, None]] = defaultdict(OrderedDict)  # in the order of asking
        self._waiters, self._waiting_since = 0, 0.0
        self._fetching: Counter[int] = Counter()  # how many have been granted a chunk, and have not asked for the next
        self._copies: Counter[int] = Counter()  # how many have
        self._handed: OrderedDict[str, float] = OrderedDict()  # when, the oldest first
        self._kept: OrderedDict[int, None] = OrderedDict()  # the chunk that was granted last is last

    def ask(self, reader: str, number: int, now: float) -> list[Grant]:
        """`reader` has every chunk before `number`, and asks for that one; beyond the last one it has read the file.

        Returns all grants that follow from it. A reader in step that asks for an earlier chunk reads that one again,
        and stays where it is.
        """
        before = self._at.get(reader)
        if before is not None and number <= before:
            return [] if reader in self._waiting[before] and number == before else [self._granted(reader, number)]
        if before is None and not self._at:
            self._opened, self._base = now, number
        joins = before is not None or self._joins(number, now)
        grants = [] if before is None else self._left(reader, has_it=number == before + 1)
        if number < self.chunks and joins:
            self._enter(reader, number, now)
        elif number < self.chunks:
            grants.append(self._granted(reader, number))
        return grants + self._admit(number if before is None else before, number)

    def hand(self, reader: str, number: int, now: float) -> None:
        """The chunk that was granted to `reader` has been handed to it: its patience begins."""
        if self._at.get(reader) == number and reader not in self._waiting[number]:
            self._handed.pop(reader, None)
            self._handed[reader] = now

    def leave(self, reader: str) -> list[Grant]:
        """Nobody waits for `reader` any more; does nothing if it is not in step. Returns the grants that follow."""
        if reader not in self._at:
            return []
        number = self._at[reader]
        return self._left(reader, has_it=False) + self._admit(number)

    def overdue(self, now: float) -> str | None:
        """A reader that is to be left behind, if there is one: the caller calls `leave`."""
        deadline = self.deadline()
        return next(iter(self._handed)) if deadline is not None and deadline <= now else None

    def deadline(self) -> float | None:
        """The time to look for an overdue reader next; None while no reader waits."""
        if not self._waiters or not self._handed:
            return None
        return max(next(iter(self._handed.values())), self._waiting_since) + self._patience

    def keeps(self, number: int) -> bool:
        """Whether a chunk may still be granted to others; never true for more than two windows of chunks."""
        return number in self._kept

    def _joins(self, number: int, now: float) -> bool:
        return number >= self._base or now <= self._opened + self._patience

    def _enter(self, reader: str, number: int, now: float) -> None:
        self._base = min(self._base, number)
        self._at[reader] = number
        self._there[number] += 1
        self._waiting[number][reader] = None
        if not self._waiters:
            self._waiting_since = now
        self._waiters += 1

    def _left(self, reader: str, *, has_it: bool) -> list[Grant]:
        """Take it out of the step; if its call still waits, let that one go on."""
        number = self._at.pop(reader)
        self._there[number] -= 1
        if reader in self._waiting[number]:
            del self._waiting[number][reader]
            self._waiters -= 1
            return [self._granted(reader, number)]
        self._fetching[number] -= 1
        self._copies[number] += has_it
        self._handed.pop(reader, None)
        return []

    def _admit(self, *changed: int) -> list[Grant]:
        """Move the window on; grant what has become free in it, and of the `changed` chunks."""
        numbers = {*changed, *self._advance()}
        return [grant for number in sorted(numbers) for grant in self._grants(number)]

    def _advance(self) -> range:
        """Go to where the slowest reader is, drop what lies before; returns the chunks that the window has come to."""
        if not self._at:
            for chunks in (self._there, self._waiting, self._fetching, self._copies, self._kept):
                chunks.clear()
            return range(0)
        end = self._base + self._width
        while not self._there[self._base]:
            for chunks in (self._there, self._waiting, self._fetching, self._copies, self._kept):
                chunks.pop(self._base, None)
            self._base += 1
        return range(end, self._base + self._width)

    def _grants(self, number: int) -> list[Grant]:
        if number >= self._base + self._width or number not in self._waiting:
            return []
        waiting, grants = self._waiting[number], []
        while waiting and self._fetching[number] < self._fan_out * (1 + self._copies[number]):
            reader, _ = waiting.popitem(last=False)
            self._waiters -= 1
            self._fetching[number] += 1
            grants.append(self._granted(reader, number))
        return grants

    def _granted(self, reader: str, number: int) -> Grant:
        self._kept[number] = None
        self._kept.move_to_end(number)
        if len(self._kept) > 2 * self._width:
            self._kept.popitem(last=False)
        return Grant(reader, number)
