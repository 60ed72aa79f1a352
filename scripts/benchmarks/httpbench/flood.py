"""What an overload did: rates, latencies, memory, recovery."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from container import quantile

from httpbench.connection import BROKEN, Answer, Piece
from httpbench.targets import Target
from httpbench.wrk import Sample

OK, REFUSED = 200, 503
CALM, IN_A_ROW = 1.25, 3  # a second is calm again up to so much of the worst one before


class Latency(NamedTuple):
    """Milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency | None:
        if not seconds:
            return None
        ordered = sorted(1e3 * value for value in seconds)
        return cls(quantile(ordered, 0.5), quantile(ordered, 0.99))


class Phase(NamedTuple):
    """Rates per second; `failures` by status, BROKEN for connections; `late` in ms, None where nothing is planned."""

    name: str
    offered: float
    accepted: float
    latency: Latency | None
    refused: float = 0.0
    refusal: Latency | None = None
    without_when: int = 0  # refusals without a Retry-After
    failures: dict[int, int] = {}
    late: float | None = None

    @classmethod
    def of_wrk(cls, name: str, sample: Sample) -> Phase:
        failures = {status: count for status, count in ((-1, sample.refused), (BROKEN, sample.broken)) if count}
        return cls(name, sample.rate, sample.rate, Latency(sample.p50, sample.p99), failures=failures)

    @property
    def failed(self) -> int:
        return sum(self.failures.values()) + self.without_when


class Flood(NamedTuple):
    """Memory in MB, once a second through overload and recovery; `recovered` in seconds, None if not while watched."""

    capacity: float
    phases: list[Phase]
    memory: list[float]
    recovered: float | None
    seconds: float
    watched: float

    @property
    def _recovered(self) -> float:
        return self.watched if self.recovered is None else self.recovered

    def targets(self) -> list[Target]:
        at_capacity, *_, flooded, after = self.phases
        growth = self.memory[-1] / self.memory[round(self.seconds / 4)] if self.memory else None
        failures = flooded.failed + after.failed
        ratio = None
        if at_capacity.latency and flooded.latency:
            ratio = flooded.latency.p99 / at_capacity.latency.p99
        return [
            Target("p99 of accepted answers, overload / capacity", 2, ratio, at_most=True),
            Target("accepted per second, overload / capacity", 0.95, flooded.accepted / self.capacity),
            Target("neither accepted nor refused with Retry-After", 0, float(failures), at_most=True),
            Target("memory, end / a quarter into the overload", 1.05, growth, at_most=True),
            Target("seconds until latency is as before", 5, self._recovered, at_most=True),
        ]


def summed_up(name: str, piece: Piece, answers: Sequence[Answer]) -> Phase:
    """Rates are of what was answered before the piece was over, all else of everything that was asked in it."""
    by_status: dict[int, list[float]] = defaultdict(list)
    for answer in answers:
        by_status[answer.status].append(answer.seconds)
    accepted, refused = by_status.pop(OK, []), by_status.pop(REFUSED, [])
    in_time = Counter(answer.status for answer in answers if answer.ended <= piece.seconds)
    without_when = sum(answer.status == REFUSED and not answer.says_when for answer in answers)
    late = Latency.of([answer.late for answer in answers])
    return Phase(
        name,
        piece.rate,
        in_time[OK] / piece.seconds,
        Latency.of(accepted),
        in_time[REFUSED] / piece.seconds,
        Latency.of(refused),
        without_when,
        {status: len(times) for status, times in by_status.items()},
        late and late.p99,
    )


def windows(piece: Piece, answers: Sequence[Answer]) -> list[Phase]:
    """Second by second, by when a request was due."""
    by_second: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_second[int(answer.due)].append(answer)
    return [summed_up(str(second), Piece(piece.rate, 1.0), by_second[second]) for second in sorted(by_second)]


def recovered_after(before: Sequence[Phase], after: Sequence[Phase]) -> float | None:
    """Seconds until everything is accepted, and as fast as before, for some seconds in a row."""
    limit = CALM * max((p99 for window in before if (p99 := _p99(window)) is not None), default=0.0)
    calm = [p99 is not None and p99 <= limit for p99 in map(_p99, after)]
    starts = (index for index in range(len(calm) - IN_A_ROW + 1) if all(calm[index : index + IN_A_ROW]))
    found = next(starts, None)
    return None if found is None else float(found)


def _p99(window: Phase) -> float | None:
    """None if not everything was accepted."""
    if window.refusal or window.failures or window.latency is None:
        return None
    return window.latency.p99
