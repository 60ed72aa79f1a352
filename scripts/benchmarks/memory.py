"""What a container of a 410 MB model occupies at each step, against the tensors that must be resident then.

    scripts/bench memory [--json]

Resident memory of the process (VmRSS) beyond what it had before the container, with the new weights held by the caller;
the peak where one is named. Runs on the CPU, in about a minute.
"""

from __future__ import annotations

import argparse
import gc
import json
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil
import torch
from models import Mlp, Subject, compiled
from rich.console import Console
from rich.table import Table

from aoti_serve.model.container import Container

SWAPS = 200


class Row(NamedTuple):
    """Megabytes: what was measured, and the tensors that must be there."""

    step: str
    resident: float
    needed: float

    @property
    def ratio(self) -> float:
        return self.resident / self.needed if self.needed else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    progress = Console(stderr=True)
    with TemporaryDirectory() as name, progress.status("compiling and measuring"):
        subject = compiled(Mlp(3200, 10), (torch.randn(8, 3200),), Path(name), "large", stock=False)
        rows = measured(subject)
    print(json.dumps([row._asdict() for row in rows], indent=1)) if options.json else show(rows)


def show(rows: list[Row]) -> None:
    table = Table("step", "resident, MB", "needed, MB", "ratio")
    for row in rows:
        table.add_row(row.step, f"{row.resident:,.0f}", f"{row.needed:,.0f}", f"{row.ratio:.2f}" if row.needed else "-")
    Console().print(table)


def measured(subject: Subject) -> list[Row]:
    weights = subject.weights
    once = sum(spec.nbytes for spec in subject.package.constants) / 1e6
    subject.module(*subject.inputs)  # torch's own buffers and threads are there
    before, rows = resident(), []

    def note(step: str, copies: int, value: float | None = None) -> None:
        rows.append(Row(step, (resident() if value is None else value) - before, copies * once))

    container = Container(subject.package, num_runners=2)
    note("loaded, no weights yet", 0)
    note("while the first version is staged (peak)", 1, peak(lambda: container.stage(weights)))
    container.commit()
    container.run(list(subject.inputs))
    note("after the first commit", 1)
    note("while the next version is staged (peak)", 2, peak(lambda: container.stage(weights)))
    container.commit()
    note("after its commit, the previous version kept", 2)
    container.release()
    note("after release()", 1)
    for _ in range(SWAPS):
        container.stage(weights)
        container.commit()
        container.run(list(subject.inputs))
    note(f"after {SWAPS} swaps, the previous version kept", 2)
    for _ in range(SWAPS):
        container.stage(weights)
        container.commit()
        container.release()
    note(f"after {SWAPS} swaps, released each time", 1)
    container.close()
    note("after close()", 0)
    return rows


def resident() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 1e6


def peak(work: Callable[[], Any]) -> float:
    """The largest resident size, in MB, while `work` runs."""
    process, done, seen = psutil.Process(), threading.Event(), [0.0]

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(process.memory_info().rss / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(seen)


if __name__ == "__main__":
    main()
