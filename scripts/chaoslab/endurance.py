"""No fault at all: swaps back to back."""

from __future__ import annotations

from chaoslab.changes import Lost
from chaoslab.lab import Lab


def swaps(lab: Lab, count: int) -> None:
    lab.strike(lambda: None)
    for turn in range(count):
        outcome = lab.rollback() if turn % 10 == 9 else lab.swap()
        if outcome != "committed":
            raise Lost(f"swap {turn + 1} of {count}: {outcome}, {lab.notes[-1]}")
        if turn % 25 == 24:
            lab.tell(f"  {turn + 1} of {count} swaps")
