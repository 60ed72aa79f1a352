"""Calls a model's coordinator: for the gateway's admin routes, and for trainers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.calls import CALL_FAILED, result_of
from aoti_serve.cluster.deployments import coordinator_of, models_among
from aoti_serve.cluster.ray_private import over_grpc
from aoti_serve.errors import TryAgain, UnknownModel
from aoti_serve.weights.labels import LabelChange
from aoti_serve.weights.swap_options import ExposureOptions, SwapOptions

if TYPE_CHECKING:
    from aoti_serve.cluster.coordinator.gathered import Gathered, Told
    from aoti_serve.cluster.status import WeightsStatus
    from aoti_serve.cluster.transfer.download import ChunkSource
    from aoti_serve.weights.rollout.figures import TrialFigures
    from aoti_serve.weights.store.usage import StoredVersion
    from aoti_serve.weights.swap.story import StoryEvent
    from aoti_serve.weights.version import GoldenFile

NOTE_S = 5.0
STATISTICS_S = 3.0


class CoordinatorClient:
    """Calls the coordinator, async. Errors arrive as themselves; Unavailable while it is being restarted."""

    def __init__(self, model: str, coordinator: DeploymentHandle[Any]) -> None:
        self._model = model
        self._coordinator = over_grpc(coordinator)

    @classmethod
    def of(cls, model: str, app: str) -> Self:
        """That of a model in an application of this Ray cluster. Raises UnknownModel."""
        try:
            return cls(model, serve.get_deployment_handle(coordinator_of(model), app))
        except KeyError:
            raise UnknownModel(name=f"{app}/{model}", known=_served_models()) from None

    async def status(self, seen: int = -1) -> WeightsStatus:
        status: WeightsStatus = await self._call("status", seen)
        return status

    async def versions(self) -> list[StoredVersion]:
        versions: list[StoredVersion] = await self._call("versions")
        return versions

    async def story(self) -> tuple[StoryEvent, ...]:
        """The last events of the model's cluster, oldest first; times are UTC."""
        story: tuple[StoryEvent, ...] = await self._call("story")
        return story

    async def exchange_statistics(self, told: Told) -> Gathered:
        """Tell of a gateway's figures; those of the others. Raises Unavailable, soon."""
        gathered: Gathered = await self._answer(self._coordinator.exchange_statistics.remote(told), STATISTICS_S)
        return gathered

    async def note_trial(self, gateway: str, swap: str, figures: TrialFigures) -> None:
        """Tell what a gateway has counted of a trial. Raises Unavailable, soon."""
        await self._answer(self._coordinator.note_trial.remote(gateway, swap, figures), STATISTICS_S)

    async def rollback(self, version: int | None, who: str, wait: bool = True) -> WeightsStatus:
        status: WeightsStatus = await self._call("rollback", version, who, wait)
        return status

    async def expose(self, options: ExposureOptions, who: str) -> WeightsStatus:
        status: WeightsStatus = await self._call("expose", options, who)
        return status

    async def promote(self, who: str, wait: bool = True) -> WeightsStatus:
        status: WeightsStatus = await self._call("promote", who, wait)
        return status

    async def withdraw(self, who: str, wait: bool = True) -> WeightsStatus:
        status: WeightsStatus = await self._call("withdraw", who, wait)
        return status

    async def relabel(self, change: LabelChange, who: str) -> dict[str, int]:
        labels: dict[str, int] = await self._call("relabel", change, who)
        return labels

    async def refused(self, facts: dict[str, str]) -> None:
        """Audit an attempt that the gateway refuses; it refuses it also if the audit fails."""
        with suppress(*CALL_FAILED):
            await result_of(self._coordinator.refused.remote(facts), NOTE_S)

    async def swap_uri(self, uri: str, options: SwapOptions, who: str, wait: bool = True) -> WeightsStatus:
        status: WeightsStatus = await self._call("swap_uri", uri, options, who, wait)
        return status

    async def swap_bytes(
        self, body: AsyncIterator[Any], options: SwapOptions, who: str, wait: bool = True
    ) -> WeightsStatus:
        """Upload a safetensors file piece by piece, then swap to it. An upload that breaks off leaves nothing.

        Pieces are bytes, flat arrays of uint8, or objects that hold either.
        """
        upload = await self._uploaded(body, options, who)
        status: WeightsStatus = await self._call("swap_upload", upload, options, who, wait)
        return status

    async def offer_golden(self, body: AsyncIterator[Any], who: str) -> GoldenFile:
        """Upload a file of golden requests as `swap_bytes` does, for swaps that name them by their sha256."""
        upload = await self._uploaded(body, SwapOptions(), who, "golden")
        golden: GoldenFile = await self._call("offer_golden", upload)
        return golden

    async def offer_asset(self, body: AsyncIterator[Any], who: str) -> str:
        """Upload a file as `swap_bytes` does, for swaps that name it as an asset by its sha256, which this returns."""
        upload = await self._uploaded(body, SwapOptions(), who, "asset")
        digest: str = await self._call("offer_asset", upload)
        return digest

    async def _uploaded(self, body: AsyncIterator[Any], *what: SwapOptions | str) -> str:
        upload: str
        upload, source = await self._call("open_upload", *what)
        try:
            async for piece in body:
                await self._appended(source, piece)
        except BaseException as error:
            why = f"{type(error).__name__}: {error}".removesuffix(": ")
            with suppress(*CALL_FAILED):
                await asyncio.shield(self._call("drop_upload", upload, why))
            raise
        return upload

    async def _appended(self, source: ChunkSource, piece: Any) -> None:
        try:
            await result_of(source.transfer.append.remote(source.path, piece))
        except RayActorError as error:
            detail = f"the process that takes uploads for model '{self._model}' has ended, and is being started again"
            raise TryAgain(detail=f"{detail}; nothing has changed, try again") from error

    async def _call(self, method: str, *arguments: Any) -> Any:
        return await self._answer(getattr(self._coordinator, method).remote(*arguments))

    async def _answer(self, call: Awaitable[Any], seconds: float | None = None) -> Any:
        try:
            return await result_of(call, seconds)
        except RayActorError as error:
            detail = f"the coordinator of model '{self._model}' does not answer: it is busy, or being started again"
            raise TryAgain(detail=f"{detail}; ask for the status, then try again") from error


def _served_models() -> list[str]:
    applications = serve.status().applications.items()
    return [f"{app}/{model}" for app, status in applications for model in models_among(status.deployments)]
