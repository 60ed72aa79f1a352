"""The rules by which readers go through the chunks of a file: in step, by copies, and without waiting for the lost."""

from __future__ import annotations

import heapq
import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_serve.cluster.transfer import window as rules
from aoti_serve.cluster.transfer.window import ChunkWindow, Grant

WIDTH = 3
PATIENCE = 2.0


def window(chunks: int = 16, fan_out: float = math.inf) -> ChunkWindow:
    return ChunkWindow(chunks, width=WIDTH, patience=PATIENCE, fan_out=fan_out)


def advance(rules: ChunkWindow, reader: str, start: int, stop: int, now: float = 0.0) -> list[Grant]:
    """Let a reader ask for chunk after chunk, and be handed each; returns all grants."""
    grants = []
    for number in range(start, stop):
        grants += rules.ask(reader, number, now)
        rules.hand(reader, number, now)
    return grants


def test_one_reader_goes_through_at_once() -> None:
    assert advance(window(), "r", 0, 16) == [Grant("r", number) for number in range(16)]


def test_a_fast_reader_waits_for_the_slowest_one() -> None:
    step = window()
    step.ask("slow", 0, 0.0)
    assert advance(step, "fast", 0, WIDTH) == [Grant("fast", number) for number in range(WIDTH)]
    assert step.ask("fast", WIDTH, 0.0) == []
    assert step.ask("slow", 1, 0.0) == [Grant("slow", 1), Grant("fast", WIDTH)]


def test_a_reader_that_is_handed_a_chunk_and_stops_is_left_behind() -> None:
    step = window()
    step.ask("stopped", 0, 0.0)
    step.hand("stopped", 0, 0.0)
    advance(step, "fast", 0, WIDTH)
    assert step.deadline() is None
    step.ask("fast", WIDTH, 1.0)
    assert step.deadline() == 1.0 + PATIENCE
    assert step.overdue(2.9) is None
    assert step.overdue(3.0) == "stopped"
    assert step.leave("stopped") == [Grant("fast", WIDTH)]


def test_nobody_is_blamed_for_a_chunk_that_was_not_handed_out() -> None:
    """The disk may be slow."""
    step = window(fan_out=1)
    step.ask("first", 0, 0.0)
    step.ask("second", 0, 0.0)
    assert step.overdue(100.0) is None


def test_a_reader_that_was_left_behind_reads_on_by_itself_and_catches_up() -> None:
    step = window()
    step.ask("stopped", 0, 0.0)
    advance(step, "fast", 0, 5)
    step.leave("stopped")
    later = 2 * PATIENCE
    assert step.ask("stopped", 1, later) == [Grant("stopped", 1)]
    assert step.ask("fast", 5, later) == [Grant("fast", 5)], "nobody waits for it"
    advance(step, "stopped", 2, 5, later)
    assert step.ask("stopped", 5, later) == [Grant("stopped", 5)]
    advance(step, "fast", 6, 8, later)
    assert step.ask("fast", 8, later) == [], "it is in step again"


def test_one_that_begins_a_little_later_is_waited_for() -> None:
    step = window()
    advance(step, "first", 0, 5)
    assert step.ask("second", 0, PATIENCE) == [Grant("second", 0)]
    assert step.ask("first", 5, PATIENCE) == []


def test_one_that_begins_much_later_holds_nobody_up() -> None:
    step = window()
    advance(step, "first", 0, 5)
    assert step.ask("second", 0, PATIENCE + 0.1) == [Grant("second", 0)]
    assert step.ask("first", 5, PATIENCE + 0.1) == [Grant("first", 5)]


def test_copies_multiply() -> None:
    step = window(fan_out=2)
    grants = [grant for number in range(20) for grant in step.ask(f"r{number}", 0, 0.0)]
    assert len(grants) == 2
    waves = []
    while grants := [more for grant in grants for more in step.ask(grant.reader, 1, 0.0) if more.number == 0]:
        waves.append(len(grants))
    assert waves == [6, 12]


def test_a_reader_that_restarts_reads_again_and_holds_up_nobody_for_long() -> None:
    step = window()
    advance(step, "r", 0, 4)
    assert step.ask("r", 0, 0.0) == [Grant("r", 0)]
    assert step.ask("r", 1, 0.0) == [Grant("r", 1)]


def test_a_call_that_is_repeated_is_granted_once() -> None:
    step = window(fan_out=1)
    assert step.ask("first", 0, 0.0) == [Grant("first", 0)]
    assert step.ask("second", 0, 0.0) == []
    assert step.ask("second", 0, 0.0) == []
    assert step.leave("first") == [Grant("second", 0)]
    assert step.ask("second", 0, 0.0) == [Grant("second", 0)]


def test_a_reader_that_jumps_ahead_leaves_no_call_waiting() -> None:
    step = window(fan_out=1)
    step.ask("first", 0, 0.0)
    step.ask("second", 0, 0.0)
    assert step.ask("second", 4, 0.0) == [Grant("second", 0)]


def test_what_all_have_is_dropped() -> None:
    step = window()
    advance(step, "a", 0, 3)
    assert [step.keeps(number) for number in range(4)] == [False, False, True, False]
    step.ask("a", 16, 0.0)
    assert not any(step.keeps(number) for number in range(16))


@dataclass
class Reader:
    """One that takes so many seconds per chunk, may start late, stop for a while, or die at a chunk."""

    name: str
    seconds: float
    starts: float = 0.0
    dies_at: int | None = None
    number: int = 0


