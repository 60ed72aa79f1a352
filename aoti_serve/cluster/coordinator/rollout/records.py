"""The record of the rollout that is on, in the store: a coordinator that comes later goes on from there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from aoti_serve.errors import StoreFailed, Superseded
from aoti_serve.weights.candidate import Candidate, RolloutRecord
from aoti_serve.weights.rollout.state import RolloutState
from aoti_serve.weights.store.store import Store

logger = logging.getLogger("ray.serve")
REMEMBER_S = 10.0  # a restarted coordinator repeats no more than so much of a step


class RolloutRecords:
    """Reads and writes the record. It is written anew every `REMEMBER_S` seconds of `clock`, or now."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._written = 0.0

    def read(self) -> RolloutRecord | None:
        return self._store.rollout()

    async def write(self, record: RolloutRecord, *, now: bool) -> None:
        """Raises Superseded or StoreFailed."""
        if now or self._clock() - self._written > REMEMBER_S:
            await asyncio.to_thread(self._store.roll_out, record)
            self._written = self._clock()

    async def erase(self) -> None:
        """Raises StoreFailed. Where another application leads the record is that one's."""
        with suppress(Superseded):
            await asyncio.to_thread(self._store.roll_out, None)

    def forget(self) -> None:
        """Erase it if that is possible; at a start, before members connect."""
        try:
            self._store.roll_out(None)
        except (StoreFailed, Superseded) as error:
            logger.warning(f"model '{self._store.model}': the record of a rollout that is over stays: {error}")


def new_record(candidate: Candidate, active: int) -> RolloutRecord:
    """The record of a rollout that begins now; `active` is the number of the version that answers."""
    assert candidate.plan is not None
    state = RolloutState(left=candidate.plan.each)
    return RolloutRecord(
        swap=candidate.swap, version=candidate.version, active=active, plan=candidate.plan, state=state
    )


def state_in(record: RolloutRecord) -> RolloutState | None:
    """The state to go on from; None of a rollout that has not begun."""
    return record.state if record.state != RolloutState(left=record.plan.each) else None
