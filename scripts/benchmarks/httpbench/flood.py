"""What an overload did: rates, latencies, memory, recovery; as a table and as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from container import quantile
from rich.console import Console
from rich.table import Table

from httpbench.openloop import BROKEN, Answer, Piece
from httpbench.report import WIDTH, plain_table, target_table
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
        failures = sum(map(_failed, (flooded, after)))
        ratio = None
        if at_capacity.latency and flooded.latency:
            ratio = flooded.latency.p99 / at_capacity.latency.p99
        return [
            Target("p99 of accepted answers, overload / capacity", 2, ratio, at_most=True),
            Target("accepted per second, overload / capacity", 0.9, flooded.accepted / self.capacity),
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


def as_dict(floods: dict[str, Flood]) -> dict[str, Any]:
    return {
        placement: {
            "capacity": flood.capacity,
            "phases": [_phase_dict(phase) for phase in flood.phases],
            "memory_mb": {"start": flood.memory[0], "peak": max(flood.memory), "end": flood.memory[-1]},
            "memory_mb_each_second": flood.memory,
            "recovered_after_s": flood.recovered,
            "targets": [target.as_dict() for target in flood.targets()],
        }
        for placement, flood in floods.items()
    }


def _phase_dict(phase: Phase) -> dict[str, Any]:
    latencies = {"latency": phase.latency, "refusal": phase.refusal}
    return phase._asdict() | {name: value and value._asdict() for name, value in latencies.items()}


def show(floods: dict[str, Flood]) -> None:
    console = Console()
    console.width = max(console.width, WIDTH)
    for placement, flood in floods.items():
        console.print(_phase_table(placement, flood))
        for phase in filter(_failed, flood.phases):
            told = ", ".join(f"{count} x {status or 'broken'}" for status, count in phase.failures.items())
            console.print(
                f"failures, {phase.name}: {told or 'none'}; refusals without Retry-After: {phase.without_when}"
            )
        start, peak, end = flood.memory[0], max(flood.memory), flood.memory[-1]
        console.print(f"memory of all processes, MB: {start:,.0f} at the start, {peak:,.0f} at most, {end:,.0f} after")
        console.print(target_table(flood.targets()))


def _phase_table(placement: str, flood: Flood) -> Table:
    table = plain_table(f"{placement}: capacity {flood.capacity:,.0f} requests/s; latencies in ms")
    for column in ("offered/s", "accepted/s", "p50", "p99", "refused/s", "p50", "p99", "failures", "late"):
        table.add_column(column, justify="right", no_wrap=True)
    for phase in flood.phases:
        table.add_row(phase.name, *_cells(phase))
    return table


def _cells(phase: Phase) -> list[str]:
    late = "-" if phase.late is None else f"{phase.late:.1f}"
    rates = f"{phase.offered:,.0f}", f"{phase.accepted:,.0f}", f"{phase.refused:,.0f}"
    return [*rates[:2], *_times(phase.latency), rates[2], *_times(phase.refusal), str(_failed(phase) or "-"), late]


def _failed(phase: Phase) -> int:
    return sum(phase.failures.values()) + phase.without_when


def _times(latency: Latency | None) -> tuple[str, str]:
    return ("-", "-") if latency is None else (f"{latency.p50:,.1f}", f"{latency.p99:,.1f}")
