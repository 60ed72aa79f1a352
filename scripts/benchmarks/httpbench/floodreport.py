"""An overload as tables and as JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from httpbench.flood import Flood, Latency, Phase
from httpbench.tables import console, plain_table, target_table


def as_dict(flood: Flood) -> dict[str, Any]:
    return {
        "capacity": flood.capacity,
        "phases": [_phase_dict(phase) for phase in flood.phases],
        "memory_mb": {"start": flood.memory[0], "peak": max(flood.memory), "end": flood.memory[-1]},
        "memory_mb_each_second": flood.memory,
        "recovered_after_s": flood.recovered,
        "targets": [target.as_dict() for target in flood.targets()],
    }


def _phase_dict(phase: Phase) -> dict[str, Any]:
    latencies = {"latency": phase.latency, "refusal": phase.refusal}
    return phase._asdict() | {name: value and value._asdict() for name, value in latencies.items()}


def show(flood: Flood) -> None:
    out = console()
    out.print(_phase_table(flood))
    for phase in flood.phases:
        if phase.failed:
            told = ", ".join(f"{count} x {status or 'broken'}" for status, count in phase.failures.items())
            out.print(f"failures, {phase.name}: {told or 'none'}; refusals without Retry-After: {phase.without_when}")
    start, peak, end = flood.memory[0], max(flood.memory), flood.memory[-1]
    out.print(f"memory of all processes, MB: {start:,.0f} at the start, {peak:,.0f} at most, {end:,.0f} after")
    out.print(target_table(flood.targets()))


def _phase_table(flood: Flood) -> Table:
    columns = ("offered/s", "accepted/s", "p50", "p99", "refused/s", "p50", "p99", "failures", "late")
    table = plain_table(f"capacity {flood.capacity:,.0f} requests/s; latencies in ms", columns)
    for phase in flood.phases:
        table.add_row(phase.name, *_cells(phase))
    return table


def _cells(phase: Phase) -> list[str]:
    late = "-" if phase.late is None else f"{phase.late:.1f}"
    rates = f"{phase.offered:,.0f}", f"{phase.accepted:,.0f}", f"{phase.refused:,.0f}"
    return [*rates[:2], *_times(phase.latency), rates[2], *_times(phase.refusal), str(phase.failed or "-"), late]


def _times(latency: Latency | None) -> tuple[str, str]:
    return ("-", "-") if latency is None else (f"{latency.p50:,.1f}", f"{latency.p99:,.1f}")
