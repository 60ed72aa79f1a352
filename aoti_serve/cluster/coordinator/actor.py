"""The coordinator: the one actor per model that may change its weights."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

import ray
from ray import serve

from aoti_serve.address import Address
from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.changes import Changes
from aoti_serve.cluster.coordinator.first import first_committed, intake_of
from aoti_serve.cluster.coordinator.follow.following import Following, TakeUri
from aoti_serve.cluster.coordinator.gathered import Gathered, GatheredStatistics, Told
from aoti_serve.cluster.coordinator.housekeeping import Housekeeping
from aoti_serve.cluster.coordinator.labels import Labelling
from aoti_serve.cluster.coordinator.rollout.rollouts import Rollouts
from aoti_serve.cluster.coordinator.succession.standby import Standby
from aoti_serve.cluster.coordinator.uploads import Uploads
from aoti_serve.cluster.membership.liveness import LiveActors
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.cluster.serve_log import join_serve_log
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.cluster.transfer.actor import TransferActor
from aoti_serve.cluster.transfer.download import ChunkSource
from aoti_serve.config import ModelConfig, WeightsLimits
from aoti_serve.errors import (
    LedElsewhere,
    StoreFailed,
    Unavailable,
    UnfitAdapter,
    UploadFailed,
    WrongNameRule,
)
from aoti_serve.signature.signature import Signature
from aoti_serve.weights.assets import OfferedAssets
from aoti_serve.weights.audit import AttemptOutcome, AuditLog
from aoti_serve.weights.golden import OfferedGolden
from aoti_serve.weights.labels import LabelChange
from aoti_serve.weights.rollout.figures import TrialFigures
from aoti_serve.weights.sources.uri import shown_uri
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.store.term import home_of
from aoti_serve.weights.store.usage import StoredVersion
from aoti_serve.weights.swap.story import StoryEvent
from aoti_serve.weights.swap.timeouts import SwapDeadlines
from aoti_serve.weights.swap_options import ExposureOptions, SwapOptions
from aoti_serve.weights.terms import terms_for
from aoti_serve.weights.version import GoldenFile, Version

logger = logging.getLogger("ray.serve")
STATUS_POLL_S = 2.0
STATUS_REST = 9  # a watched coordinator waits for so many times as long as the last status took


class Coordinator:
    """Serve deployment class, one replica per model. All that must outlive its process is in the store.

    One swap at a time: a second one gets SwapInProgress. If two are alive, the store lets only the newer one commit,
    and members listen only to that one; one of another application goes on for its own members, see `Standby`.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self,
        model: ModelConfig,
        signature: Signature,
        carries_weights: bool,
        members: tuple[str, ...],
        limits: WeightsLimits,
    ) -> None:
        join_serve_log()
        self._signature = signature
        application = serve.get_replica_context().app_name
        opened = partial(Store, model.store_root, model.name, model.keep_versions, keep_bytes=model.keep_bytes)
        home = home_of(ray.get_runtime_context().gcs_address, application)
        self._store = await asyncio.to_thread(opened, home=home)
        self._assets = tuple(sorted(model.processor.asset_names)) if model.processor else ()
        self._intake = intake_of(self._store, model, signature, limits, carries_weights)
        first = await asyncio.to_thread(first_committed, self._intake, model, signature, carries_weights)
        deadlines = SwapDeadlines(stage=model.stage_timeout_s, commit=model.commit_timeout_s)
        live = LiveActors(application, members)
        processors = bool(self._assets)
        self._members = MemberServer(self._store.term, first, deadlines, live, self._check_term, processors=processors)
        self._status_took = 0.0  # seconds
        self._uploads, self._statistics = Uploads(self._store), GatheredStatistics()
        self._transfer = TransferActor.here(limits.max_weights_bytes)
        audit = AuditLog(self._store.audit_path)
        self._refusals = AuditLog(self._store.audit_path and self._store.audit_path.with_name("refused.jsonl"))
        self._changes = Changes(model.name, self._store, self._members, audit)
        self._standby = Standby(self._store, self._members, self._changes)
        self._labels = Labelling(self._store, self._members, audit)
        self._rollouts = Rollouts(model.name, self._store, self._members, self._changes)
        self._terms_of = terms_for(model, signature)
        self._changes.candidates.resume()
        self._rollouts.resume()
        await self._labels.publish_stored()
        await self._members.open()
        house = Housekeeping(self._store, self._uploads, self._transfer, self._changes, self._rollouts)
        runs = (self._members.run(), self._members.liveness.run(), self._rollouts.run(), self._standby.run())
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each) for each in (*runs, house.keep(), house.watch_bytes())]
        if model.follow is not None:
            following = Following(model.follow, self._intake, self._changes, self._swap_from)
            self._tasks.append(loop.create_task(following.run()))

    async def address(self, asking: str) -> Address:
        """The address at which members on the node `asking` connect."""
        node, host = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        return await self._members.address(node, host, asking)

    async def source(self, version: Version) -> ChunkSource:
        """The source from which replicas read the bytes of a version."""
        return ChunkSource(self._transfer, self._store.file(version))

    async def attached_source(self, name: str) -> ChunkSource:
        """The source from which members read what came with a version, by its name in the store."""
        return ChunkSource(self._transfer, self._store.attached_file(name))

    async def open_upload(self, options: SwapOptions, who: str, action: str = "swap") -> tuple[str, ChunkSource]:
        """A new upload: its id, for `swap_upload` or an offer, and where to append the bytes of a file."""
        attempt = Attempt(action, who, options.label, "upload", options.skip_acceptance)
        await self._changes.check_upload(attempt)
        try:
            await asyncio.to_thread(options.check_upload)
            upload, path = await asyncio.to_thread(self._uploads.open, attempt)
        except (StoreFailed, UnfitAdapter, WrongNameRule) as error:
            await self._changes.note_failed(attempt, error)
            raise
        return upload, ChunkSource(self._transfer, path)

    async def drop_upload(self, upload: str, why: str) -> None:
        """Throw away an upload that has failed, and record that."""
        if attempt := await asyncio.to_thread(self._uploads.drop, upload):
            await self._changes.note_failed(attempt, UploadFailed(detail=why))

    async def offer_golden(self, upload: str) -> GoldenFile:
        """Keep golden requests that were uploaded, for swaps that name them by their sha256."""
        path = self._uploads.take(upload)
        return await asyncio.to_thread(OfferedGolden(self._store).take, path, self._signature)

    async def offer_asset(self, upload: str) -> str:
        """Keep a file for swaps that name it as an asset by its sha256, which this returns."""
        return await asyncio.to_thread(OfferedAssets(self._store).take, self._uploads.take(upload))

    async def swap_upload(self, upload: str, options: SwapOptions, who: str, wait: bool = True) -> WeightsStatus:
        """Swap to what was uploaded; the status when every live replica answers with it, or else at once."""
        attempt = Attempt("swap", who, options.label, "upload", options.skip_acceptance)
        try:
            path = self._uploads.take(upload)
        except Unavailable as error:
            await self._changes.note_failed(attempt, error)
            raise

        def admit(current: Version) -> Version:
            try:
                return self._intake.of_file(path, options, current)
            finally:
                self._store.discard(path)

        return await self._uploads.handed_to(self._change(attempt, admit, options, wait), path)

    async def swap_uri(self, uri: str, options: SwapOptions, who: str, wait: bool = True) -> WeightsStatus:
        return await self._swap_from(self._intake.of_uri, uri, options, who, wait)

    async def _swap_from(
        self, take: TakeUri, uri: str, options: SwapOptions, who: str, wait: bool = True
    ) -> WeightsStatus:
        attempt = Attempt("swap", who, options.label, shown_uri(uri), options.skip_acceptance)
        return await self._change(attempt, lambda current: take(uri, options, current), options, wait)

    async def _change(
        self, attempt: Attempt, admit: Callable[[Version], Version], options: SwapOptions, wait: bool
    ) -> WeightsStatus:
        return await self._changes.swap(attempt, admit, wait=wait, terms=self._terms_of(options))

    async def rollback(self, number: int | None, who: str, wait: bool = True) -> WeightsStatus:
        """Swap back to a stored version, the previous one if None."""
        return await self._changes.rollback(Attempt("rollback", who), number, wait=wait)

    async def expose(self, options: ExposureOptions, who: str) -> WeightsStatus:
        """Let the candidate meet other shares of the requests."""
        return await self._changes.expose(Attempt("expose", who), options)

    async def promote(self, who: str, wait: bool = True) -> WeightsStatus:
        """Commit the candidate."""
        return await self._changes.promote(Attempt("promote", who), wait=wait)

    async def withdraw(self, who: str, wait: bool = True) -> WeightsStatus:
        """Free the candidate everywhere."""
        return await self._changes.withdraw(Attempt("withdraw", who), f"{who} asked for it", wait=wait)

    async def relabel(self, change: LabelChange, who: str) -> dict[str, int]:
        """Move a label that can be moved; all of them afterwards."""
        return await self._labels.change(change, who)

    async def refused(self, facts: dict[str, str]) -> None:
        """Note what a gateway has turned away, in a file of its own: many such lines must not push out the changes."""
        await asyncio.to_thread(self._refusals.write, outcome=AttemptOutcome.REFUSED, **facts)

    async def exchange_statistics(self, told: Told) -> Gathered:
        """Keep what a gateway tells of its figures; those of the others."""
        return self._statistics.exchange(told, self._members.table.living)

    async def note_trial(self, gateway: str, swap: str, figures: TrialFigures) -> None:
        """Keep what a gateway has counted of the trial that is on."""
        self._rollouts.trials.tell(gateway, swap, figures)

    async def versions(self) -> list[StoredVersion]:
        return await asyncio.to_thread(self._store.stored)

    async def status(self, seen: int = -1) -> WeightsStatus:
        """The status; with `seen`, once something has changed since that revision, or after `STATUS_POLL_S`."""
        if seen == self._members.revision:
            await self._members.changed(STATUS_POLL_S)
            await asyncio.sleep(self._status_took * STATUS_REST)
        started = time.perf_counter()
        status = self._rollouts.shown_in(self._changes.status().model_copy(update={"assets": self._assets}))
        self._status_took = time.perf_counter() - started
        return status

    async def story(self) -> tuple[StoryEvent, ...]:
        """The last events, oldest first; times are UTC."""
        return self._members.story()

    async def check_health(self) -> None:
        """Called by Serve: one that a newer one of this application has replaced must end."""
        try:
            await self._check_term()
        except LedElsewhere:
            self._standby.check()
        except StoreFailed as error:  # members must not die with the disk
            logger.warning(str(error))
        for task in filter(asyncio.Task.done, self._tasks):
            task.result()

    async def _check_term(self) -> None:
        await asyncio.to_thread(self._store.check_term)
