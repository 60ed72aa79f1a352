"""What a stretch of traffic came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

EVIDENCE = 20


@dataclass
class Counts:
    """What a stretch of traffic came to. `lost` is what must be zero.

    `mixed`: more than one version in one answer, or another than it names. `stale`: older than the last swap that had
    returned when the request was sent. `uncommitted`: of a version that was neither committed nor, then, a candidate.
    `moved`: a client changed its version while a candidate's share stood. `back`: during a commit one client saw the
    new version and then the old one, which no promise forbids.
    """

    requests: int = 0
    retried: int = 0
    failed: int = 0
    mixed: int = 0
    stale: int = 0
    uncommitted: int = 0
    moved: int = 0
    back: int = 0
    slowest_ms: float = 0.0
    cuts: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    evidence: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> int:
        return self.failed + self.mixed + self.stale + self.uncommitted + self.moved

    def blame(self, text: str) -> None:
        if text in self.evidence or len(self.evidence) < EVIDENCE:
            self.evidence[text] += 1
