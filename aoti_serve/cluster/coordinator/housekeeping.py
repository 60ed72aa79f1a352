"""What a coordinator does every few seconds, whoever asks for what."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from aoti_serve.cluster.calls import result_of
from aoti_serve.cluster.coordinator.changes import Changes
from aoti_serve.cluster.coordinator.rollout.rollouts import Rollouts
from aoti_serve.cluster.coordinator.uploads import Uploads
from aoti_serve.errors import Unavailable, UploadFailed
from aoti_serve.weights.store.store import Store

logger = logging.getLogger("ray.serve")
HOUSEKEEPING_S = 2.0
PROGRESS_S = 0.1
TRANSFER_ANSWER_S = 10.0


class Housekeeping:
    """Drops uploads that nobody goes on with, looks after the transfer actor, and shows how many bytes have arrived."""

    def __init__(self, store: Store, uploads: Uploads, transfer: Any, changes: Changes, rollouts: Rollouts) -> None:
        self._store = store
        self._uploads = uploads
        self._transfer = transfer
        self._changes = changes
        self._rollouts = rollouts

    async def keep(self) -> None:
        """One round after the other, for ever, as a task: the coordinator must not end because one fails."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            try:
                await self.look_round()
            except Exception:
                logger.exception(
                    f"model '{self._store.model}': a round of housekeeping has failed; the next one follows"
                )

    async def look_round(self) -> None:
        for attempt in await asyncio.to_thread(self._uploads.drop_idle):
            await self._changes.note_failed(attempt, UploadFailed(detail="nothing has come for too long"))
        await self._look_after_transfer()
        self._changes.measure()
        self._rollouts.measure()

    async def _look_after_transfer(self) -> None:
        try:
            await result_of(self._transfer.close_idle.remote(), TRANSFER_ANSWER_S)
        except Unavailable:
            ray.kill(self._transfer, no_restart=False)  # stopped: Ray starts another only for one that is dead
        except RayError:
            pass  # being started again

    async def watch_bytes(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            if version := self._changes.moving:
                with suppress(RayError, Unavailable):  # it is only shown
                    call: Any = self._transfer.received.remote(self._store.file(version))
                    self._changes.arrived(await result_of(call, TRANSFER_ANSWER_S))
