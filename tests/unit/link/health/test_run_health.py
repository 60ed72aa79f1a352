"""A replica's health: whatever clients do, a sound replica is trusted, and a fault shows within a period."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.errors import DeadlineExceeded, IndexOutOfRange, ReplicaFailed, RuntimeFailed
from aoti_serve.link.health.run_health import PROBE_REST_S, RunHealth

PERIOD, TICK = 10.0, 0.25
FAILURE = RuntimeFailed(call="run", detail="an illegal memory access")
GUILTY = IndexOutOfRange(name="x", low=0, high=9, table="t")
ENDS: list[BaseException | None] = [
    None,
    FAILURE,
    ReplicaFailed(raised="ValueError", detail=""),
    GUILTY,
    DeadlineExceeded(model="m", timeout=1.0),
    asyncio.CancelledError(),
]


class Replica:
    """A replica as its judge sees it. `state` is `sound`, `failing` or `stuck`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.now = 0.0
        self.state = "sound"
        self.seconds = seconds
        self.probes = 0
        self.health = RunHealth(PERIOD, lambda: self.now)
        self._probe_began: float | None = None

    def run(self, error: BaseException | None = None) -> None:
        """A client's run; `error` is the client's own fault."""
        began = self.health.begin()
        if self.state == "stuck":
            self.health.end(began, asyncio.CancelledError())  # its client has lost patience
        else:
            self.health.end(began, FAILURE if self.state == "failing" else error)

    def tick(self) -> None:
        self.now += TICK
        if self._probe_began is None and self.health.probe_due:
            self.probes += 1
            self.health.begin_probe()
            self._probe_began = self.health.begin()
        if self._probe_began is not None and self.state != "stuck" and self.now - self._probe_began >= self.seconds:
            began, self._probe_began = self._probe_began, None
            failure = FAILURE if self.state == "failing" else None
            self.health.end(began, failure)
            self.health.end_probe(failure)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.tick()


def proven(seconds: float = 0.0) -> Replica:
    replica = Replica(seconds)
    replica.pass_time(max(1.0, 2 * seconds))
    assert replica.health.trusted
    return replica


moments = st.one_of(st.sampled_from(ENDS), st.floats(0.25, 12.0))


def live(replica: Replica, life: list[BaseException | float | None]) -> None:
    for moment in life:
        if isinstance(moment, float):
            replica.pass_time(moment)
        else:
            replica.run(moment)


def test_nothing_is_trusted_before_it_has_run() -> None:
    replica = Replica()
    assert replica.health.probe_due
    assert not replica.health.trusted
    assert replica.health.fault is None
    replica.run()
    assert replica.health.trusted
    assert replica.health.probe_due, "it is not known yet what it makes of a probe"


@given(st.lists(moments, max_size=30))
def test_whatever_clients_send_a_sound_replica_stays_trusted(life: list[BaseException | float | None]) -> None:
    replica = proven()
    for moment in life:
        live(replica, [moment])
        assert replica.health.trusted


@pytest.mark.parametrize("state", ["failing", "stuck"])
@given(before=st.lists(moments, max_size=20), traffic=st.booleans())
def test_a_fault_shows_within_a_period_and_ends_with_the_first_run_that_succeeds(
    state: str, before: list[BaseException | float | None], traffic: bool
) -> None:
    replica = proven()
    live(replica, before)
    replica.state = state
    broke = replica.now
    while replica.now < broke + PERIOD + 2 * TICK:
        replica.tick()
        if traffic:
            replica.run()
    assert not replica.health.trusted
    assert replica.health.fault
    replica.state = "sound"
    replica.pass_time(2 * PROBE_REST_S)
    assert replica.health.trusted
    assert replica.health.fault is None


def test_failing_shows_as_soon_as_a_probe_has_failed() -> None:
    replica = proven()
    replica.state = "failing"
    replica.run()
    replica.pass_time(PROBE_REST_S)
    assert replica.health.fault == "its runs fail (RuntimeFailed)"


def test_a_replica_that_answers_is_not_probed() -> None:
    replica = proven()
    before = replica.probes
    for _ in range(100):
        replica.run()
        replica.pass_time(1.0)
    assert replica.probes == before


def test_an_idle_one_is_probed_twice_in_a_period() -> None:
    replica = proven()
    before = replica.probes
    replica.pass_time(10 * PERIOD)
    assert 19 <= replica.probes - before <= 20


@pytest.mark.parametrize("seconds", [3.0, 30.0])
def test_slow_is_not_broken_and_its_probes_take_a_tenth_of_its_time(seconds: float) -> None:
    replica = proven(seconds)
    before = replica.probes
    for _ in range(100):
        replica.pass_time(seconds)
        assert replica.health.trusted
    assert (replica.probes - before) * seconds <= 0.1 * 100 * seconds + seconds


def test_a_flood_of_failures_is_one_probe_a_second() -> None:
    replica = proven()
    before = replica.probes
    for _ in range(200):
        for _ in range(10):
            replica.run(FAILURE)
        replica.tick()
    assert replica.probes - before <= 200 * TICK / PROBE_REST_S + 1
    assert replica.health.trusted
