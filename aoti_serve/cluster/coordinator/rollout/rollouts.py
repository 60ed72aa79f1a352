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
from aoti_serve.cluster.coordinator.rollout.trials import GatheredTrials
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.cluster.metrics.definitions import ROLLOUT_METRICS
from aoti_serve.cluster.metrics.export import MetricExport
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import (
    AotiServeError,
    CandidateWithdrawn,
    NoCandidate,
    NothingToRollBack,
    NotSettled,
    StoreFailed,
    Superseded,
    SwapInProgress,
)
from aoti_serve.weights.candidate import Candidate, RolloutRecord
from aoti_serve.weights.rollout.decisions import Decision, Expose, Finish, Promote, RollBack, Withdraw
from aoti_serve.weights.rollout.rollout import Rollout
from aoti_serve.weights.rollout.state import RolloutPhase, RolloutProgress, RolloutState
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.target import Trial
from aoti_serve.weights.swap_options import ExposureOptions

logger = logging.getLogger("ray.serve")
JUDGE_S = 1.0
REMEMBER_S = 10.0  # a restarted coordinator repeats no more than so much of a step
WHO = "the rollout"
# Nothing is left to do, or nothing that another try could do.
NO_MORE_TO_DO = (NoCandidate, CandidateWithdrawn, NotSettled, NothingToRollBack)


