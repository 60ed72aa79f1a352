"""The tables of the reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from httpbench.contenders import BARE, OURS
from httpbench.found import Found
from httpbench.loads import HEAVY_BATCH, HEAVY_RUNNERS, Load
from httpbench.targets import Target, of_bare
from httpbench.wrk import Sample

ROW_KB, WIDTH = 4, 120
LATENCIES = ("p50", "p90", "p99 ms")
VERDICTS = {True: "[green]met[/green]", False: "[red]missed[/red]", None: "not measured"}


def console() -> Console:
    """Wide enough for all of them."""
    made = Console()
    made.width = max(made.width, WIDTH)
    return made


def plain_table(title: str, columns: Iterable[str] = ()) -> Table:
    """The first column is for names; the others are figures."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def load_table(found: Found, load: Load) -> Table:
    """All of them under one load, the fastest last; `differ` is how far the rounds do."""
    ours = found.median(OURS, load)
    title = f"{load.label}, 1 row per request; ratio: requests/s of {OURS} over theirs"
    table = plain_table(title, ("req/s", *LATENCIES, "non-2xx", "broken", "ratio", "differ"))
    samples = {name: sample for name in found.names() if (sample := found.median(name, load))}
    for name in sorted(samples, key=lambda name: samples[name].rate):
        sample = samples[name]
        ratio = f"{ours.rate / sample.rate:.2f}" if ours and sample.rate and name != BARE else "-"
        table.add_row(name, *_cells(name, sample), ratio, f"{found.spread(name, load):.2f}x")
    return table


def _cells(name: str, sample: Sample) -> list[str]:
    if name == BARE:
        return [f"{sample.rate:,.0f} rows", *["-"] * 5]
    latencies = [f"{value:,.2f}" for value in (sample.p50, sample.p90, sample.p99)]
    return [f"{sample.rate:,.0f}", *latencies, str(sample.refused or "-"), str(sample.broken or "-")]


def sweep_table(found: Found, title: str, loads: Sequence[Load]) -> Table:
    by_rows = len({load.rows for load in loads}) > 1
    columns = [_size(load.rows) if by_rows else str(load.connections) for load in loads]
    table = plain_table(f"{title}: {'rows/s' if by_rows else 'requests/s'}, p99 in ms", columns)
    for name in found.names():
        samples = [found.median(name, load) for load in loads]
        if sum(sample is not None for sample in samples) > 1:
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


def heavy_table(heavy: Found) -> Table:
    title = f"heavy: 20 ms per batch of {HEAVY_BATCH}, {HEAVY_RUNNERS} runners"
    table = plain_table(title, ("rows per request", "rows/s", "of bare", "p50", "p99 ms"))
    for name in heavy.names():
        for load in heavy.loads(name):
            table.add_row(name, *_heavy_cells(heavy, name, load))
    return table


def _heavy_cells(heavy: Found, name: str, load: Load) -> tuple[str, ...]:
    sample, share = heavy.median(name, load), of_bare(heavy, name, load)
    assert sample is not None
    if name == BARE:
        return "-", f"{sample.rate:,.0f}", "-", "-", "-"
    latencies = f"{sample.p50:.1f}", f"{sample.p99:.1f}"
    return str(load.rows), f"{sample.rate * load.rows:,.0f}", "-" if share is None else f"{share:.3f}", *latencies


def cells_table(found: Found, cells: dict[str, float]) -> Table:
    """Ours beside the best peer, load by load."""
    table = plain_table(f"{OURS} over the best peer, requests/s", ("ratio", "the best peer"))
    labels = {load.label: load for load in found.loads(OURS)}
    for label, ratio in cells.items():
        table.add_row(label, f"{ratio:.2f}", found.quickest(load=labels[label]))
    return table


def target_table(targets: Iterable[Target]) -> Table:
    table = plain_table("targets", ("wanted", "reached", ""))
    for target in targets:
        bound = f"{'at most' if target.at_most else 'at least'} {target.bound:g}"
        reached = "-" if target.reached is None else f"{target.reached:.2f}"
        table.add_row(target.what, bound, reached, VERDICTS[target.met])
    return table
