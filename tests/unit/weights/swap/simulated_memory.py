"""Played memory for the simulated cluster: a store, buffers, and the gates at which their writes wait."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from aoti_serve.errors import StoreFailed, Superseded
from aoti_serve.weights.swap.target import Receipt
from aoti_serve.weights.version import Committed, Version

GARBAGE = Version(number=-1, digest="half written")
OLD = Committed(epoch=4, version=Version(number=7, digest="sha of 7"), previous=Version(number=6, digest="sha of 6"))
HOPS = 12  # turns of the event loop after which nothing moves by itself any more


class Gone(Exception):
    """The coordinator that was called, or that calls, is dead."""


class Withdrawn(Exception):
    """A stage was cancelled."""


async def settled(hops: int = HOPS) -> None:
    for _ in range(hops):
        await asyncio.sleep(0)


class Gate:
    """Where a coroutine waits until the schedule lets it through."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    @property
    def occupied(self) -> bool:
        return self._waiting is not None and not self._waiting.done()

    async def passed(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def open(self, error: BaseException | None = None) -> None:
        if self._waiting is not None and not self._waiting.done():
            if error is None:
                self._waiting.set_result(None)
            else:
                self._waiting.set_exception(error)


class Candidate(NamedTuple):
    """The record of the candidate that is out, and of the epoch to which it is one."""

    swap: str
    version: Version
    epoch: int


class Durable:
    """What the store keeps. Only the coordinator that opened it last may change it, and commit only the next epoch."""

    def __init__(self) -> None:
        self.term = 0
        self.history = {OLD.epoch: OLD}
        self._candidate: Candidate | None = None

    @property
    def candidate(self) -> Candidate | None:
        record = self._candidate
        return record if record is not None and record.epoch == self.committed.epoch else None

    def hold(self, term: int, candidate: Candidate | None) -> None:
        if term != self.term:
            raise Superseded(model="m", term=term, newer=self.term)
        self._candidate = candidate

    @property
    def committed(self) -> Committed:
        return self.history[max(self.history)]

    def open(self) -> int:
        self.term += 1
        return self.term

    def commit(self, term: int, committed: Committed) -> Committed:
        if term != self.term:
            raise Superseded(model="m", term=term, newer=self.term)
        if committed.epoch != self.committed.epoch + 1:
            raise StoreFailed(path="/store", detail=f"epoch {committed.epoch} after {self.committed.epoch}")
        self.history[committed.epoch] = committed
        return committed


class Slots:
    """A replica's memory: two slots, of which one answers. Every write takes as long as the schedule wants."""

    def __init__(self) -> None:
        self.active = 0
        self.slots: list[Version | None] = [None, None]
        self.staged: Version | None = None
        self.broken: Exception | None = None
        self.gate = Gate()
        self.writes = 0
        self.has_failed = False
        self.withdrawn = False

    @property
    def answering(self) -> Version | None:
        return self.slots[self.active]

    async def stage(self, version: Version, *, accepted: bool) -> None:
        if version in self.slots:
            return
        self._check()
        behind = 1 - self.active
        self.slots[behind], self.staged = GARBAGE, None
        self.writes += 1
        self.withdrawn = False
        try:
            await self.gate.passed()
            self._check()
            if self.withdrawn:
                raise Withdrawn
        except BaseException:
            self.slots[behind] = None
            raise
        self.slots[behind] = self.staged = version

    def _check(self) -> None:
        if self.broken is not None:
            self.has_failed = True
            raise self.broken

    async def activate(self, version: Version) -> None:
        if self.answering != version:
            assert self.slots[1 - self.active] == version, "what is to answer is not there"
            await self.gate.passed()
            self.active, self.staged = 1 - self.active, None

    def cancel_stage(self) -> None:
        """The write that is under way fails when it is done."""
        self.withdrawn = True

    async def abort(self) -> None:
        if self.staged is not None:
            self.slots[1 - self.active] = self.staged = None


def receipt(replica: str, epoch: int, version: Version) -> Receipt:
    return Receipt(
        replica=replica,
        node="n",
        pid=1,
        device="cpu",
        gpu_ids=(),
        epoch=epoch,
        version=version.number,
        digest=version.digest,
        previous=None,
        nbytes=0,
        stage_milliseconds=0.0,
        commit_milliseconds=0.0,
    )
