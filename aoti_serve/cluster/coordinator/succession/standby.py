"""What a coordinator does while another application leads its store: it follows, and takes the store back later."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.changes import Changes
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.errors import LedElsewhere, Superseded
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import Committed

logger = logging.getLogger("ray.serve")
LOOK_EVERY_S = 2.0
BEAT_EVERY_S = 10.0
LEADER_SILENT_S = 60.0  # of the leader, before its store is taken back
FOLLOW_AGAIN_S = 30.0  # after members could not follow
LEADER = "the application that leads"


class Standby:
    """Looks at the store every `LOOK_EVERY_S`, in the coordinator's event loop.

    While this application leads it leaves a sign of life there. Once another one does, members follow what that one
    commits: nothing is stored, and no fence spans both. If the leader gives none for `LEADER_SILENT_S`, `takes_over`:
    this process must end, and the next one opens the store, which fences off the other one in case it lives.
    """

    def __init__(
        self, store: Store, members: MemberServer, changes: Changes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._members = members
        self._changes = changes
        self._clock = clock
        self._beaten = -BEAT_EVERY_S
        self._beat: bytes | None = None
        self._heard = clock()
        self._failed: tuple[int, float] | None = None  # an epoch, and when
        self.takes_over = False

    async def run(self) -> None:
        """Look again and again; for ever, as a task."""
        while True:
            try:
                await self.look()
            except Exception as error:  # the store is away, for one: the next look is as good
                logger.warning(f"model '{self._store.model}': {error!r}")
            await asyncio.sleep(LOOK_EVERY_S)

    def check(self) -> None:
        """Raise LedElsewhere once this process must end, to take the store back."""
        if self.takes_over:
            self._changes.leadership.check()

    async def look(self) -> None:
        """Look once: lead, or follow."""
        try:
            await asyncio.to_thread(self._lead)
        except LedElsewhere as error:
            await self._follow(error)
        except Superseded:  # by one of this application: Serve ends this process
            pass

    def _lead(self) -> None:
        self._store.check_term()
        if self._clock() - self._beaten >= BEAT_EVERY_S:
            self._store.beat()
            self._beaten = self._clock()

    async def _follow(self, error: LedElsewhere) -> None:
        leadership = self._changes.leadership
        if leadership.leader is None:
            logger.warning(str(error))
            self._heard = self._clock()
            leadership.lose(error)
        leadership.leader = error
        await self._listen()
        if self._changes.busy:
            return
        if self._changes.candidates.status is not None:
            await self._give_up_candidate()
        committed = await asyncio.to_thread(self._store.committed)
        if committed is not None and committed.epoch > self._members.table.target.committed.epoch:
            await self._adopt(committed)
        else:
            leadership.show_behind("")
        self._members.relabel((await asyncio.to_thread(self._store.labels)).root)

    async def _listen(self) -> None:
        """Take over when the leader has been silent for long, by this process's own clock."""
        beat, now = await asyncio.to_thread(self._store.last_beat), self._clock()
        if beat != self._beat:
            self._beat, self._heard = beat, now
        if now - self._heard >= LEADER_SILENT_S and not self.takes_over:
            self.takes_over = True
            logger.warning(f"model '{self._store.model}': {LEADER} is silent: this one takes its store back")

    async def _give_up_candidate(self) -> None:
        candidates = self._changes.candidates
        attempt = Attempt("withdraw", LEADER)
        await self._changes.follow(
            attempt, candidates.check_held, lambda: candidates.give_up(attempt, f"{LEADER} goes on with it")
        )

    async def _adopt(self, committed: Committed) -> None:
        if self._failed and self._failed[0] == committed.epoch and self._clock() - self._failed[1] < FOLLOW_AGAIN_S:
            return
        attempt = Attempt("follow", LEADER, committed.version.label, f"epoch {committed.epoch}")
        try:
            await self._changes.follow(
                attempt, self._changes.candidates.check_none, lambda: self._swap(attempt, committed)
            )
        except Exception as error:
            self._failed = committed.epoch, self._clock()
            behind = f"version {committed.version.number} is committed, and does not answer here: {error}"
            self._changes.leadership.show_behind(behind)
        else:
            self._changes.leadership.show_behind("")

    async def _swap(self, attempt: Attempt, committed: Committed) -> None:
        async def as_committed(_: object) -> Committed:
            return committed

        lonely = not self._members.table.live_replicas
        try:
            await self._changes.course.swap(attempt, committed.version, without_replicas=lonely, commit=as_committed)
        finally:
            await self._members.finish()
