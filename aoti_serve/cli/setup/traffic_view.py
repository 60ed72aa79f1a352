"""`aoti-serve demo traffic`: for each second requests, p50 and p99 in milliseconds, errors, accuracy, versions."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter, deque
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from aoti_serve.cli.client import DEFAULT_URL, Url
from aoti_serve.cli.console import phases, reports_errors

ROWS_SHOWN = 15


@reports_errors
def traffic(
    url: Url = DEFAULT_URL,
    connections: Annotated[int, typer.Option(min=1, help="How many clients ask at once.")] = 4,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after so many; 0: with Ctrl-C.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per second.")] = False,
) -> None:
    """Send the demo's held-out images to a server, over and over, and show what comes back.

    A table on a terminal; elsewhere, in a pipe for one, a line a second. SIGTERM, as `timeout` sends it, ends it as
    Ctrl-C does. Exit status 1 if there were errors, or no answer.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with phases() as phase:
        phase("importing torch and scikit-learn")
        from aoti_serve.demo.traffic import Traffic
    rows: deque[dict[str, object]] = deque(maxlen=ROWS_SHOWN)
    answered, errors = 0, Counter[str]()
    drawn = sys.stdout.isatty() and not as_json
    live = Live(traffic_table(rows), console=Console(quiet=not drawn))
    with suppress(KeyboardInterrupt), live:
        for at, second in enumerate(Traffic(url, connections).seconds(seconds), start=1):
            rows.append(second.summary(at))
            live.update(traffic_table(rows))
            answered += len(second.latencies)
            errors.update(second.errors)
            if not drawn:
                print(json.dumps(rows[-1]) if as_json else _line(rows[-1]), flush=True)
    if not as_json:
        print(f"{answered} answers, {sum(errors.values())} errors", *errors.most_common(3), sep="\n")
    if errors or not answered:
        sys.exit(1)


def traffic_table(rows: deque[dict[str, object]]) -> Table:
    table = Table("second", "requests/s", "p50 ms", "p99 ms", "errors", "accuracy", "versions answering")
    for row in rows:
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        versions = row["versions"]
        assert isinstance(versions, dict)
        seen = ", ".join(f"{version} ({count})" for version, count in versions.items())
        figures = [str(row[key]) for key in ("second", "requests_per_s", "p50_ms", "p99_ms", "errors")]
        table.add_row(*figures, accuracy, seen, style="red" if row["errors"] else "")
    return table


def _line(row: dict[str, object]) -> str:
    """A second in one line, for a pipe or a file."""
    figures = [f"{key} {row[key]}" for key in ("second", "requests_per_s", "p99_ms", "errors", "accuracy", "versions")]
    return "  ".join(figures)
