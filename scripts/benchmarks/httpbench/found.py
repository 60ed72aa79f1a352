"""What has been measured so far, and what could not be."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection

from httpbench.contenders import PEERS, family
from httpbench.loads import BUSY, Load
from httpbench.wrk import Sample


class Found:
    """Samples by endpoint and load."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, Load], list[Sample]] = defaultdict(list)
        self.failures: dict[str, str] = {}

    def add(self, name: str, load: Load, sample: Sample) -> None:
        self._samples[name, load].append(sample)

    def failed(self, name: str, why: object) -> None:
        self.failures[name] = " ".join(str(why).split())

    def median(self, name: str, load: Load = BUSY) -> Sample | None:
        """Of all rounds; failures are added up."""
        samples = self._samples.get((name, load))
        if not samples:
            return None
        rate, p50, p90, p99 = (statistics.median(column) for column in list(zip(*samples, strict=True))[:4])
        refused, broken = (sum(getattr(sample, failure) for sample in samples) for failure in ("refused", "broken"))
        return Sample(rate, p50, p90, p99, refused, broken)

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self._samples))

    def loads(self, name: str) -> list[Load]:
        return [load for other, load in self._samples if other == name]

    def spread(self, name: str, load: Load = BUSY) -> float:
        """The largest rate over the smallest: how far the rounds disagree."""
        rates = [sample.rate for sample in self._samples[name, load]]
        return max(rates) / min(rates) if min(rates) else 0.0

    def settings(self, families: Collection[str], load: Load) -> dict[str, Sample]:
        """All settings of these families that were measured so."""
        names = (name for name in self.names() if family(name) in families)
        return {name: sample for name in names if (sample := self.median(name, load))}

    def quickest(self, families: Collection[str] = PEERS, load: Load = BUSY) -> str | None:
        """Whichever of their settings gives the most good answers per second."""
        settings = self.settings(families, load)
        return max(settings, key=lambda name: settings[name].rate, default=None)