class Rollouts:
    """At most one rollout at a time, of the candidate that has a plan. Runs in the coordinator's event loop.

    A person may promote or withdraw the candidate meanwhile, or swap to another version during the watch: then the
    rollout is over, and decides nothing more.
    """

    def __init__(
        self,
        model: str,
        store: Store,
        members: MemberServer,
        changes: Changes,
        gathered: GatheredTrials,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._store = store
        self._members = members
        self._changes = changes
        self._gathered = gathered
        self._clock = clock
        self._record: RolloutRecord | None = None
        self._rollout: Rollout | None = None
        self._due: deque[Decision] = deque()
        self._remembered = 0.0
        self._metrics = RolloutMetrics(model, MetricExport(ROLLOUT_METRICS))
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
        figures = self._gathered.total(trial.swap).summary() if trial else None
        return status.model_copy(update={"rollout": self.progress, "trial": figures})

    def measure(self) -> None:
        """Export the metrics as they are now; those of a trial end with it."""
        self._metrics.export()
        trial, candidate = self._members.table.target.trial, self._changes.candidates.record
        if trial is not None:
            share = candidate.exposure.share if candidate else 1.0  # committed: it answers everything
            self._metrics.export_trial(self._gathered.total(trial.swap), share)

    def resume(self) -> None:
        """Go on with the rollout of an earlier coordinator, if there is one; before members connect."""
        record = self._store.rollout()
        if record is None:
            return
        candidate = self._changes.candidates.record
        if candidate is not None and candidate.swap == record.swap:
            self._begin(record)
        elif self._committed == record.version:
            self._begin(record)
            self._members.table.try_out(Trial(record.swap, record.version, record.active))
        else:  # what it had decided last is done; it must not be done again when its version answers some other day
            self._forget()

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
        candidate = self._changes.candidates.record
        if self._rollout is None and candidate is not None and candidate.plan is not None:
            self._begin(_new(candidate, self._committed))
        rollout, record = self._rollout, self._record
        if rollout is None or record is None or self._changes.busy:
            return
        if over := self._why_over(rollout, record, candidate):
            await self._end(f"the rollout is over: {over}", over)
            return
        if rollout.state.phase is RolloutPhase.PROMOTING and self._committed == record.version:
            rollout.promoted(self._gathered.total(record.swap))
        self._due.extend(rollout.advance(self._gathered.total(record.swap)))
        await self._remember(rollout, record)
        while self._due:
            try:
                await self._carry_out(self._due[0], rollout, record)
            except NO_MORE_TO_DO as error:
                logger.warning(f"model '{self._model}': {self._due[0]}: {error}")
            if self._due:  # the end leaves nothing due
                self._due.popleft()

    @property
    def _committed(self) -> int:
        return self._members.table.target.committed.version.number

    def _begin(self, record: RolloutRecord) -> None:
        self._record, self._due = record, deque()
        state = record.state if record.state != _unbegun(record) else None
        self._rollout = Rollout(record.plan, self._clock, state)

    def _forget(self) -> None:
        try:
            self._store.roll_out(None)
        except (StoreFailed, Superseded) as error:
            logger.warning(f"model '{self._model}': the record of a rollout that is over could not be erased: {error}")

    def _why_over(self, rollout: Rollout, record: RolloutRecord, candidate: Candidate | None) -> str | None:
        """What somebody else has done."""
        if self._due:
            return None  # its own decision is not carried out yet
        match rollout.state.phase:
            case RolloutPhase.TRYING if candidate is None or candidate.swap != record.swap:
                return f"its candidate was {self._went(record)}"
            case RolloutPhase.PROMOTING if candidate is None and self._committed != record.version:
                return "its candidate was withdrawn"
            case RolloutPhase.WATCHING if self._committed != record.version:
                return "another version was committed"
            case RolloutPhase.WATCHING if candidate is not None and candidate.swap != record.swap:
                return "another candidate is out"
        return None

    def _went(self, record: RolloutRecord) -> str:
        """How a candidate that is no more has gone; what was committed since may hide it."""
        return {record.version: "promoted", record.active: "withdrawn"}.get(self._committed, "promoted or withdrawn")

    async def _carry_out(self, decision: Decision, rollout: Rollout, record: RolloutRecord) -> None:
        """Raises errors of `NO_MORE_TO_DO`, and others, as SwapInProgress: those are tried again at the next look."""
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
                why = f"version {record.version} was rolled back: {reason}"
                self._changes.candidates.given_up = GivenUp(record.version, why)
                await self._changes.rollback(_attempt("rollback", decision), record.active, wait=True)
            case Finish():
                await self._end(str(decision))

    async def _promote(self, attempt: Attempt, rollout: Rollout, record: RolloutRecord) -> None:
        try:
            await self._changes.promote(attempt, wait=True)
        except (SwapInProgress, NotSettled):
            if self._committed != record.version:
                raise
        except AotiServeError as error:
            self._due.extend(rollout.stop(f"it could not be committed: {error}"))
            return
        rollout.promoted(self._gathered.total(record.swap))
        await self._remember(rollout, record, now=True)

    async def _remember(self, rollout: Rollout, record: RolloutRecord, *, now: bool = False) -> None:
        if now or self._due or self._clock() - self._remembered > REMEMBER_S:
            self._record = record.model_copy(update={"state": rollout.state})
            await asyncio.to_thread(self._store.roll_out, self._record)
            self._remembered = self._clock()

    async def _end(self, text: str, overtaken: str = "") -> None:
        await asyncio.to_thread(self._store.roll_out, None)
        self._due.clear()
        if self._rollout is not None and (ended := self.progress) is not None:
            over = {"phase": RolloutPhase.ENDED, "share": 0.0, "shadow": 0.0, "seconds_left": 0.0, "reason": overtaken}
            self.last = ended.model_copy(update=over) if overtaken else ended
            self._metrics.ended(ended.outcome)
        self._members.tell(text)
        self._record = self._rollout = None
        if self._changes.candidates.record is None:
            self._members.end_trial()


def _new(candidate: Candidate, active: int) -> RolloutRecord:
    assert candidate.plan is not None
    state = RolloutState(left=candidate.plan.each)
    return RolloutRecord(
        swap=candidate.swap, version=candidate.version, active=active, plan=candidate.plan, state=state
    )


def _unbegun(record: RolloutRecord) -> RolloutState:
    return RolloutState(left=record.plan.each)


def _attempt(action: str, decision: Decision) -> Attempt:
    return Attempt(action, WHO, source=str(decision))
