"""What one run has found: as tables and as JSON."""

from __future__ import annotations

import platform
from typing import Any, NamedTuple

import psutil

from httpbench.contenders import OURS
from httpbench.found import Found
from httpbench.loads import ALONE, BUSY, SWEEPS
from httpbench.tables import cells_table, console, heavy_table, load_table, sweep_table, target_table
from httpbench.targets import Target, cells, ratios


class Result(NamedTuple):
    """One run: the model of all tables, and the heavy one."""

    found: Found
    heavy: Found
    targets: list[Target]
    rounds: int
    seconds: float

    @property
    def failures(self) -> dict[str, str]:
        return self.found.failures | {f"heavy, {name}": why for name, why in self.heavy.failures.items()}


def as_dict(result: Result) -> dict[str, Any]:
    found = result.found
    return {
        "ratios": ratios(found),
        "cells": cells(found),
        "best_peers": {load.label: found.quickest(load=load) for load in found.loads(OURS)},
        "targets": [target.as_dict() for target in result.targets],
        "medians": _medians(found),
        "heavy": _medians(result.heavy),
        "failures": result.failures,
        "rounds": result.rounds,
        "seconds": result.seconds,
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    }


def show(result: Result) -> None:
    out = console()
    for load in (BUSY, ALONE):
        out.print(load_table(result.found, load))
    for title, loads in SWEEPS.items():
        table = sweep_table(result.found, title, loads)
        if table.row_count:
            out.print(table)
    if result.heavy.names():
        out.print(heavy_table(result.heavy))
    out.print(cells_table(result.found, cells(result.found)))
    out.print(target_table(result.targets))
    for name, why in result.failures.items():
        out.print(f"[red]{name}[/red]: ", end="")
        out.print(why, markup=False)


def _medians(found: Found) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [load._asdict() | sample._asdict() for load in found.loads(name) if (sample := found.median(name, load))]
        for name in found.names()
    }