@dataclass
class Simulation:
    """Readers in simulated time; each asks for a chunk as soon as it has the one before."""

    step: ChunkWindow
    chunks: int
    readers: list[Reader]
    checked: Callable[[Simulation], None] = lambda _: None
    numbered: Callable[[int], int] = int
    now: float = 0.0
    done: set[str] = field(default_factory=set)
    _events: list[tuple[float, int, Reader]] = field(default_factory=list)
    _turn: Iterator[int] = field(default_factory=itertools.count)

    def run(self) -> None:
        by_name = {reader.name: reader for reader in self.readers}
        for reader in self.readers:
            self._later(reader, reader.starts)
        while True:
            deadline = self.step.deadline()
            if not self._events and deadline is None:
                return
            if deadline is not None and (not self._events or deadline <= self._events[0][0]):
                self.now = max(self.now, deadline)
                if late := self.step.overdue(self.now):
                    self._hand(self.step.leave(late), by_name)
            else:
                self.now, _, reader = heapq.heappop(self._events)
                if reader.number == self.chunks:
                    self.done.add(reader.name)
                self._hand(self.step.ask(reader.name, self.numbered(reader.number), self.now), by_name)
            self.checked(self)

    def _hand(self, grants: list[Grant], by_name: dict[str, Reader]) -> None:
        for grant in grants:
            reader = by_name[grant.reader]
            assert grant.number == reader.number, "granted what it did not ask for"
            self.step.hand(reader.name, reader.number, self.now)
            if reader.dies_at != reader.number:
                reader.number += 1
                self._later(reader, reader.seconds)

    def _later(self, reader: Reader, seconds: float) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._turn), reader))


readers = st.lists(
    st.builds(
        Reader,
        name=st.uuids().map(str),
        seconds=st.floats(0.0, 3 * PATIENCE),
        starts=st.one_of(st.just(0.0), st.floats(0.0, 10.0)),
        dies_at=st.one_of(st.none(), st.integers(0, 9)),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda reader: reader.name,
)


@given(readers, st.integers(1, 10), st.sampled_from([1, 2, math.inf]))
@settings(max_examples=200)
def test_everyone_who_lives_gets_everything_in_order(readers: list[Reader], chunks: int, fan_out: float) -> None:
    step = window(chunks, fan_out)

    def few_are_kept(_: Simulation) -> None:
        assert sum(step.keeps(number) for number in range(chunks)) <= 2 * WIDTH

    simulation = Simulation(step, chunks, readers, few_are_kept)
    simulation.run()
    living = {reader.name for reader in readers if reader.dies_at is None or reader.dies_at >= chunks}
    assert simulation.done == living


@given(readers, st.sampled_from([1, 2, math.inf]))
@settings(max_examples=100)
def test_readers_that_live_and_are_not_too_slow_stay_within_the_window(readers: list[Reader], fan_out: float) -> None:
    quick = [Reader(reader.name, reader.seconds / 3.1) for reader in readers]

    def within_the_window(simulation: Simulation) -> None:
        going = [reader.number for reader in quick if reader.name not in simulation.done]
        if going and min(going) > 0:
            assert max(going) - min(going) <= WIDTH + 1

    simulation = Simulation(window(10, fan_out), 10, quick, within_the_window)
    simulation.run()
    assert len(simulation.done) == len(quick)


@given(st.integers(1, 40), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_a_copy_is_never_fetched_by_more_than_its_share(count: int, fan_out: int, chance: Any) -> None:
    step, fetching, copies = window(4, fan_out), Counter[int](), Counter[int]()
    going = {f"r{number}": 0 for number in range(count)}
    granted = [grant for reader in going for grant in step.ask(reader, 0, 0.0)]
    fetching.update(grant.number for grant in granted)
    while granted:
        reader, number = granted.pop(chance.randrange(len(granted)))
        fetching[number] -= 1
        copies[number] += 1
        grants = step.ask(reader, number + 1, 0.0)
        fetching.update(grant.number for grant in grants)
        assert all(fetching[chunk] <= fan_out * (1 + copies[chunk]) for chunk in range(4))
        granted += grants
    assert [copies[chunk] for chunk in range(4)] == [count] * 4


def lines_run(work: Callable[[], None]) -> int:
    """How many lines of the rules are executed."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != rules.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


touched: Counter[str] = Counter()


class CountedName(str):
    """A reader's name that counts how often names are looked up."""

    def __hash__(self) -> int:
        touched["names"] += 1
        return super().__hash__()


class CountedNumber(int):
    """A chunk's number that counts how often numbers are compared: a `min` over all readers would show."""

    __hash__ = int.__hash__

    def __lt__(self, other: int) -> bool:
        touched["numbers"] += 1
        return int.__lt__(self, other)

    def __gt__(self, other: int) -> bool:
        touched["numbers"] += 1
        return int.__gt__(self, other)


def cost(count: int, fan_out: float) -> dict[str, float]:
    """What the rules do per reader and chunk, with a tenth of stragglers and one reader that dies."""
    chunks = 4
    readers = [Reader(CountedName(f"r{number}"), 0.5 if number % 10 else 1.0) for number in range(count)]
    readers[count // 2].dies_at = 2
    simulation = Simulation(window(chunks, fan_out), chunks, readers, numbered=CountedNumber)
    touched.clear()
    touched["lines"] = lines_run(simulation.run)
    assert len(simulation.done) == count - 1
    return {what: times / count / chunks for what, times in touched.items()}


@pytest.mark.parametrize("fan_out", [2, math.inf])
def test_an_event_costs_the_same_with_ten_thousand_readers(fan_out: float) -> None:
    few, many = cost(100, fan_out), cost(10_000, fan_out)
    assert few.keys() == many.keys() == {"lines", "names", "numbers"}
    assert all(many[what] < 1.2 * few[what] for what in few)
