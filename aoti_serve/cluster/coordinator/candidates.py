"""The candidate of a model: held, exposed, promoted or withdrawn, and remembered in the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aoti_serve.cluster.calls import spawn
from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.course import SwapCourse
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.cluster.status import CandidateStatus
from aoti_serve.errors import (
    CandidateOut,
    CandidateWithdrawn,
    NoCandidate,
    RolloutDecides,
    StoreFailed,
    Superseded,
    SwapInProgress,
    WeightsError,
)
from aoti_serve.weights.candidate import Candidate
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.states import ChangeName, State
from aoti_serve.weights.swap.swap import Swap
from aoti_serve.weights.swap_options import ExposureOptions
from aoti_serve.weights.terms import CandidateTerms
from aoti_serve.weights.version import Committed, Version

logger = logging.getLogger("ray.serve")


class GivenUp(NamedTuple):
    """The number of a version that was tried and shall not answer, and why, for people."""

    version: int
    why: str


class Candidates:
    """At most one candidate at a time. Runs in the coordinator's event loop, for one change at a time.

    `record` is what the store remembers of it. `given_up` is the last that was withdrawn, or rolled back by its
    rollout, as far as this process knows. `fallen` hears of a candidate that ends without being asked to, since a
    replica could not stage it.
    """

    def __init__(
        self,
        model: str,
        store: Store,
        members: MemberServer,
        course: SwapCourse,
        fallen: Callable[[Swap], Awaitable[None]],
    ) -> None:
        self._model = model
        self._store = store
        self._members = members
        self._course = course
        self._fallen = fallen
        self.record: Candidate | None = None
        self.given_up: GivenUp | None = None
        self._end: asyncio.Task[None] | None = None
        self._decided = False

    @property
    def status(self) -> CandidateStatus | None:
        swap, record = self._members.rules.swap, self.record
        if swap is None or record is None or not swap.held:
            return None
        return CandidateStatus(
            version=swap.version,
            share=record.exposure.share,
            shadow=record.exposure.shadow,
            since=record.since,
            plan=record.plan,
        )

    def check_none(self, terms: CandidateTerms | None = None) -> None:
        """Raise CandidateOut if there is one: it has the memory that any other change needs. `terms` must do, too."""
        if (swap := self._members.rules.swap) is not None:
            if not swap.held:  # it is being freed
                raise SwapInProgress(model=self._model, phase=swap.phase)
            raise CandidateOut(model=self._model, version=swap.version.number)
        if terms is not None:
            terms.check()

    def check_held(self) -> None:
        """Raise NoCandidate if there is none."""
        self._held()

    def resume(self) -> None:
        """Go on with the candidate of an earlier coordinator, if there is one; before members connect."""
        record = self._store.candidate()
        try:
            if record is None:
                self._store.hold(None)  # one from before the last commit may be there, which nobody has ended
                return
            version = self._store.version(record.version, also_staged=True)
        except WeightsError as error:
            logger.warning(f"model '{self._model}': the candidate of before is gone: {error}")
        else:
            name = ChangeName("swap", record.swap)
            swap = self._members.begin(version, _not_asked, exposure=record.exposure, name=name, resumed=True)
            self._keep(swap, record)

    async def hold(self, attempt: Attempt, version: Version, terms: CandidateTerms) -> None:
        """Stage a version everywhere, and stop there. Without a plan all gateways know it when this returns.

        Raises NotSettled if that cannot be confirmed; it is a candidate then.
        """
        epoch = self._members.table.target.committed.epoch
        try:
            swap = await self._course.swap(attempt, version, exposure=terms.exposure)
            record = Candidate(
                swap=swap.id,
                version=version.number,
                epoch=epoch,
                since=time.time(),
                exposure=terms.exposure,
                plan=terms.plan,
            )
            await self._remember(attempt, swap, record)
        finally:
            await self._members.finish()
        self._keep(swap, record)
        if terms.plan is None:
            await self._course.tell_gateways(swap, "a candidate")

    async def expose(self, attempt: Attempt, options: ExposureOptions, *, confirm: bool) -> None:
        """Let it meet other shares of the requests, once that is stored.

        With `confirm` all gateways go by them when this returns; raises NotSettled if that cannot be confirmed,
        and RolloutDecides if the shares are a rollout's.
        """
        swap, record = self._held()
        if confirm and record.plan is not None:  # a person asks; the rollout itself asks without
            raise RolloutDecides(model=self._model, version=swap.version.number)
        attempt.begin(swap)
        exposure = options.applied_to(record.exposure)
        record = record.model_copy(update={"exposure": exposure})
        await asyncio.to_thread(self._store.hold, record)
        if not swap.held:  # it has ended meanwhile, and its record may have been erased before this one was written
            await asyncio.to_thread(self._store.hold, None)
            raise swap.error or NoCandidate(model=self._model)
        self.record = record
        self._members.expose(swap, exposure)
        if confirm:
            await self._course.tell_gateways(swap, "exposed", also_ending=True)  # they may go by a larger share

    async def promote(self, attempt: Attempt) -> None:
        """The commit point, without any transfer."""
        swap, _ = self._held()
        self._decided = True
        try:
            await self._course.promote(attempt, swap)
        finally:
            await self._ended(swap)

    async def withdraw(self, attempt: Attempt, reason: str) -> None:
        """Free it everywhere; when this returns no gateway answers with it."""
        swap, _ = self._held()
        try:
            await asyncio.to_thread(self._store.hold, None)
            self._decided = swap.held  # else a replica has failed meanwhile, and that is told by itself
            await self._free(attempt, swap, reason)
        finally:
            await self._ended(swap)

    async def give_up(self, attempt: Attempt, reason: str) -> None:
        """Free it everywhere, and leave what the store remembers of it to the application that leads now."""
        swap, _ = self._held()
        self._decided = swap.held
        try:
            await self._free(attempt, swap, reason)
        finally:
            await self._ended(swap)

    def _held(self) -> tuple[Swap, Candidate]:
        swap, record = self._members.rules.swap, self.record
        if swap is None or record is None or not swap.held:
            raise NoCandidate(model=self._model)
        return swap, record

    async def _remember(self, attempt: Attempt, swap: Swap, record: Candidate) -> None:
        try:
            await asyncio.to_thread(self._store.hold, record)
        except (StoreFailed, Superseded) as error:
            await self._free(attempt, swap, f"it could not be remembered: {error}")
            raise

    async def _free(self, attempt: Attempt, swap: Swap, reason: str) -> None:
        attempt.begin(swap)
        if swap.held:
            await self._course.withdraw(attempt, swap, CandidateWithdrawn(version=swap.version.number, reason=reason))

    def _keep(self, swap: Swap, record: Candidate) -> None:
        self.record, self._decided = record, False
        self._end = spawn(self._clear(swap))

    async def _ended(self, swap: Swap) -> None:
        """Wait until nothing is left of it; unless it is still held, since the change could not even begin."""
        if swap.held:
            self._decided = False
        elif self._end is not None:
            await asyncio.shield(self._end)

    async def _clear(self, swap: Swap) -> None:
        """Wait for its end, whatever that is; then let other changes begin."""
        await self._members.rest(swap, held=False)
        if swap.state is State.ABORTED:
            self.given_up = GivenUp(swap.version.number, str(swap.error))
        try:
            await asyncio.to_thread(self._store.hold, None)
            if swap.state is State.ABORTED:
                await asyncio.to_thread(self._store.remove, swap.version)
        except (StoreFailed, Superseded) as error:  # the record means nothing to any later epoch
            logger.warning(f"model '{self._model}': {error}")
        watched = swap.committed is not None and self.record is not None and self.record.plan is not None
        self.record = None
        if not watched:  # else the rollout ends it
            self._members.end_trial()
        await self._members.finish()
        if not self._decided:
            await self._fallen(swap)


async def _not_asked(_: Version) -> Committed:
    raise AssertionError("a candidate is not committed before it is promoted")
