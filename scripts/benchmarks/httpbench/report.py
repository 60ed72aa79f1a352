"""The tables, and the same as JSON."""

from __future__ import annotations

import platform
from typing import Any, NamedTuple

import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from httpbench.contenders import ALONE, BUSY, HEAVY_BATCH, HEAVY_RUNNERS, Load
from httpbench.rounds import BARE, Found
from httpbench.targets import Target, best_placement, fastest_of_ray, of_bare, ratios
from httpbench.wrk import Sample

ROW_KB, WIDTH = 4, 120
# The columns of a sweep, and which loads belong to it.
SWEEPS = {
    "connections, 1 row per request": [Load(count) for count in (1, 8, 64, 256)],
    "rows per request, 8 connections": [Load(8, rows) for rows in (1, 8, 64)],
    "rows per request, 1 connection": [Load(1, rows) for rows in (1, 16, 256, 1024, 4096)],
}


class Result(NamedTuple):
    """One run: the same model everywhere, and the heavy one of ours beside the bare container."""

    found: Found
    heavy: Found
    targets: list[Target]
    rounds: int
    seconds: float


def as_dict(result: Result) -> dict[str, Any]:
    found = result.found
    return {
        "ratios": ratios(found),
        "best": best_placement(found),
        "fastest_of_ray": fastest_of_ray(found),
        "targets": [target.as_dict() for target in result.targets],
        "medians": _medians(found),
        "heavy": _medians(result.heavy),
        "failures": found.failures | result.heavy.failures,
        "rounds": result.rounds,
        "seconds": result.seconds,
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    }


def show(result: Result) -> None:
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(_main_table(result.found))
    console.print(_alone_table(result.found))
    for title, loads in SWEEPS.items():
        table = _sweep_table(result.found, title, loads)
        if table.row_count:
            console.print(table)
    if result.heavy.names():
        console.print(_heavy_table(result.heavy))
    console.print(target_table(result.targets))
    for name, why in (result.found.failures | result.heavy.failures).items():
        console.print(f"[red]{name}[/red]: ", end="")
        console.print(why, markup=False)


def _medians(found: Found) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [load._asdict() | _median(found, name, load)._asdict() for load in found.loads(name)]
        for name in found.names()
    }


def _median(found: Found, name: str, load: Load) -> Sample:
    sample = found.median(name, load)
    assert sample is not None
    return sample


def _main_table(found: Found) -> Table:
    """At 64 connections; `differ` is how far the rounds do."""
    name = best_placement(found)
    best = found.median(name)
    table = plain_table(f"{BUSY.connections} connections, 1 row per request; ratio: requests/s of {name} over theirs")
    for column in ("req/s", "p50", "p90", "p99 ms", "non-2xx", "broken", "ratio", "differ"):
        table.add_column(column, justify="right")
    for other, sample in _fastest_last(found, BUSY):
        ratio = f"{best.rate / sample.rate:.2f}" if best and sample.rate and other != BARE else "-"
        table.add_row(other, *_cells(other, sample), ratio, f"{found.spread(other):.2f}x")
    return table


def _alone_table(found: Found) -> Table:
    table = plain_table("1 connection, 1 row per request")
    for column in ("req/s", "p50", "p90", "p99 ms", "non-2xx", "broken"):
        table.add_column(column, justify="right")
    for name, sample in _fastest_last(found, ALONE):
        table.add_row(name, *_cells(name, sample))
    return table


def _fastest_last(found: Found, load: Load) -> list[tuple[str, Sample]]:
    samples = [(name, _median(found, name, load)) for name in found.names() if load in found.loads(name)]
    return sorted(samples, key=lambda pair: pair[1].rate)


def _cells(name: str, sample: Sample) -> list[str]:
    if name == BARE:
        return [f"{sample.rate:,.0f} rows", *["-"] * 5]
    latencies = [f"{value:,.2f}" for value in (sample.p50, sample.p90, sample.p99)]
    return [f"{sample.rate:,.0f}", *latencies, str(sample.refused or "-"), str(sample.broken or "-")]


def plain_table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    return table


def _sweep_table(found: Found, title: str, loads: list[Load]) -> Table:
    by_rows = len({load.rows for load in loads}) > 1
    columns = [_size(load.rows) if by_rows else str(load.connections) for load in loads]
    unit = "rows/s" if by_rows else "requests/s"
    table = plain_table(f"{title}: {unit}, p99 in ms")
    for column in columns:
        table.add_column(column, justify="right")
    for name in found.names():
        samples = [found.median(name, load) for load in loads]
        if sum(sample is not None for sample in samples) > 2:
            cells = (_cell(load, sample, by_rows=by_rows) for load, sample in zip(loads, samples, strict=True))
            table.add_row(name, *cells)
    return table


def _cell(load: Load, sample: Sample | None, *, by_rows: bool) -> str:
    if sample is None:
        return "-"
    failed = sample.refused + sample.broken
    rate = sample.rate * (load.rows if by_rows else 1)
    return f"{rate:,.0f}, {sample.p99:,.1f}" + (f", {failed} failed" if failed else "")


def _size(rows: int) -> str:
    kilobytes = rows * ROW_KB
    return f"{rows} ({kilobytes} KB)" if kilobytes < 1024 else f"{rows} ({kilobytes // 1024} MB)"


def _heavy_table(heavy: Found) -> Table:
    table = plain_table(f"heavy: 20 ms per batch of {HEAVY_BATCH}, {HEAVY_RUNNERS} runners")
    for column in ("rows per request", "rows/s", "of bare", "p50", "p99 ms"):
        table.add_column(column, justify="right")
    for name in heavy.names():
        for load in heavy.loads(name):
            sample, share = _median(heavy, name, load), of_bare(heavy, name, load)
            figures = ("-", f"{sample.rate:,.0f}", "-", "-", "-")
            if name != BARE:
                rate, latencies = sample.rate * load.rows, (f"{sample.p50:.1f}", f"{sample.p99:.1f}")
                figures = (str(load.rows), f"{rate:,.0f}", "-" if share is None else f"{share:.3f}", *latencies)
            table.add_row(name, *figures)
    return table


def target_table(targets: list[Target]) -> Table:
    table = plain_table("targets")
    for column in ("target", "reached", ""):
        table.add_column(column)
    for target in targets:
        bound = f"{'at most' if target.at_most else 'at least'} {target.bound:g}"
        verdict = {True: "[green]met[/green]", False: "[red]missed[/red]", None: "not measured"}[target.met]
        table.add_row(target.what, bound, "-" if target.reached is None else f"{target.reached:.2f}", verdict)
    return table
