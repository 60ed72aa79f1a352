"""The coordinator: the one actor per model that may change its weights."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from ray import serve
from ray.actor import ActorHandle

from aoti_serve.cluster.registry import Registry
from aoti_serve.cluster.transfer import Chunks, put_file
from aoti_serve.config import ModelConfig
from aoti_serve.errors import (
    BodyTooLarge,
    InvalidWeights,
    NothingToRollBack,
    StoreFailed,
    SwapInProgress,
)
from aoti_serve.model.signature import Signature
from aoti_serve.tensors import Frozen
from aoti_serve.weights.source import check_fits, digest_of, local_file, read_index
from aoti_serve.weights.store import Store
from aoti_serve.weights.swap import Receipt, Report, Swap, Target
from aoti_serve.weights.version import BUILT_IN, Committed, Version

logger = logging.getLogger("ray.serve")
STATUS_POLL_S = 2.0
ASSEMBLE_S = 10.0


class SwapProgress(Frozen):
    """A swap under way: how many of the live replicas have done the phase."""

    id: str
    version: int
    phase: str
    done: int
    replicas: int


class WeightsStatus(Frozen):
    """What answers, what is behind it, and what every replica has signed. `revision` grows with every change."""

    model: str
    revision: int
    epoch: int
    current: Version
    previous: Version | None
    replicas: tuple[Receipt, ...]
    swap: SwapProgress | None


class Coordinator:
    """Serve deployment class, one replica per model. Everything it knows for certain is in the store.

    One swap at a time: a second one gets SwapInProgress. A swap, once begun, ends whether its caller waits or not.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self, model: ModelConfig, signature: Signature, carries_weights: bool, members: tuple[str, ...], max_bytes: int
    ) -> None:
        self._model = model
        self._members = members
        self._signature = signature
        self._carries_weights = carries_weights
        self._max_bytes = max_bytes
        self._store = await asyncio.to_thread(Store, model.store_root, model.name, model.keep_versions)
        committed = await asyncio.to_thread(self._first)
        self._registry = Registry(committed)
        self._busy = False
        self._assembled = False
        self._swap: Swap | None = None
        self._uploads: dict[str, Path] = {}
        self._tasks = {asyncio.get_running_loop().create_task(self._registry.reap())}

    async def sync(self, report: Report, process: ActorHandle[Any], seen: int) -> Target:
        """For members: report, and learn the target once it is newer than `seen`."""
        return await self._registry.sync(report, process, seen)

    async def fetch(self, number: int) -> Chunks:
        """For replicas: a stored version's bytes as objects of bounded size, and the index of its tensors."""
        return await asyncio.to_thread(self._read, number)

    async def open_upload(self) -> str:
        """A new upload; fill it with `append`, hand its id to `swap`."""
        upload = uuid4().hex
        self._uploads[upload] = await asyncio.to_thread(self._store.incoming)
        return upload

    async def append(self, upload: str, chunk: bytes) -> None:
        """Add bytes to an upload; raises BodyTooLarge, and forgets it, when there are too many."""
        size = await asyncio.to_thread(self._store.append, self._uploads[upload], chunk)
        if size > self._max_bytes:
            await self.drop_upload(upload)
            raise BodyTooLarge(limit=self._max_bytes, setting="gateway.max_weights_bytes")

    async def drop_upload(self, upload: str) -> None:
        path = self._uploads.pop(upload, None)
        if path is not None:
            await asyncio.to_thread(self._store.discard, path)

    async def swap_upload(self, upload: str, label: str, sha256: str | None) -> WeightsStatus:
        """Swap to what was uploaded; the status when every live replica answers with it."""
        try:
            return await self._exclusively(lambda: self._swap_upload(upload, label, sha256))
        except SwapInProgress:
            await self.drop_upload(upload)
            raise

    async def swap_uri(self, uri: str, label: str, sha256: str | None) -> WeightsStatus:
        """Swap to a file that this node can read, under one of `weights_roots`."""
        path = local_file(uri, self._model.weights_roots)
        return await self._exclusively(lambda: self._swap_file(path, label, sha256))

    async def rollback(self, number: int | None) -> WeightsStatus:
        """Swap back to a stored version, the previous one if None. Moves no data where it is still resident."""
        return await self._exclusively(lambda: self._roll_back_to(number))

    async def versions(self) -> list[Version]:
        return await asyncio.to_thread(self._store.versions)

    async def status(self, seen: int = -1) -> WeightsStatus:
        """The status; with `seen`, once something has changed since that revision, or after a while."""
        if seen == self._registry.revision:
            await self._registry.changed(STATUS_POLL_S)
        return self._status()

    def _status(self) -> WeightsStatus:
        committed = self._registry.target.committed
        receipts = (report.receipt for report in self._registry.reports if report.receipt)
        return WeightsStatus(
            model=self._model.name,
            revision=self._registry.revision,
            epoch=committed.epoch,
            current=committed.version,
            previous=committed.previous,
            replicas=tuple(sorted(receipts, key=lambda receipt: receipt.replica)),
            swap=self._progress(),
        )

    def _progress(self) -> SwapProgress | None:
        swap = self._swap
        if swap is None:
            return None
        replicas = [report for report in self._registry.reports if report.runners]
        done = sum(swap.done(report) for report in replicas)
        number = swap.version.number
        return SwapProgress(id=swap.id, version=number, phase=swap.phase, done=done, replicas=len(replicas))

    async def _exclusively(self, change: Callable[[], Awaitable[None]]) -> WeightsStatus:
        if self._busy:
            raise SwapInProgress(model=self._model.name, phase=self._swap.phase if self._swap else "reading")
        self._busy = True
        # Its own task: a caller that goes away must not stop a swap halfway.
        task = asyncio.get_running_loop().create_task(self._ended(change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)
        return self._status()

    async def _ended(self, change: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._assemble()
            await change()
        finally:
            self._busy = False

    async def _assemble(self) -> None:
        """After a start, wait for the members that Serve knows: a swap must not miss one that answers already."""
        if self._assembled:
            return
        expected = await asyncio.to_thread(_running, serve.get_replica_context().app_name, self._members)
        await self._registry.joined(expected, ASSEMBLE_S)
        self._assembled = True

    async def _swap_upload(self, upload: str, label: str, sha256: str | None) -> None:
        try:
            await self._swap_file(self._uploads[upload], label, sha256)
        finally:
            await self.drop_upload(upload)

    async def _swap_file(self, path: Path, label: str, sha256: str | None) -> None:
        version = await asyncio.to_thread(self._store_checked, path, label, sha256)
        try:
            await self._run(version)
        except BaseException:
            await asyncio.to_thread(self._forget_uncommitted, version)
            raise

    async def _roll_back_to(self, number: int | None) -> None:
        committed = self._registry.target.committed
        version = committed.previous
        if number is not None:
            built_in = self._carries_weights and number == BUILT_IN.number
            version = BUILT_IN if built_in else await asyncio.to_thread(self._store.version, number)
        if version is None or version.number == committed.version.number:
            raise NothingToRollBack(model=self._model.name)
        await self._run(version)

    async def _run(self, version: Version) -> None:
        before = self._registry.target.committed
        self._swap = Swap(
            version, self._registry, lambda: self._store.commit(version, before.epoch + 1, before.version)
        )
        try:
            await self._swap.run()
        finally:
            self._swap = None

    def _store_checked(self, path: Path, label: str, sha256: str | None) -> Version:
        check_fits(read_index(path), self._signature)
        digest = digest_of(path, sha256)
        return self._store.add(path, label, digest)

    def _forget_uncommitted(self, version: Version) -> None:
        committed = self._store.committed()
        if committed is None or committed.version.number != version.number:
            self._store.remove(version)

    def _first(self) -> Committed:
        committed = self._store.committed()
        if committed is not None:
            self._check_committed(committed.version)
            return committed
        if self._model.weights is None:
            return Committed(epoch=0, version=BUILT_IN)
        version = self._store_checked(self._model.weights.resolve(), self._model.weights.stem, None)
        return self._store.commit(version, 1, BUILT_IN if self._carries_weights else None)

    def _check_committed(self, version: Version) -> None:
        """A package that was compiled anew may take other tensors than the ones that were committed before."""
        if version.number == BUILT_IN.number:
            return
        try:
            check_fits(read_index(self._store.file(version)), self._signature)
        except InvalidWeights as error:
            detail = f"committed version {version.number} does not fit the package: {error}; set another `store`"
            raise StoreFailed(path=self._model.store_root, detail=detail) from error

    def _read(self, number: int) -> Chunks:
        version = self._store.version(number)
        path = self._store.file(version)
        digest_of(path, version.digest)
        return put_file(path)


def _running(application: str, deployments: tuple[str, ...]) -> int:
    """How many replicas of `deployments` Serve counts as running."""
    overview = serve.status().applications[application].deployments
    known = [overview[name] for name in deployments if name in overview]
    return sum(count for status in known for state, count in status.replica_states.items() if state == "RUNNING")
