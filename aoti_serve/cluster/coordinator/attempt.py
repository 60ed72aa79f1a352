"""One attempt to change a model's weights, from being asked for to its outcome."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from aoti_serve.cluster.status import Outcome, ReplicaProgress, SwapProgress
from aoti_serve.errors import NotSettled
from aoti_serve.weights.audit import MAX_TEXT, AttemptOutcome
from aoti_serve.weights.swap.states import ChangeName, Phase, new_id
from aoti_serve.weights.swap.swap import Swap
from aoti_serve.weights.swap.target import Report
from aoti_serve.weights.version import Committed, Version

_ENDS = {"expose": AttemptOutcome.EXPOSED, "withdraw": AttemptOutcome.WITHDRAWN}  # a swap leaves a candidate


@dataclass(eq=False)
class Attempt:
    """The facts of an attempt while it runs, in the coordinator.

    `who` asked for it, `label` is the name of the new version, `source` where its weights come from; with
    `skips_acceptance` whatever values they hold. `answering` is the version that has the same bytes and answers
    already, if there is one.
    """

    action: str
    who: str
    label: str = ""
    source: str = ""
    skips_acceptance: bool = False
    id: str = field(default_factory=new_id)
    answering: Version | None = None
    received: Mapping[str, int] = field(default_factory=dict)  # bytes, by replica
    _swap: Swap | None = None
    _before: Mapping[Phase, float] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)
    _checked: float = 0.0

    @property
    def name(self) -> ChangeName:
        return ChangeName(self.action, self.id)

    @property
    def phase(self) -> Phase:
        return self._swap.phase if self._swap else Phase.CHECKING

    @property
    def version(self) -> Version | None:
        return self._swap.version if self._swap else self.answering

    @property
    def unchanged(self) -> bool:
        return self.answering is not None

    def begin(self, swap: Swap) -> None:
        """The weights are checked, and the swap has begun; or it goes on, from a candidate."""
        self._swap, self._before, self._checked = swap, dict(swap.seconds), self._elapsed()
        if swap.id != self.id:
            swap.pass_on(self.name)

    def progress(self, reports: list[Report], committed: Committed) -> SwapProgress:
        """The progress of the attempt. `reports` are those of the live replicas."""
        nbytes = self.version.nbytes if self.version else 0
        replicas = tuple(
            ReplicaProgress(
                replica=report.member, nbytes=self.received.get(report.member, 0), done=self._done(report, committed)
            )
            for report in sorted(reports, key=lambda report: report.member)
        )
        number = self.version.number if self.version else None
        return SwapProgress(
            id=self.id, action=self.action, phase=self.phase, version=number, nbytes=nbytes, replicas=replicas
        )

    def outcome(self, error: BaseException | None, committed: bool) -> Outcome:
        """The end of the attempt. With an error it may be committed all the same: see NotSettled."""
        return Outcome(
            id=self.id,
            action=self.action,
            version=self.version.number if self.version else None,
            outcome=self._end(error, committed),
            error=(str(error) or type(error).__name__)[:MAX_TEXT] if error else None,
            seconds=round(self._elapsed(), 4),
            phases={phase: round(seconds, 4) for phase, seconds in self._phases.items()},
            ended=time.time(),
        )

    def facts(self, outcome: AttemptOutcome, error: BaseException | None) -> dict[str, object]:
        """The facts for the audit log."""
        version = self.version
        return {
            **{name: getattr(self, name) for name in ("id", "action", "who", "label", "source")},
            "version": version.number if version else None,
            "digest": version.digest if version else None,
            "adapter": version.adapter.model_dump() if version and version.adapter else None,
            "golden": version.golden.digest if version and version.golden else None,
            "skipped_acceptance": self.skips_acceptance,
            "outcome": outcome,
            "error": f"{type(error).__name__}: {error}" if error else None,
            "seconds": round(self._elapsed(), 4),
        }

    @property
    def _phases(self) -> dict[Phase, float]:
        """Seconds of the phases that are the attempt's own. A candidate may be out for days, and is nobody's wait."""
        found = self._swap.seconds if self._swap else {}
        phases = {Phase.CHECKING: self._checked or self._elapsed()}
        for phase, seconds in found.items():
            own = seconds - self._before.get(phase, 0.0)
            if own and phase != Phase.CANDIDATE:
                phases[phase] = own
        return phases

    def _end(self, error: BaseException | None, committed: bool) -> AttemptOutcome:
        if self.unchanged:
            return AttemptOutcome.UNCHANGED
        if committed:
            return AttemptOutcome.COMMITTED
        if error is not None and not isinstance(error, NotSettled):
            return AttemptOutcome.FAILED
        return _ENDS.get(self.action, AttemptOutcome.CANDIDATE)

    def _done(self, report: Report, committed: Committed) -> bool:
        match self.phase:
            case Phase.STAGING | Phase.CANDIDATE:
                return self._swap is not None and report.staged == self._swap.id
            case Phase.COMMITTING:
                return report.holds(committed)
            case Phase.ABORTING:
                return report.staged is None
        return False

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started
