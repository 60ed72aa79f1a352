"""The rollout of a model's candidate: looks at the figures every second, and carries out what the rules decide."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.candidates import GivenUp
from aoti_serve.cluster.coordinator.changes import Changes
from aoti_serve.cluster.coordinator.rollout.metrics import RolloutMetrics
from aoti_serve.cluster.coordinator.rollout.overtaken import Situation, overtaken_before, overtaken_in
from aoti_serve.cluster.coordinator.rollout.records import RolloutRecords, new_record, state_in
from aoti_serve.cluster.coordinator.rollout.trials import GatheredTrials
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.cluster.metrics.definitions import ROLLOUT_METRICS
from aoti_serve.cluster.metrics.export import MetricExport
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import (
    AotiServeError,
    BuiltInWeightsReleased,
    CandidateWithdrawn,
    NoCandidate,
    NothingToRollBack,
    NotSettled,
    SwapInProgress,
    UnknownWeightsVersion,
)
from aoti_serve.weights.candidate import RolloutRecord
from aoti_serve.weights.rollout.decisions import Decision, Expose, Finish, Promote, RollBack, Withdraw
from aoti_serve.weights.rollout.rollout import Rollout
from aoti_serve.weights.rollout.state import RolloutPhase, RolloutProgress
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.target import Trial
from aoti_serve.weights.swap_options import ExposureOptions

logger = logging.getLogger("ray.serve")
JUDGE_S = 1.0
WHO = "the rollout"
CARRIED_OUT = (CandidateWithdrawn, NotSettled)  # though with a remark
CANNOT_BE_DONE = (NoCandidate, NothingToRollBack, BuiltInWeightsReleased, UnknownWeightsVersion)  # by any other try
_OVERTAKEN = {"phase": RolloutPhase.ENDED, "outcome": None, "share": 0.0, "shadow": 0.0, "seconds_left": 0.0}


class Rollouts:
    """At most one rollout at a time, of the candidate that has a plan. Runs in the coordinator's event loop.

    A person may promote or withdraw the candidate meanwhile, or swap to another version during the watch, also between
    a decision and its being carried out: then the rollout is over, and decides nothing more.
    """

    def __init__(
        self,
        model: str,
        store: Store,
        members: MemberServer,
        changes: Changes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._members = members
        self._changes = changes
        self._records = RolloutRecords(store, clock)
        self._clock = clock
        self._record: RolloutRecord | None = None
        self._rollout: Rollout | None = None
        self._due: deque[Decision] = deque()
        self._metrics = RolloutMetrics(model, MetricExport(ROLLOUT_METRICS))
        self.trials = GatheredTrials(members.table)
        self.last: RolloutProgress | None = None

    @property
    def progress(self) -> RolloutProgress | None:
        """Of the rollout that is on, or of the last one; without an outcome before that is carried out."""
        candidate = self._changes.candidates.record
        if self._rollout is not None and self._record is not None:
            progress = self._rollout.progress
            ending = bool(self._due) and progress.phase is RolloutPhase.ENDED
            yet = {"phase": RolloutPhase.ENDING, "outcome": None} if ending else {}
            return progress.model_copy(update={"version": self._record.version, **yet})
        if candidate is not None and candidate.plan is not None:  # it begins at the next look
            begun = Rollout(candidate.plan, self._clock).progress
            return begun.model_copy(update={"version": candidate.version})
        return self.last

    def shown_in(self, status: WeightsStatus) -> WeightsStatus:
        """The status with the rollout, and with the figures of the trial that is on."""
        trial = self._members.table.target.trial
        figures = self.trials.total(trial.swap).summary() if trial else None
        return status.model_copy(update={"rollout": self.progress, "trial": figures})

    def measure(self) -> None:
        """Export the metrics as they are now; those of a trial end with it."""
        self._metrics.export()
        trial, candidate = self._members.table.target.trial, self._changes.candidates.record
        if trial is not None:
            share = candidate.exposure.share if candidate else 1.0  # committed: it answers everything
            self._metrics.export_trial(self.trials.total(trial.swap), share)

    def resume(self) -> None:
        """Go on with the rollout of an earlier coordinator, if there is one; before members connect."""
        record = self._records.read()
        if record is None:
            return
        candidate = self._changes.candidates.record
        if candidate is not None and candidate.swap == record.swap:
            self._begin(record)
        elif self._committed == record.version:
            self._begin(record)
            self._members.table.try_out(Trial(record.swap, record.version, record.active))
        else:  # what it had decided last is done; it must not be done again when its version answers some other day
            self._records.forget()
            return
        self.trials.resume(record.swap)

    async def run(self) -> None:
        """Look again and again; for ever, as a task."""
        while True:
            await asyncio.sleep(JUDGE_S)
            try:
                await self.look()
            except Exception:  # the store is away, for one: the next look is as good
                logger.exception(f"model '{self._model}': the rollout could not go on now")

    async def look(self) -> None:
        """Look once: begin with a new candidate, judge, and carry out what is due."""
        if self._members.table.target.trial is not None:
            self._members.touch()  # its figures, in the status, have changed
        if self._changes.leadership.leader is not None:
            if self._rollout is not None:
                await self._over("another application leads, and goes on with it")
            return
        candidate = self._changes.candidates.record
        if self._rollout is None and candidate is not None and candidate.plan is not None:
            self._begin(new_record(candidate, self._committed))
        rollout, record = self._rollout, self._record
        if rollout is None or record is None or self._changes.busy:
            return
        # Unless its own decision is not carried out yet.
        if not self._due and (over := overtaken_in(rollout.state.phase, record, self._there)):
            await self._over(over)
            return
        if rollout.state.phase is RolloutPhase.PROMOTING and self._committed == record.version:
            rollout.promoted(self.trials.counted(record.swap))
            self._due.clear()
        self._due.extend(rollout.advance(self.trials.counted(record.swap)))
        await self._remember(rollout, record)
        while self._due:
            await self._decide(self._due[0], rollout, record)

    @property
    def _committed(self) -> int:
        return self._members.table.target.committed.version.number

    def _begin(self, record: RolloutRecord) -> None:
        self._record, self._due = record, deque()
        self._rollout = Rollout(record.plan, self._clock, state_in(record))

    @property
    def _there(self) -> Situation:
        return Situation(self._changes.candidates.record, self._committed)

    async def _decide(self, decision: Decision, rollout: Rollout, record: RolloutRecord) -> None:
        # Nothing may run between this and the beginning of a change: what is decided is decided on one version.
        over = overtaken_before(decision, record, self._there) or await self._tried(decision, rollout, record)
        if over:
            await self._over(over)
        elif self._due:  # the end leaves nothing due
            self._due.popleft()

    async def _tried(self, decision: Decision, rollout: Rollout, record: RolloutRecord) -> str | None:
        """Carry it out; the reason why the rollout is over, if that cannot be done."""
        try:
            await self._carry_out(decision, rollout, record)
        except CARRIED_OUT as error:
            logger.warning(f"model '{self._model}': {decision}: {error}")
        except CANNOT_BE_DONE as error:
            return overtaken_before(decision, record, self._there) or f"{decision}, which could not be done: {error}"
        return None

    async def _carry_out(self, decision: Decision, rollout: Rollout, record: RolloutRecord) -> None:
        """Raises errors of `CARRIED_OUT`, of `CANNOT_BE_DONE`, and others, as SwapInProgress: those are tried again."""
        self._members.tell(f"rollout: {decision}; {dict(decision.figures)}")
        logger.info(f"model '{self._model}': {decision}", extra={"model": self._model, "figures": decision.figures})
        match decision:
            case Expose(share, shadow):
                options = ExposureOptions(share=share, shadow=shadow)
                # A gateway that does not listen must not keep the rules from looking at what the others count.
                await self._changes.expose(_attempt("expose", decision), options, confirm=False)
            case Promote():
                await self._promote(_attempt("promote", decision), rollout, record)
            case Withdraw(reason):
                await self._changes.withdraw(_attempt("withdraw", decision), reason, wait=True)
            case RollBack(reason):
                try:
                    await self._changes.rollback(_attempt("rollback", decision), record.active, wait=True)
                finally:
                    self._note_given_up(record, reason)
            case Finish():
                await self._end(str(decision))

    def _note_given_up(self, record: RolloutRecord, reason: str) -> None:
        if self._committed == record.active:
            why = f"version {record.version} was rolled back: {reason}"
            self._changes.candidates.given_up = GivenUp(record.version, why)

    async def _promote(self, attempt: Attempt, rollout: Rollout, record: RolloutRecord) -> None:
        if self._committed != record.version:  # else somebody else has just done it, and may have staged another
            try:
                await self._changes.promote(attempt, wait=True)
            except SwapInProgress:
                raise
            except AotiServeError as error:
                if self._committed != record.version:
                    self._due.extend(rollout.stop(f"it could not be committed: {error}"))
                    return
        rollout.promoted(self.trials.counted(record.swap))
        await self._remember(rollout, record, now=True)

    async def _remember(self, rollout: Rollout, record: RolloutRecord, *, now: bool = False) -> None:
        self._record = record.model_copy(update={"state": rollout.state})
        await self._records.write(self._record, now=now or bool(self._due))

    async def _over(self, why: str) -> None:
        await self._end(f"the rollout is over: {why}", why)

    async def _end(self, text: str, overtaken: str = "") -> None:
        await self._records.erase()
        self._due.clear()
        if self._rollout is not None and (ended := self.progress) is not None:
            self.last = ended.model_copy(update=_OVERTAKEN | {"reason": overtaken}) if overtaken else ended
            self._metrics.ended(self.last.outcome)
        self._members.tell(text)
        self._record = self._rollout = None
        if self._changes.candidates.record is None:
            self._members.end_trial()


def _attempt(action: str, decision: Decision) -> Attempt:
    return Attempt(action, WHO, source=str(decision))
