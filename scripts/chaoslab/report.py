"""What was done and what was lost, as a table or as JSON."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from chaoslab.campaign import Finding

COLUMNS = (
    "fault",
    "swaps",
    "requests",
    "retried",
    "failed",
    "mixed",
    "stale",
    "moved",
    "back",
    "slowest ms",
    "recovered s",
    "",
)


def show(findings: list[Finding]) -> None:
    table = Table(*COLUMNS)
    for finding in findings:
        counts = finding.counts
        figures = [counts.requests, counts.retried, counts.failed, counts.mixed, counts.stale + counts.uncommitted]
        table.add_row(
            f"{finding.fault.name}\n[dim]{finding.fault.done}[/]",
            "\n".join(f"{count} {outcome}" for outcome, count in finding.outcomes.items()),
            *map(str, [*figures, counts.moved, counts.back, round(counts.slowest_ms)]),
            "-" if finding.seconds is None else f"{finding.seconds:.1f}",
            _verdict(finding),
            style="red" if finding.lost else "",
        )
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    for finding in findings:
        for text, count in {finding.problem: 1, **finding.counts.evidence}.items():
            if text:
                console.print(
                    f"{finding.fault.name}: {text}{f' ({count} times)' * (count > 1)}", markup=False, style="red"
                )
    requests = sum(finding.counts.requests for finding in findings)
    lost = sum(finding.lost for finding in findings)
    console.print(f"{len(findings)} faults, {requests} requests; {'nothing' if not lost else f'{lost} faults'} lost")


def as_json(findings: list[Finding]) -> str:
    return json.dumps([_plain(finding) for finding in findings], indent=1)


def _plain(finding: Finding) -> dict[str, Any]:
    fault = {"name": finding.fault.name, "done": finding.fault.done}
    return vars(finding) | {"fault": fault, "counts": vars(finding.counts), "lost": finding.lost}


def _verdict(finding: Finding) -> str:
    if finding.missed:
        return "not reached"
    return "LOST" if finding.lost else "ok"
