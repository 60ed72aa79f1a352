"""Changes of one model's weights: one at a time, each with its outcome in the status, the metrics and the audit log."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial

from aoti_serve.cluster.calls import spawn
from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.metrics import SwapMetrics
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.cluster.metrics.definitions import COORDINATOR_METRICS
from aoti_serve.cluster.metrics.export import MetricExport
from aoti_serve.cluster.status import Outcome, WeightsStatus
from aoti_serve.errors import (
    AotiServeError,
    BuiltInWeightsReleased,
    CommitUnknown,
    NothingToRollBack,
    NotSettled,
    SwapInProgress,
    TryAgain,
)
from aoti_serve.weights.audit import AuditLog
from aoti_serve.weights.sources.follow import FollowStatus
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.states import State
from aoti_serve.weights.swap.swap import Swap
from aoti_serve.weights.swap.target import Receipt
from aoti_serve.weights.version import BUILT_IN, Committed, Version

logger = logging.getLogger("ray.serve")
COMMIT_S = 120.0  # far longer than a store takes that answers at all
LAST_NOTE_S = 5.0
LOGGED = 50  # events of the story


class Changes:
    """Runs the changes of one model's weights, one at a time, in the coordinator's event loop.

    A change, once begun, ends whether its caller waits or not.
    """

    def __init__(self, model: str, store: Store, members: MemberServer, audit: AuditLog) -> None:
        self._model = model
        self._store = store
        self._members = members
        self._audit = audit
        self._metrics = SwapMetrics(model, MetricExport(COORDINATOR_METRICS))
        self._attempt: Attempt | None = None
        self._last: Outcome | None = None
        self._follow: FollowStatus | None = None

    @property
    def moving(self) -> Version | None:
        """The version that replicas are receiving, if there is one."""
        return self._attempt.version if self._attempt else None

    @property
    def may_begin(self) -> bool:
        """Whether a swap could begin now: no change is under way, and a replica is there to try the weights on."""
        return self._attempt is None and bool(self._members.table.live_replicas)

    def show_follow(self, follow: FollowStatus) -> None:
        """Show in the status what stands of the place that is followed."""
        if follow != self._follow:
            self._follow = follow
            self._members.touch()

    async def swap(self, attempt: Attempt, admit: Callable[[Version], Version], *, wait: bool) -> WeightsStatus:
        """To the version that `admit` makes of the current one, in a thread."""
        return await self._only(attempt, lambda: self._swap(attempt, admit), wait=wait)

    async def rollback(self, attempt: Attempt, number: int | None, *, wait: bool) -> WeightsStatus:
        """To a stored version, the previous one if None; moves no data where it is still resident."""
        return await self._only(attempt, lambda: self._roll_back(attempt, number), wait=wait)

    async def note_failed(self, attempt: Attempt, error: AotiServeError) -> None:
        """Record an attempt that has failed before its weights were here: in the audit log, the metrics, the status."""
        self._last = attempt.outcome(error, committed=False)
        self._metrics.ended(self._last)
        self._members.touch()
        await self._note(attempt, self._last.outcome, error)

    def status(self) -> WeightsStatus:
        committed, attempt = self._members.table.target.committed, self._attempt
        return WeightsStatus(
            model=self._model,
            revision=self._members.revision,
            epoch=committed.epoch,
            settled=self._members.rules.settled,
            current=committed.version,
            previous=committed.previous,
            replicas=self._receipts(),
            swap=attempt.progress(self._members.table.live_replicas, committed) if attempt else None,
            last=self._last,
            labels=dict(self._members.table.target.labels),
            follow=self._follow,
        )

    def arrived(self, received: Mapping[str, int]) -> None:
        """Show how many bytes of the version under way each replica has received."""
        if self._attempt is not None and received != self._attempt.received:
            self._attempt.received = received
            self._members.touch()

    def measure(self) -> None:
        """Export the metrics as they are now."""
        table = self._members.table
        joined = [report for report in table.reports if report.member in table.heard and not report.joining]
        self._metrics.export(table.target.committed, joined)

    def _receipts(self) -> tuple[Receipt, ...]:
        receipts = (report.receipt for report in self._members.table.reports if report.receipt and not report.joining)
        return tuple(sorted(receipts, key=lambda receipt: receipt.replica))

    async def _only(self, attempt: Attempt, change: Callable[[], Awaitable[None]], *, wait: bool) -> WeightsStatus:
        if self._attempt is not None:
            busy = SwapInProgress(model=self._model, phase=self._attempt.phase)
            await self._note(attempt, "refused", busy)
            raise busy
        self._attempt = attempt
        # Its own task: a caller that goes away must not stop a swap halfway, nor leave one that is begun for ever.
        task = spawn(self._to_its_outcome(attempt, change))
        # Its error is in the outcome, for callers that do not wait.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        if wait:
            await asyncio.shield(task)
        return self.status().model_copy(update={"unchanged": attempt.unchanged})

    async def _to_its_outcome(self, attempt: Attempt, change: Callable[[], Awaitable[None]]) -> None:
        error: BaseException | None = None
        try:
            await self._note(attempt, "begun", None)
            await change()
        except BaseException as failure:
            error = failure
            raise
        finally:
            committed = attempt.version is not None and attempt.version == self._members.table.target.committed.version
            self._last, self._attempt = attempt.outcome(error, committed), None
            moved = not (error or attempt.unchanged)
            self._metrics.moved(sum(receipt.nbytes for receipt in self._receipts() if moved))
            self._metrics.ended(self._last)
            self.measure()
            self._members.touch()
            if error is not None:
                story = "\n".join(f"  {event}" for event in self._members.story()[-LOGGED:])
                logger.debug(f"model '{self._model}': before the end of {attempt.id}:\n{story}")
            await self._note(attempt, self._last.outcome, error)

    async def _note(self, attempt: Attempt, outcome: str, error: BaseException | None) -> None:
        facts = attempt.facts(outcome, error)
        if outcome != "begun":
            self._tell(attempt, outcome, error)
        await asyncio.to_thread(self._audit.write, model=self._model, **facts)

    def _tell(self, attempt: Attempt, outcome: str, error: BaseException | None) -> None:
        """One line of the log for the end of an attempt; the audit log has all of its facts."""
        number, epoch = attempt.version.number if attempt.version else None, self._members.table.target.committed.epoch
        extra = {"model": self._model, "weights_version": number, "epoch": epoch, "outcome": outcome}
        what = f"{attempt.action} {attempt.id}" + ("" if number is None else f" to version {number}")
        why = "" if error is None else f": {error!r}"
        level = logging.INFO if error is None else logging.WARNING
        logger.log(level, f"model '{self._model}': {what}: {outcome}, epoch {epoch}{why}", extra=extra)

    async def _swap(self, attempt: Attempt, admit: Callable[[Version], Version]) -> None:
        self._members.touch()
        current = self._members.table.target.committed.version
        version = await asyncio.to_thread(admit, current)
        if version == current:
            attempt.answering = version
            return
        try:
            await self._run(attempt, version)
        except BaseException:
            await asyncio.to_thread(self._store.remove, version)  # unless it is committed
            raise

    async def _roll_back(self, attempt: Attempt, number: int | None) -> None:
        committed = self._members.table.target.committed
        version = BUILT_IN if number == BUILT_IN.number else committed.previous
        if number:
            version = await asyncio.to_thread(self._store.version, number)
        if version is None or version.number == committed.version.number:
            raise NothingToRollBack(model=self._model)
        if version.number == BUILT_IN.number:
            self._check_built_in_resident()
        await self._run(attempt, version, without_replicas=not self._members.table.live_replicas)

    def _check_built_in_resident(self) -> None:
        """Version 0 is in no file: once a replica has let go of it, nobody can bring it back there."""
        for report in self._members.table.reports:
            receipt = report.receipt
            if receipt is not None and BUILT_IN.number not in (receipt.version, receipt.previous):
                raise BuiltInWeightsReleased(model=self._model, replica=report.member)

    async def _run(self, attempt: Attempt, version: Version, *, without_replicas: bool = False) -> None:
        """`without_replicas`: only in the store, to leave weights that end every replica."""
        if not without_replicas and not self._members.table.live_replicas:
            raise TryAgain(detail=f"model '{self._model}' has no live replica to try the weights on; try again")
        commit = partial(self._commit, attempt, self._members.table.target.committed)
        swap = self._members.begin(version, commit, without_replicas=without_replicas)
        attempt.begin(swap)
        await self._members.finish()
        if swap.state is State.ABORTED:
            raise swap.error or RuntimeError("an aborted swap says why")
        if swap.state is State.UNSETTLED:
            raise NotSettled(model=self._model, version=version.number, reason=self._why_unsettled(swap))

    async def _commit(self, attempt: Attempt, before: Committed, version: Version) -> Committed:
        """Commit in the store. If it cannot be told whether that is done the process ends: here is no way on."""
        epoch = before.epoch + 1
        storing = asyncio.ensure_future(asyncio.to_thread(self._store.commit, version, epoch, before.version))
        await asyncio.wait({storing}, timeout=COMMIT_S)
        try:
            if not storing.done():
                raise CommitUnknown(path=self._store.root, epoch=epoch, detail=f"no answer in {COMMIT_S:g} s")
            return storing.result()
        except CommitUnknown as error:
            logger.critical("the coordinator ends: %s", error)
            with suppress(TimeoutError):  # the log is on the disk of the store
                await asyncio.wait_for(self._note(attempt, "unknown", error), LAST_NOTE_S)
            os._exit(1)

    def _why_unsettled(self, swap: Swap) -> str:
        if swap.error is not None:
            return f"a newer coordinator completes it ({swap.error})"
        ending = ", ".join(sorted(self._members.table.ending.keys() | swap.waiting))
        return f"it cannot be confirmed that {ending} has ended, and may answer with the version before"
