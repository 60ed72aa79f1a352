"""The course of a swap in the coordinator: from the first stage to its end, or to a candidate and on from there."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.membership.server import CommitVersion, MemberServer
from aoti_serve.errors import AotiServeError, CommitUnknown, NotSettled, TryAgain
from aoti_serve.weights.audit import AttemptOutcome
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.states import State
from aoti_serve.weights.swap.swap import Swap
from aoti_serve.weights.swap.target import Exposure, TargetRevision
from aoti_serve.weights.version import Committed, Version

logger = logging.getLogger("ray.serve")
COMMIT_S = 120.0  # far longer than a store takes that answers at all
LAST_NOTE_S = 5.0
HEARD_S = 10.0  # longer than a gateway needs that lives: targets are pushed, and followed at once
Note = Callable[[Attempt, AttemptOutcome, BaseException | None], Awaitable[None]]


class SwapCourse:
    """Takes swaps through their states, one at a time. `note` writes to the audit log.

    All methods return when the swap has ended, or is held. They raise the reason if it was aborted, and NotSettled if
    it is not certain that all members follow.
    """

    def __init__(self, model: str, store: Store, members: MemberServer, note: Note) -> None:
        self._model = model
        self._store = store
        self._members = members
        self._note = note

    async def swap(
        self,
        attempt: Attempt,
        version: Version,
        *,
        without_replicas: bool = False,
        exposure: Exposure | None = None,
        commit: CommitVersion | None = None,
    ) -> Swap:
        """To a version, or to a candidate if there is an `exposure`.

        `without_replicas`: only in the store, to leave weights that end every replica. `commit`: in the place of the
        commit in the store.
        """
        if not without_replicas:
            self._check_live()
        commit = commit or self._commit_for(attempt)
        swap = self._members.begin(
            version, commit, without_replicas=without_replicas, exposure=exposure, name=attempt.name
        )
        attempt.begin(swap)
        await self._to_rest(swap)
        return swap

    async def promote(self, attempt: Attempt, swap: Swap) -> None:
        """From a candidate to what is committed."""
        self._check_live()
        attempt.begin(swap)
        self._members.promote(swap, self._commit_for(attempt))
        await self._to_rest(swap)

    async def withdraw(self, attempt: Attempt, swap: Swap, error: AotiServeError) -> None:
        """From a candidate to nothing; `error` says why, and is not raised."""
        attempt.begin(swap)
        self._members.withdraw(swap, error)
        try:
            await self._to_rest(swap)
        except AotiServeError as ended:
            if ended is not error:
                raise
        if ending := self._members.table.ending:
            reason = f"it cannot be confirmed that {', '.join(sorted(ending))} has ended, and may answer with it"
            raise NotSettled(model=self._model, version=swap.version.number, reason=reason, done="withdrawn")

    async def tell_gateways(self, swap: Swap, done: str, *, also_ending: bool = False) -> None:
        """Wait until all gateways go by the exposure that was published last, or it is a candidate no more.

        Raises NotSettled, which names those that have not said so within `HEARD_S`, and with `also_ending` those whose
        end is not certain; `done` says what is done.
        """
        table, until = self._members.table, time.monotonic() + HEARD_S
        at, late = table.target.at, {report.member for report in table.reports if report.is_gateway}
        while swap.held and (late := {member for member in late if self._is_unaware(member, at)}):
            if (left := until - time.monotonic()) <= 0:
                break
            await self._members.changed(left)
        late |= table.ending.keys() if also_ending else set()
        if swap.held and late:
            reason = f"{', '.join(sorted(late))} has not confirmed that, and may go by what was said before"
            raise NotSettled(model=self._model, version=swap.version.number, reason=reason, done=done)

    def _is_unaware(self, member: str, at: TargetRevision) -> bool:
        report = self._members.table.report_of(member)
        return report is not None and report.is_gateway and not report.joining and report.followed < at

    def _check_live(self) -> None:
        if lacks := self._members.table.lacks:
            raise TryAgain(detail=f"model '{self._model}' has no live {lacks} to try the weights on; try again")

    async def _to_rest(self, swap: Swap) -> None:
        await self._members.rest(swap)
        if swap.state is State.ABORTED:
            raise swap.error or RuntimeError("an aborted swap says why")
        if swap.state is State.UNSETTLED:
            raise NotSettled(model=self._model, version=swap.version.number, reason=self._why_unsettled(swap))

    def _commit_for(self, attempt: Attempt) -> Callable[[Version], Awaitable[Committed]]:
        return partial(self._commit, attempt, self._members.table.target.committed)

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
                await asyncio.wait_for(self._note(attempt, AttemptOutcome.UNKNOWN, error), LAST_NOTE_S)
            os._exit(1)

    def _why_unsettled(self, swap: Swap) -> str:
        if swap.error is not None:
            return f"a newer coordinator completes it ({swap.error})"
        ending = ", ".join(sorted(self._members.table.ending.keys() | swap.waiting))
        return f"it cannot be confirmed that {ending} has ended, and may answer with the version before"
