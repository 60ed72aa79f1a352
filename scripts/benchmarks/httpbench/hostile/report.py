"""Case by case: how long the small client had to wait, and how long without; as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from httpbench.hostile.probe import Waits
from httpbench.tables import VERDICTS, console, plain_table

WIDTH = 160
MORE_MS = 300.0  # so much longer a small request may wait for a hostile one


class Outcome(NamedTuple):
    """`before` is the small client alone, right before the case; `memory` what all processes took more, in MB."""

    name: str
    sends: str
    said: dict[str, int]
    before: Waits
    during: Waits
    memory: float
    seconds: float

    @property
    def longer(self) -> float:
        """Milliseconds that the longest wait was longer than without."""
        return self.during.longest - self.before.longest

    @property
    def met(self) -> bool:
        """And nobody was refused or cut off for what somebody else did."""
        return self.longer <= MORE_MS and not self.during.failed

    def as_dict(self) -> dict[str, Any]:
        waits = {"before": self.before._asdict(), "during": self.during._asdict()}
        return self._asdict() | waits | {"longer_ms": self.longer, "met": self.met}


def as_dict(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {"most_longer_ms": MORE_MS, "cases": [outcome.as_dict() for outcome in outcomes]}


def show(outcomes: Sequence[Outcome]) -> None:
    columns = ("sends", "the server said", "longest", "without", "longer", "p99", "without", "MB", "s", "")
    table = plain_table("what a small client waits, ms", columns)
    for words in table.columns[1:3]:
        words.justify = "left"
    for outcome in outcomes:
        table.add_row(outcome.name, outcome.sends, *_cells(outcome))
    out = console()
    out.width = max(out.width, WIDTH)
    out.print(table)
    for outcome in outcomes:
        if outcome.during.failed:
            print(f"{outcome.name}: {outcome.during.failed} of {outcome.during.asked} small requests failed")


def _cells(outcome: Outcome) -> tuple[str, ...]:
    before, during = outcome.before, outcome.during
    said = ", ".join(f"{count} x {word}" for word, count in outcome.said.items())
    times = (during.longest, before.longest, outcome.longer, during.p99, before.p99)
    figures = (*(f"{time:,.1f}" for time in times), f"{outcome.memory:,.0f}", f"{outcome.seconds:,.0f}")
    return said, *figures, VERDICTS[outcome.met]
