"""Changes of one model's weights: one at a time, each with its outcome in the status, the metrics and the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from aoti_serve.cluster.calls import spawn
from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.candidates import Candidates
from aoti_serve.cluster.coordinator.course import SwapCourse
from aoti_serve.cluster.coordinator.outcomes import Outcomes
from aoti_serve.cluster.coordinator.succession.leadership import Leadership
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import (
    AotiServeError,
    BuiltInWeightsReleased,
    NothingToRollBack,
    NotSettled,
    SwapInProgress,
    WeightsError,
)
from aoti_serve.weights.audit import AttemptOutcome, AuditLog
from aoti_serve.weights.sources.follow import FollowStatus
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.swap import Swap
from aoti_serve.weights.swap_options import ExposureOptions
from aoti_serve.weights.terms import CandidateTerms
from aoti_serve.weights.version import BUILT_IN, Version

Admit = Callable[[Version], Version]
Check = Callable[[], None]
Change = Callable[[], Awaitable[None]]


class Changes:
    """Runs the changes of one model's weights, one at a time, in the coordinator's event loop.

    A change, once begun, ends whether its caller waits or not.
    """

    def __init__(self, model: str, store: Store, members: MemberServer, audit: AuditLog) -> None:
        self._model = model
        self._store = store
        self._members = members
        self.leadership = Leadership(members)
        self._outcomes = Outcomes(model, members, audit, self.leadership)
        self.course = SwapCourse(model, store, members, self._outcomes.note)
        self._attempt: Attempt | None = None
        self._follow: FollowStatus | None = None
        self.candidates = Candidates(model, store, members, self.course, self._note_fallen)

    @property
    def busy(self) -> bool:
        """Whether a change is under way."""
        return self._attempt is not None

    @property
    def moving(self) -> Version | None:
        """The version that replicas are receiving, if there is one."""
        return self._attempt.version if self._attempt else None

    @property
    def may_begin(self) -> bool:
        """Whether a swap that can wait may begin: no change and no trial is on, and a replica is there to try it on."""
        try:
            self.leadership.check()
            self._check_idle()
            self.candidates.check_none()
        except WeightsError:
            return False
        return self._members.table.target.trial is None and not self._members.table.lacks

    @property
    def on_trial(self) -> int | None:
        """The number of the version that is out as a candidate, or watched by a rollout after its commit."""
        trial = self._members.table.target.trial
        return trial.candidate if trial else None

    def show_follow(self, follow: FollowStatus) -> None:
        """Show in the status what stands of the place that is followed."""
        if follow != self._follow:
            self._follow = follow
            self._members.touch()

    async def follow(self, attempt: Attempt, check: Check, change: Change) -> None:
        """Make a change that comes from the application that leads."""
        await self._only(attempt, check, change, wait=True, follows=True)

    async def check_upload(self, attempt: Attempt) -> None:
        """Refuse an upload before its bytes come, if there is a candidate. Golden requests change nothing."""
        if attempt.action == "swap" and (self.leadership.leader or self.candidates.status is not None):
            await self._check(attempt, self.leadership.check, self.candidates.check_none)

    async def swap(
        self, attempt: Attempt, admit: Admit, *, wait: bool, terms: CandidateTerms | None = None
    ) -> WeightsStatus:
        """To the version that `admit` makes of the current one, in a thread; with `terms` it is a candidate."""
        free = partial(self.candidates.check_none, terms)
        return await self._only(attempt, free, lambda: self._swap(attempt, admit, terms), wait=wait)

    async def rollback(self, attempt: Attempt, number: int | None, *, wait: bool) -> WeightsStatus:
        """To a stored version, the previous one if None; moves no data where it is still resident."""
        change = partial(self._roll_back, attempt, number)
        return await self._only(attempt, self.candidates.check_none, change, wait=wait)

    async def expose(self, attempt: Attempt, options: ExposureOptions, *, confirm: bool = True) -> WeightsStatus:
        """Let the candidate meet other shares of the requests; with `confirm` all gateways have heard of them."""
        change = partial(self.candidates.expose, attempt, options, confirm=confirm)
        return await self._only(attempt, self.candidates.check_held, change, wait=True)

    async def promote(self, attempt: Attempt, *, wait: bool) -> WeightsStatus:
        """Commit the candidate; moves no data."""
        change = partial(self.candidates.promote, attempt)
        return await self._only(attempt, self.candidates.check_held, change, wait=wait)

    async def withdraw(self, attempt: Attempt, reason: str, *, wait: bool) -> WeightsStatus:
        """Free the candidate everywhere."""
        change = partial(self.candidates.withdraw, attempt, reason)
        return await self._only(attempt, self.candidates.check_held, change, wait=wait)

    async def note_failed(self, attempt: Attempt, error: AotiServeError) -> None:
        """Record an attempt that has failed before its weights were here: in the audit log, the metrics, the status."""
        await self._outcomes.note_ended(attempt, attempt.outcome(error, committed=False), error)

    def status(self) -> WeightsStatus:
        committed, attempt = self._members.table.target.committed, self._attempt
        return WeightsStatus(
            model=self._model,
            revision=self._members.revision,
            epoch=committed.epoch,
            settled=self._members.rules.settled,
            current=committed.version,
            previous=committed.previous,
            replicas=self._outcomes.receipts(),
            candidate=self.candidates.status,
            swap=attempt.progress(self._members.table.live_replicas, committed) if attempt else None,
            last=self._outcomes.last,
            labels=dict(self._members.table.target.labels),
            follow=self._follow,
            superseded=self.leadership.status,
        )

    def arrived(self, received: Mapping[str, int]) -> None:
        if self._attempt is not None and received != self._attempt.received:
            self._attempt.received = received
            self._members.touch()

    def measure(self) -> None:
        self._outcomes.measure()

    async def _only(
        self, attempt: Attempt, check: Check, change: Change, *, wait: bool, follows: bool = False
    ) -> WeightsStatus:
        """Make the change, unless there is another one, or `check` refuses it, or another application leads.

        `follows`: it is one that comes from that application.
        """
        await self._check(attempt, *(() if follows else (self.leadership.check,)), self._check_idle, check)
        self._attempt = attempt
        # Its own task: a caller that goes away must not stop a swap halfway, nor leave one that is begun for ever.
        task = spawn(self._to_its_outcome(attempt, change))
        # Its error is in the outcome, for callers that do not wait.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        if wait:
            await asyncio.shield(task)
        return self.status().model_copy(update={"unchanged": attempt.unchanged})

    async def _check(self, attempt: Attempt, *checks: Check) -> None:
        """Does not let other tasks run, unless it raises."""
        try:
            for check in checks:
                check()
        except WeightsError as refusal:
            await self._outcomes.note(attempt, AttemptOutcome.REFUSED, refusal)
            raise

    def _check_idle(self) -> None:
        if self._attempt is not None:
            raise SwapInProgress(model=self._model, phase=self._attempt.phase)

    async def _to_its_outcome(self, attempt: Attempt, change: Change) -> None:
        error: BaseException | None = None
        try:
            await self._outcomes.note(attempt, AttemptOutcome.BEGUN, None)
            await change()
        except BaseException as failure:
            error = failure
            raise
        finally:
            committed = attempt.version is not None and attempt.version == self._members.table.target.committed.version
            outcome, self._attempt = attempt.outcome(error, committed), None
            if outcome.outcome == AttemptOutcome.COMMITTED and error is None:
                self._outcomes.note_moved()
            if error is not None:
                self._outcomes.explain(attempt)
            await self._outcomes.note_ended(attempt, outcome, error)

    async def _swap(self, attempt: Attempt, admit: Admit, terms: CandidateTerms | None) -> None:
        self._members.touch()
        current = self._members.table.target.committed.version
        version = await asyncio.to_thread(admit, current)
        if version == current:
            attempt.answering = version
            return
        try:
            if terms is None:
                await self._run(attempt, version)
            else:
                await self.candidates.hold(attempt, version, terms)
        except NotSettled:  # it is committed, or a candidate
            raise
        except BaseException:
            await asyncio.to_thread(self._store.remove, version)  # unless it is committed
            raise

    async def _roll_back(self, attempt: Attempt, number: int | None) -> None:
        committed = self._members.table.target.committed
        version = BUILT_IN if number == BUILT_IN.number else committed.previous
        if number:
            version = await asyncio.to_thread(self._store.version, number)
        if version is None:
            raise NothingToRollBack(model=self._model)
        if version.number == committed.version.number:
            raise NothingToRollBack(model=self._model, reason=f"version {version.number} answers already")
        if version.number == BUILT_IN.number:
            self._check_built_in_resident()
        await self._run(attempt, version, without_replicas=bool(self._members.table.lacks))

    async def _run(self, attempt: Attempt, version: Version, *, without_replicas: bool = False) -> None:
        try:
            await self.course.swap(attempt, version, without_replicas=without_replicas)
        finally:
            await self._members.finish()
        await asyncio.to_thread(self._store.make_room)

    async def _note_fallen(self, swap: Swap) -> None:
        """A candidate has been withdrawn because a replica could not stage it."""
        (attempt := Attempt("withdraw", "the coordinator")).begin(swap)
        end = attempt.outcome(swap.error, committed=False).model_copy(update={"outcome": AttemptOutcome.WITHDRAWN})
        await self._outcomes.note_ended(attempt, end, swap.error)

    def _check_built_in_resident(self) -> None:
        """Version 0 is in no file: once a replica has let go of it, nobody can bring it back there."""
        for report in self._members.table.reports:
            receipt = report.receipt
            if receipt is not None and BUILT_IN.number not in (receipt.version, receipt.previous):
                raise BuiltInWeightsReleased(model=self._model, replica=report.member)
