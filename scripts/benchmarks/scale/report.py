"""What the runs of a scale benchmark say: tables and targets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.table import Table

from scale.simulated import ScaleRun
from scale.sockets import SocketRun
from scale.transfer import TransferRun

CPU_US, IDLE = 150.0, 0.02  # targets: CPU per member and swap, share of a core at 1,000 members


def tables(
    simulated: Sequence[ScaleRun], sockets: Sequence[SocketRun], transfers: Sequence[TransferRun]
) -> list[Table]:
    return [_simulated(simulated), _sockets(sockets), _transfers(transfers)]


def targets(simulated: Sequence[ScaleRun], sockets: Sequence[SocketRun]) -> dict[str, bool]:
    """Each target, and whether it is met."""
    met = {f"{run.members} members: {CPU_US:g} us per member and swap": run.cpu_us <= CPU_US for run in simulated}
    met |= {f"{run.members} connections: {CPU_US:g} us per member and swap": run.cpu_us <= CPU_US for run in sockets}
    return met | {
        f"{run.members} connections: {IDLE:.0%} of a core at rest": run.idle_cpu < IDLE
        for run in sockets
        if run.members == 1_000
    }


def _simulated(runs: Sequence[ScaleRun]) -> Table:
    table = Table("members", "swap, s", "CPU, us", "messages", "at rest", "recovery, s", "broken", title="simulated")
    for run in runs:
        swap = f"{statistics.median(run.swap_s):.2f} ({min(run.swap_s):.2f} to {max(run.swap_s):.2f})"
        table.add_row(
            f"{run.members:,}",
            swap,
            f"{run.cpu_us:.0f}",
            f"{run.messages:.1f}",
            f"{run.idle_cpu:.2%}",
            f"{run.recovery_s:.2f}",
            str(run.broken),
        )
    return table


def _sockets(runs: Sequence[SocketRun]) -> Table:
    table = Table("members", "join, s", "swap, s", "CPU, us", "at rest", "recovery, s", title="real connections")
    for run in runs:
        table.add_row(
            f"{run.members:,}",
            f"{run.join_s:.2f}",
            f"{run.swap_s:.3f}",
            f"{run.cpu_us:.0f}",
            f"{run.idle_cpu:.2%}",
            f"{run.recovery_s:.2f}",
        )
    return table


def _transfers(runs: Sequence[TransferRun]) -> Table:
    table = Table("nodes", "most, s", "all, s", "CPU, us", "calls", "put", "kept", title="transfer of 64 chunks")
    for run in runs:
        table.add_row(
            f"{run.nodes:,}",
            f"{run.most:.1f}",
            f"{run.finished:.1f}",
            f"{run.microseconds:.1f}",
            f"{run.calls:.2f}",
            str(run.put),
            str(run.kept),
        )
    return table
