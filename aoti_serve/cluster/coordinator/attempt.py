"""One attempt to change a model's weights, from being asked for to its outcome."""

from __future__ import annotations

import time
from uuid import uuid4

from aoti_serve.cluster.status import Outcome, ReplicaProgress, SwapProgress
from aoti_serve.weights.audit import MAX_TEXT
from aoti_serve.weights.swap.swap import Phase
from aoti_serve.weights.swap.target import Report
from aoti_serve.weights.version import Committed, Version


class Attempt:
    """What is known of it while it runs.

    `who` asked for it, `label` is what the new version is to be called, `source` where its weights come from.
    """

    def __init__(self, action: str, who: str, label: str = "", source: str = "") -> None:
        self.id = uuid4().hex[:12]
        self.action = action
        self.who = who
        self.label = label
        self.source = source
        self.phase = Phase.CHECKING
        self.version: Version | None = None
        self.swap: str | None = None
        self.read: dict[str, int] = {}  # bytes, by replica
        self._phases: dict[str, float] = {}
        self._started = self._entered = time.perf_counter()

    def enter(self, phase: Phase) -> None:
        now = time.perf_counter()
        self._phases[self.phase] = self._phases.get(self.phase, 0.0) + now - self._entered
        self.phase, self._entered = phase, now

    def progress(self, reports: list[Report], committed: Committed) -> SwapProgress:
        """What it has come to."""
        nbytes = self.version.nbytes if self.version else 0
        replicas = tuple(
            ReplicaProgress(
                replica=report.member, nbytes=self.read.get(report.member, 0), done=self._done(report, committed)
            )
            for report in sorted(reports, key=lambda report: report.member)
            if report.runners and not report.joining
        )
        number = self.version.number if self.version else None
        return SwapProgress(
            id=self.id, action=self.action, phase=self.phase, version=number, nbytes=nbytes, replicas=replicas
        )

    def outcome(self, error: BaseException | None, committed: bool) -> Outcome:
        """With an error, it may be committed all the same: then somebody else completes it."""
        self.enter(self.phase)
        return Outcome(
            id=self.id,
            action=self.action,
            version=self.version.number if self.version else None,
            outcome="committed" if committed else "failed",
            error=(str(error) or type(error).__name__)[:MAX_TEXT] if error else None,
            seconds=round(time.perf_counter() - self._started, 4),
            phases={phase: round(seconds, 4) for phase, seconds in self._phases.items()},
            ended=time.time(),
        )

    def facts(self, outcome: str, error: BaseException | None) -> dict[str, object]:
        """For the audit log."""
        version = self.version
        return {
            "id": self.id,
            "action": self.action,
            "who": self.who,
            "label": self.label,
            "source": self.source,
            "version": version.number if version else None,
            "digest": version.digest if version else None,
            "outcome": outcome,
            "error": f"{type(error).__name__}: {error}" if error else None,
            "seconds": round(time.perf_counter() - self._started, 4),
        }

    def _done(self, report: Report, committed: Committed) -> bool:
        match self.phase:
            case Phase.STAGING:
                return report.staged is not None and report.staged == self.swap
            case Phase.COMMITTING:
                return report.holds(committed)
            case Phase.ABORTING:
                return report.staged is None
        return False
