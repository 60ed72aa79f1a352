"""The gate: bounded, in order of arrival, and closed with nobody inside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from aoti_serve.model import gate as gate_module
from aoti_serve.model.gate import Gate

BOUND_S = 60.0


class Interrupted(BaseException):
    """As KeyboardInterrupt, but only ours."""


class Watched:
    """Tells when somebody is about to wait at a gate, so that no test has to guess by the clock.

    `on_turn` is called with the turn of everybody who waits for a slot, `on_closer` for everybody who waits to close;
    both may raise, as an interrupt would.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs_waiting = threading.Semaphore(0)
        self.closers_waiting = threading.Semaphore(0)
        self.on_turn: Callable[[threading.Event], None] = lambda turn: None
        self.on_closer: Callable[[], None] = lambda: None
        watched = self

        class Turn(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                if not self.is_set():
                    watched.runs_waiting.release()
                    watched.on_turn(self)
                return super().wait(timeout)

        class Drained(threading.Condition):
            def wait(self, timeout: float | None = None) -> bool:
                watched.closers_waiting.release()
                watched.on_closer()
                return super().wait(timeout)

        names = SimpleNamespace(Lock=threading.Lock, Event=Turn, Condition=Drained)
        monkeypatch.setattr(gate_module, "threading", names)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


@contextmanager
def started(*bodies: Callable[[], Any]) -> Iterator[None]:
    """Threads that run `bodies` and must all have ended when the block has."""
    threads = [threading.Thread(target=body, daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(BOUND_S)
        assert not thread.is_alive()


def enter(gate: Gate, log: list[Any], name: Any) -> Callable[[], None]:
    def body() -> None:
        with gate:
            log.append(name)

    return body


def acquired(semaphore: threading.Semaphore) -> None:
    assert semaphore.acquire(timeout=BOUND_S)


def test_as_many_as_there_are_slots_are_inside_together_and_no_more(watched: Watched) -> None:
    gate, full, log = Gate(3), threading.Barrier(4), list[Any]()
    leave = threading.Event()

    def hold() -> None:
        with gate:
            full.wait(BOUND_S)
            leave.wait(BOUND_S)
            log.append("held")

    with started(hold, hold, hold):
        full.wait(BOUND_S)
        with started(enter(gate, log, "fourth")):
            acquired(watched.runs_waiting)
            assert log == []
            leave.set()
    assert sorted(log) == ["fourth", "held", "held", "held"]


def test_never_more_than_the_slots_are_inside_under_load() -> None:
    gate, lock, inside, most = Gate(2), threading.Lock(), 0, 0

    def body() -> None:
        nonlocal inside, most
        for _ in range(200):
            with gate:
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1

    with started(*[body] * 8):
        pass
    assert (most <= 2, inside) == (True, 0)


def test_a_free_slot_goes_to_whoever_waits_longest(watched: Watched) -> None:
    gate, log = Gate(1), list[Any]()
    with ExitStack() as threads, gate:
        for number in range(8):
            threads.enter_context(started(enter(gate, log, number)))
            acquired(watched.runs_waiting)
        assert log == []
    assert log == list(range(8))


def test_closing_waits_for_those_inside(watched: Watched) -> None:
    gate, log = Gate(2), list[str]()

    def close() -> None:
        with gate.closed():
            log.append("closed")

    with ExitStack() as threads, gate:
        threads.enter_context(started(close))
        acquired(watched.closers_waiting)
        log.append("left")
    assert log == ["left", "closed"]


def test_nobody_enters_a_closed_gate_and_all_enter_in_order_when_it_opens(watched: Watched) -> None:
    gate, log = Gate(1), list[Any]()
    with ExitStack() as threads, gate.closed():
        for number in range(4):
            threads.enter_context(started(enter(gate, log, number)))
            acquired(watched.runs_waiting)
        assert log == []
    assert log == [0, 1, 2, 3]


def test_as_many_as_there_are_slots_enter_when_the_gate_opens(watched: Watched) -> None:
    gate, full = Gate(2), threading.Barrier(2)

    def meet() -> None:
        with gate:
            full.wait(BOUND_S)

    with ExitStack() as threads, gate.closed():
        threads.enter_context(started(meet, meet))
        acquired(watched.runs_waiting)
        acquired(watched.runs_waiting)
    assert not full.broken


def test_a_run_that_comes_while_a_closer_waits_enters_after_it(watched: Watched) -> None:
    gate, log = Gate(2), list[Any]()

    def close() -> None:
        with gate.closed():
            log.append("closed")

    with ExitStack() as threads, gate:
        threads.enter_context(started(close))
        acquired(watched.closers_waiting)
        threads.enter_context(started(enter(gate, log, "late")))  # one of the two slots is free, yet it has to wait
        acquired(watched.runs_waiting)
        log.append("left")
    assert log == ["left", "closed", "late"]


def test_a_gate_closes_again_and_again_and_admits_in_between() -> None:
    gate, log = Gate(1), list[Any]()
    for number in range(3):
        with gate.closed():
            log.append("closed")
        enter(gate, log, number)()
    assert log == ["closed", 0, "closed", 1, "closed", 2]


def test_an_error_inside_gives_the_slot_and_the_gate_back() -> None:
    gate, log = Gate(1), list[Any]()
    for name, held in (("run", gate), ("closed", gate.closed())):
        with pytest.raises(Interrupted), held:
            raise Interrupted
        enter(gate, log, name)()
    assert log == ["run", "closed"]


@pytest.mark.parametrize(
    "admitted_first",
    [pytest.param(False, id="while-it-waits"), pytest.param(True, id="when-it-has-just-been-admitted")],
)
def test_an_interrupted_wait_loses_no_slot(watched: Watched, admitted_first: bool) -> None:
    gate, log, holder = Gate(1), list[Any](), ExitStack()

    def interrupt(turn: threading.Event) -> None:
        if admitted_first:
            holder.close()
            assert turn.is_set()
        raise Interrupted

    watched.on_turn = interrupt
    holder.enter_context(gate)
    with pytest.raises(Interrupted), gate:
        pass
    holder.close()
    watched.on_turn = lambda turn: None
    enter(gate, log, "next")()
    with gate.closed():
        log.append("closed")
    assert log == ["next", "closed"]


def test_an_interrupted_closing_leaves_the_gate_open(watched: Watched) -> None:
    gate, log = Gate(1), list[Any]()

    def interrupt(*_: object) -> None:
        raise Interrupted

    watched.on_closer = interrupt
    with gate, pytest.raises(Interrupted), gate.closed():
        pass
    watched.on_turn = interrupt  # at a gate that is still closed, the next run would wait for ever
    enter(gate, log, "next")()
    assert log == ["next"]


class Relay:
    """Runs that keep the gate saturated: each stays inside until another has come in after it, or none can come.

    So the gate is never empty by chance, only because it has stopped admitting.
    """

    def __init__(self, workers: int) -> None:
        self.changed = threading.Condition()
        self.working = workers
        self.waiting: set[int] = set()
        self.inside = 0
        self.entered = 0

    def waits(self, _: threading.Event) -> None:
        with self.changed:
            self.waiting.add(threading.get_ident())
            self.changed.notify_all()

    def stay(self) -> None:
        with self.changed:
            self.waiting.discard(threading.get_ident())
            self.inside += 1
            self.entered += 1
            mine = self.entered
            self.changed.notify_all()
            others = self.changed.wait_for(
                lambda: self.entered > mine or len(self.waiting) + self.inside == self.working, BOUND_S
            )
            self.inside -= 1
        assert others

    def ends(self) -> None:
        with self.changed:
            self.working -= 1
            self.changed.notify_all()


def test_nobody_starves_while_200_closings_meet_a_saturated_gate(watched: Watched) -> None:
    slots, workers, closers, closings = 2, 8, 4, 200
    gate, relay, began = Gate(slots), Relay(workers), threading.Barrier(workers + closers)
    seen_inside = list[int]()
    runs_after_the_last = list[int]()
    watched.on_turn = relay.waits

    def work() -> None:
        began.wait(BOUND_S)
        done = False
        while not done:
            with gate:
                done = len(seen_inside) == closings
                relay.stay()
        runs_after_the_last.append(threading.get_ident())
        relay.ends()

    def close() -> None:
        began.wait(BOUND_S)
        for _ in range(closings // closers):
            with gate.closed():
                seen_inside.append(relay.inside)

    with started(*[work] * workers, *[close] * closers):
        pass
    assert seen_inside == [0] * closings
    assert len(runs_after_the_last) == workers
