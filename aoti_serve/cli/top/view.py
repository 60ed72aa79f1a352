"""The view of one model: its figures as sparklines, and the status below. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from aoti_serve.cli.answers import title
from aoti_serve.cli.render import status_view
from aoti_serve.cli.top.samples import Sample
from aoti_serve.cluster.status import WeightsStatus

LEVELS = "▁▂▃▄▅▆▇█"
SPARKS = 44  # so that a line fits 80 columns
FIGURES = {
    "requests/s": "requests",
    "p50 ms": "p50",
    "p99 ms": "p99",
    "rows in a batch": "rows",
    "rows that wait": "waiting",
    "errors/s": "errors",
}


def top_view(
    samples: Sequence[Sample | None], status: WeightsStatus | None, trouble: str | None, hint: str, now: float
) -> RenderableType:
    """`samples` are a second apart, the newest last; None is one in which nothing was heard."""
    table = Table.grid(Column(min_width=16), Column(justify="right", min_width=9), Column(), padding=(0, 2, 0, 0))
    for name, field in FIGURES.items():
        values = [None if sample is None else getattr(sample, field) for sample in samples]
        table.add_row(name, figure_text(values[-1] if values else None), Text(sparkline(values), "cyan"))
    parts: list[RenderableType] = [Text(hint, "dim"), Text(), table, Text()]  # below, a low terminal would cut it off
    if trouble:
        parts.append(Text(f"{trouble}; trying again", "yellow", no_wrap=False, overflow="fold"))
    if status is not None:
        parts.append(status_view(status, now))
    return Group(*parts)


def line_of(model: str, sample: Sample | None, status: WeightsStatus | None) -> str:
    """The same in one line, for a pipe."""
    version = f"version {title(status.current)}" if status else "version -"
    figures = (f"{name} {figure_text(getattr(sample, field, None))}" for name, field in FIGURES.items())
    return "  ".join([model, version, *figures])


def sparkline(values: Iterable[float | None]) -> str:
    """The last of the values as blocks, the highest as the full one; a blank where nothing is known."""
    shown = list(islice(reversed(list(values)), SPARKS))[::-1]
    most = max([value for value in shown if value is not None], default=0.0)
    return "".join(" " if value is None else LEVELS[_level(value, most)] for value in shown)


def _level(value: float, most: float) -> int:
    return round(value / most * (len(LEVELS) - 1)) if most > 0 else 0


def figure_text(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
