"""What a soak came to, as one value that can be written, read again and shown."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from chaoslab.counts import Counts
from chaoslab.soak.latencies import Latencies
from chaoslab.soak.plot import Line, drawn
from chaoslab.soak.processes import ENOUGH, Processes, grown

Report = dict[str, Any]
JSON = "report.json"
CHARTS = ("requests", "p99", "memory", "descriptors")


def report_of(
    counts: Counts, latencies: Latencies, processes: Processes, seconds: dict[str, float], done: dict[str, Any]
) -> Report:
    """`seconds`: how long the storm and the calm after it took. `done`: what was caused, changed and sent, by name."""
    series = {role: [list(sample) for sample in samples] for role, samples in processes.series().items()}
    return {
        "made": time.strftime("%Y-%m-%d"),
        "machine": {"cores": psutil.cpu_count(), "memory_gb": round(psutil.virtual_memory().total / 2**30)},
        "versions": {"python": platform.python_version(), "ray": version("ray"), "torch": version("torch")},
        "seconds": seconds,
        "requests": counts.requests,
        "retried": counts.retried,
        "lost": counts.lost,
        "evidence": dict(counts.evidence),
        "slowest_ms": round(counts.slowest_ms),
        **done,
        "minutes": latencies.by_minute(),
        "processes": [asdict(lived) for lived in processes.lived()],
        "series": series,
    }


def write(report: Report, folder: Path) -> None:
    """report.json and the charts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).write_text(json.dumps(report, indent=1))
    for name, picture in charts(report).items():
        (folder / f"{name}.svg").write_text(picture)


def read(folder: Path) -> Report:
    found: Report = json.loads((folder / JSON).read_text())
    return found


def charts(report: Report) -> dict[str, str]:
    minutes = report["minutes"]
    by_minute = {name: [(row["minute"], row[name]) for row in minutes] for name in ("requests", "p50_ms", "p99_ms")}
    series = {role: samples for role, samples in report["series"].items() if len(samples) >= ENOUGH}
    memory = [Line(role, [(minute, used) for minute, used, _ in samples]) for role, samples in series.items()]
    descriptors = [Line(role, [(minute, count) for minute, _, count in samples]) for role, samples in series.items()]
    storm = report["seconds"]["storm"] / 60
    latencies = [Line("p99", by_minute["p99_ms"]), Line("p50", by_minute["p50_ms"])]
    return {
        "requests": drawn("Answers in each minute", [Line("answers", by_minute["requests"])], storm),
        "p99": drawn("Milliseconds until the answer, retries included", latencies, storm),
        "memory": drawn("Memory (PSS) in MB, of each kind the process that lived longest", memory, storm),
        "descriptors": drawn("Open descriptors, of each kind the process that lived longest", descriptors, storm),
    }


def steepest(report: Report, what: str) -> dict[str, dict[str, Any]]:
    """By role, the growth of the process whose `memory`, or `descriptors`, grew fastest."""
    found: dict[str, dict[str, Any]] = {}
    for lived in sorted(report["processes"], key=lambda each: float(each[what]["slope"])):
        found[lived["role"]] = lived[what]
    return found


def late_slopes(report: Report) -> dict[str, float]:
    """By role, the MB per hour in the last quarter of the time, of the process that lived longest."""
    found = {}
    for role, samples in report["series"].items():
        end = samples[-1][0]
        late = [sample for sample in samples if sample[0] >= end * 0.75]
        if len(late) >= ENOUGH:
            found[role] = grown([sample[0] for sample in late], [sample[1] for sample in late]).slope
    return found


def show(report: Report) -> None:
    console = Console(width=None if Console().is_terminal else 120)
    table = Table("process", "MB at half-time", "at the end", "MB/h", "95 %", "descriptors", "at the end", "per h")
    files = steepest(report, "descriptors")
    for role, memory in sorted(steepest(report, "memory").items(), key=lambda row: -float(row[1]["slope"])):
        spread = f"{memory['low']:+.1f} to {memory['high']:+.1f}"
        held = [f"{files[role][name]:.0f}" for name in ("first", "last")]
        used = [f"{memory[name]:.0f}" for name in ("first", "last")]
        table.add_row(role, *used, f"{memory['slope']:+.1f}", spread, *held, f"{files[role]['slope']:+.0f}")
    console.print(table)
    for text, count in report["evidence"].items():
        console.print(f"{text} ({count} times)", markup=False, style="red")
    faults = sum(report["faults"].values())
    took = (report["seconds"]["storm"] + report["seconds"]["calm"]) / 60
    console.print(f"{took:.0f} minutes, {report['requests']} requests, {faults} faults; {report['lost']} lost")
