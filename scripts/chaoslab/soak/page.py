"""docs/internals/endurance.md, written from a report: no figure on it is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chaoslab.soak.report import CHARTS, Report, charts, late_slopes, steepest

PAGE = """\
# Endurance: everything at once, for a long time

`scripts/soak --minutes {asked:g} --page` has written this page, on {made}: {cores} cores, {memory} GB, Python {python}, Ray {ray}, torch {torch}; four Ray nodes on one machine. It takes a quiet machine to compare figures.

In the first half ({storm:.0f} minutes) everything happens at once: requests over HTTP and gRPC from clients that check every answer, swaps, rollbacks, candidates, weights that must be refused, clients that send what they should not, send it slowly or vanish, processes that are killed and stopped, replicas and gateways that come and go, and redeploys that replace every process. In the second half ({calm:.0f} minutes) all of that goes on but what ends processes, so that each lives long enough to show whether it grows. The blue part of the charts is the first half.

| | |
|---|---|
| answers, each checked | {requests:,} |
| **lost** | **{lost}** |
| asked again, because the process behind the connection was killed | {retried:,} |
| slowest answer, waits for new processes included | {slowest:,} ms |
| faults | {faults} |
| changes of weights | {changes} |
| rude clients | {rude} |

`lost` counts requests that failed, answers that mix versions, answers older than the last swap that had returned, answers of a version that was never committed, bad input that was let in, and recoveries that did not come.

{pictures}

## What grows

Of each kind of process the steepest among those that lived through the second half. Slopes are those of a line after Theil and Sen, which single peaks do not move, with their 95 % interval; memory is PSS: what a process shares is divided among those who share it. Descriptors are files, sockets and pipes. What only fills its caches grows at first and then no more: `last quarter` is the slope in the last quarter of the time, of the process that lived longest.

| process | MB at half-time | at the end | MB per hour | interval | last quarter | descriptors at half-time | at the end | per hour |
|---|---|---|---|---|---|---|---|---|
{rows}

The GCS keeps what it is told of the last 100,000 tasks (`RAY_task_events_max_num_task_in_gcs`), Serve's own among them, and stops growing there.

## By minute

| minute | answers | p50, ms | p99, ms | slowest, ms |
|---|---|---|---|---|
{minutes}
"""
WORDS = {
    "requests": "Answers in each minute",
    "p99": "p50 and p99 by minute",
    "memory": "Memory of processes over time",
    "descriptors": "Open descriptors of processes over time",
}


def write_page(report: Report, page: Path) -> None:
    """The page, and its charts beside it."""
    for name, picture in charts(report).items():
        page.with_name(f"{page.stem}-{name}.svg").write_text(picture)
    page.write_text(page_of(report, page.stem))


def page_of(report: Report, stem: str) -> str:
    seconds, machine = report["seconds"], report["machine"]
    return PAGE.format(
        asked=seconds["asked"] / 60,
        made=report["made"],
        cores=machine["cores"],
        memory=machine["memory_gb"],
        **report["versions"],
        storm=seconds["storm"] / 60,
        calm=seconds["calm"] / 60,
        requests=report["requests"],
        lost=report["lost"],
        retried=report["retried"],
        slowest=report["slowest_ms"],
        faults=_listed(report["faults"]),
        changes=_listed(report["changes"]),
        rude=_listed(report["rude"]),
        pictures="\n\n".join(f"![{WORDS[name]}]({stem}-{name}.svg)" for name in CHARTS),
        rows="\n".join(_growth(report)),
        minutes="\n".join(_minute(row) for row in report["minutes"]),
    )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda row: -row[1])) or "none"


def _growth(report: Report) -> list[str]:
    files, late = steepest(report, "descriptors"), late_slopes(report)
    rows = sorted(steepest(report, "memory").items(), key=lambda row: -float(row[1]["slope"]))
    return [
        f"| {role} | {_figures(memory, 1)} | {_signed(late.get(role))} | {_figures(files[role], 0, spread=False)} |"
        for role, memory in rows
    ]


def _signed(slope: float | None) -> str:
    return "–" if slope is None else f"{slope:+.1f}"


def _figures(growth: dict[str, float], digits: int, *, spread: bool = True) -> str:
    low, high = (f"{growth[name]:+.{digits}f}" for name in ("low", "high"))
    interval = f" | {low} to {high}" if spread else ""
    return f"{growth['first']:.0f} | {growth['last']:.0f} | {growth['slope']:+.{digits}f}{interval}"


def _minute(row: dict[str, Any]) -> str:
    figures = " | ".join(f"{row[name]:,}" for name in ("p50_ms", "p99_ms", "slowest_ms"))
    return f"| {row['minute']} | {row['requests']:,} | {figures} |"
