"""Metrics of a model's weights and members, kept by its coordinator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from aoti_serve.cluster.metrics.definitions import (
    MEMBERS,
    REPLICA_STARTS,
    REPLICAS,
    SUPERSEDED,
    SWAP_BYTES,
    SWAP_PHASES,
    SWAP_SECONDS,
    SWAPS,
    WEIGHTS_EPOCH,
    WEIGHTS_INFO,
    WEIGHTS_VERSION,
)
from aoti_serve.cluster.metrics.export import MetricExport
from aoti_serve.cluster.metrics.histogram import BucketCounts
from aoti_serve.cluster.status import Outcome
from aoti_serve.weights.swap.target import Report
from aoti_serve.weights.version import Committed

KEPT_GONE = 1000  # replicas


class SwapMetrics:
    """The metrics of one model. What is noted is exported by the next `export`."""

    def __init__(self, model: str, exported: MetricExport) -> None:
        self._model = model
        self._exported = exported
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, BucketCounts] = {}
        self._phases: dict[str, BucketCounts] = {}
        self._nbytes = 0
        self._starts = 0
        self._started: dict[str, None] = {}  # the last to be seen stands last

    def ended(self, outcome: Outcome) -> None:
        """An attempt has ended."""
        self._attempts[outcome.action, outcome.outcome] += 1
        self._seconds.setdefault(outcome.action, BucketCounts(SWAP_SECONDS.bounds)).note(outcome.seconds)
        for phase, seconds in outcome.phases.items():
            self._phases.setdefault(phase, BucketCounts(SWAP_PHASES.bounds)).note(seconds)

    def moved(self, nbytes: int) -> None:
        """Bytes have arrived at replicas."""
        self._nbytes += nbytes

    def export(self, committed: Committed, joined: Sequence[Report], *, superseded: bool) -> None:
        """Say what is committed, and who the members are, by the last reports of those that have joined.

        `superseded`: another application leads the store.
        """
        replicas = [report for report in joined if report.runners]
        self._note_joined([report.member for report in replicas])
        gauge, version = self._exported.gauge, committed.version
        gauge(WEIGHTS_VERSION, version.number, self._model)
        gauge(WEIGHTS_EPOCH, committed.epoch, self._model)
        gauge(WEIGHTS_INFO, 1, self._model, str(version.number), version.digest)
        gauge(SUPERSEDED, float(superseded), self._model)
        gauge(REPLICAS, sum(report.holds(committed) for report in replicas), self._model)
        gauge(MEMBERS, len(replicas), self._model, "replica")
        gauge(MEMBERS, sum(report.is_gateway for report in joined), self._model, "gateway")
        self._export_changes()

    def _note_joined(self, replicas: Sequence[str]) -> None:
        """Count those that are new. Some that are gone are kept: they may only have lost their connection."""
        for replica in replicas:
            self._starts += replica not in self._started
            self._started.pop(replica, None)
            self._started[replica] = None
        for replica in list(self._started)[: -len(replicas) - KEPT_GONE]:
            del self._started[replica]

    def _export_changes(self) -> None:
        exported, model = self._exported, self._model
        exported.total(REPLICA_STARTS, self._starts, model)
        exported.total(SWAP_BYTES, self._nbytes, model)
        for (action, outcome), count in self._attempts.items():
            exported.total(SWAPS, count, model, action, outcome)
        for action, counts in self._seconds.items():
            exported.histogram(SWAP_SECONDS, counts, model, action)
        for phase, counts in self._phases.items():
            exported.histogram(SWAP_PHASES, counts, model, phase)
