"""Changes a model's weights from Python: for the gateway's admin routes, and for trainers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.calls import result_of, run_in_background
from aoti_serve.cluster.deployments import coordinator_of
from aoti_serve.cluster.ray_private import over_grpc
from aoti_serve.cluster.swap_call import SwapKeywords, swap_options
from aoti_serve.cluster.transfer.upload import UPLOAD_CHUNK_BYTES, Weights, in_one_piece, rechunk, upload_stream
from aoti_serve.errors import AotiServeError, TryAgain
from aoti_serve.weights.adapter_config import adapter_at
from aoti_serve.weights.swap_options import SwapOptions

if TYPE_CHECKING:
    from aoti_serve.cluster.coordinator.gathered import Gathered, Told
    from aoti_serve.cluster.status import WeightsStatus
    from aoti_serve.weights.swap.story import StoryEvent
    from aoti_serve.weights.version import GoldenFile, Version

T = TypeVar("T")
NOTE_S = 5.0
STATISTICS_S = 3.0


class CoordinatorClient:
    """Calls the coordinator, async. Errors arrive as themselves; Unavailable while it is being restarted."""

    def __init__(self, model: str, coordinator: DeploymentHandle[Any]) -> None:
        self._model = model
        self._coordinator = over_grpc(coordinator)

    async def status(self, seen: int = -1) -> WeightsStatus:
        status: WeightsStatus = await self._call("status", seen)
        return status

    async def versions(self) -> list[Version]:
        versions: list[Version] = await self._call("versions")
        return versions

    async def story(self) -> tuple[StoryEvent, ...]:
        """The last events of the model's cluster, oldest first; times are UTC."""
        story: tuple[StoryEvent, ...] = await self._call("story")
        return story

    async def exchange_statistics(self, told: Told) -> Gathered:
        """Tell of a gateway's figures; those of the others. Raises Unavailable, soon."""
        gathered: Gathered = await self._answer(self._coordinator.exchange_statistics.remote(told), STATISTICS_S)
        return gathered

    async def rollback(self, version: int | None, who: str, wait: bool = True) -> WeightsStatus:
        status: WeightsStatus = await self._call("rollback", version, who, wait)
        return status

    async def refused(self, facts: dict[str, str]) -> None:
        """Audit an attempt that the gateway refuses; it refuses it also if the audit fails."""
        with suppress(AotiServeError, RayError, RayServeException):
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

    async def _uploaded(self, body: AsyncIterator[Any], *what: SwapOptions | str) -> str:
        upload: str
        upload, source = await self._call("open_upload", *what)
        try:
            async for piece in body:
                await self._answer(source.transfer.append.remote(source.path, piece))
        except BaseException as error:
            why = f"{type(error).__name__}: {error}".removesuffix(": ")
            with suppress(AotiServeError, RayError, RayServeException):
                await asyncio.shield(self._call("drop_upload", upload, why))
            raise
        return upload

    async def _call(self, method: str, *arguments: Any) -> Any:
        return await self._answer(getattr(self._coordinator, method).remote(*arguments))

    async def _answer(self, call: Awaitable[Any], seconds: float | None = None) -> Any:
        try:
            return await result_of(call, seconds)
        except RayActorError as error:
            detail = f"the coordinator of model '{self._model}' is being started again"
            raise TryAgain(detail=f"{detail}; ask for the status, then try again") from error


class AsyncWeightsClient:
    """The weights of one served model, from any Ray driver, task or actor, for code that runs in an event loop.

    `app` is the name of the Serve application. With `wait=False` changes return as soon as they have begun; their
    outcome is in the status' `last`.
    """

    def __init__(self, model: str, app: str = "default") -> None:
        """Raises Unavailable outside of a cluster."""
        _require_cluster()
        self._client = CoordinatorClient(model, serve.get_deployment_handle(coordinator_of(model), app))

    async def swap(
        self, weights: Weights, label: str = "", *, wait: bool = True, **options: Unpack[SwapKeywords]
    ) -> WeightsStatus:
        """Make every replica answer with these weights; returns when all do.

        `weights`: a state dict, the path of a safetensors file here, or the flat bytes of one as objects in Ray's
        object store. With `partial=True` they are changes to `base_version`. With `adapter=True` they are a LoRA
        adapter, and `adapter_config` is `LoraConfig.to_dict()`; of a path, which may be PEFT's folder, it is read
        beside the file. `golden` are GoldenRequests, or the path of a file of them, which the weights must answer
        rightly on every replica. Raises an InvalidWeights, StageFailed, BaseVersionMismatch or SwapInProgress; nothing
        has changed then.
        """
        asked, golden = swap_options(label, options)
        if asked.adapter and asked.adapter_config is None and isinstance(weights, Path):
            weights, config = adapter_at(weights)
            asked = asked.model_copy(update={"adapter_config": config})
        await self._offer(golden)
        return await self._client.swap_bytes(upload_stream(weights), asked, _who(), wait)

    async def swap_uri(
        self, uri: str, label: str = "", *, wait: bool = True, **options: Unpack[SwapKeywords]
    ) -> WeightsStatus:
        """As `swap`, to a file under one of the model's `weights_roots`, which the coordinator reads."""
        asked, golden = swap_options(label, options)
        await self._offer(golden)
        return await self._client.swap_uri(uri, asked, _who(), wait)

    async def rollback(self, version: int | None = None, *, wait: bool = True) -> WeightsStatus:
        """Swap back to a stored version, the previous one if None."""
        return await self._client.rollback(version, _who(), wait)

    async def status(self) -> WeightsStatus:
        """The current and the previous version, and every replica's receipt."""
        return await self._client.status()

    async def versions(self) -> list[Version]:
        """The stored versions, oldest first."""
        return await self._client.versions()

    async def _offer(self, golden: bytes) -> None:
        if golden:
            await self._client.offer_golden(rechunk(in_one_piece(golden), UPLOAD_CHUNK_BYTES), _who())


class WeightsClient:
    """As AsyncWeightsClient, blocking; for any thread.

    WeightsClient("digits").swap(module.state_dict(), label="step 1200")

    All instances of a process share one thread with an event loop, and Serve shares the handle of a model: an instance
    costs nothing that it would have to give back. `close()`, or the end of a `with` block, only ends its use.
    """

    def __init__(self, model: str, app: str = "default") -> None:
        """Raises Unavailable outside of a cluster."""
        _require_cluster()
        self._closed = False
        self._client = run_in_background(_connected(model, app))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse further calls. Closing twice is allowed."""
        self._closed = True

    def swap(
        self, weights: Weights, label: str = "", *, wait: bool = True, **options: Unpack[SwapKeywords]
    ) -> WeightsStatus:
        """See AsyncWeightsClient.swap."""
        return self._result(lambda client: client.swap(weights, label, wait=wait, **options))

    def swap_uri(
        self, uri: str, label: str = "", *, wait: bool = True, **options: Unpack[SwapKeywords]
    ) -> WeightsStatus:
        """See AsyncWeightsClient.swap_uri."""
        return self._result(lambda client: client.swap_uri(uri, label, wait=wait, **options))

    def rollback(self, version: int | None = None, *, wait: bool = True) -> WeightsStatus:
        """Swap back to a stored version, the previous one if None."""
        return self._result(lambda client: client.rollback(version, wait=wait))

    def status(self) -> WeightsStatus:
        """The current and the previous version, and every replica's receipt."""
        return self._result(lambda client: client.status())

    def versions(self) -> list[Version]:
        """The stored versions, oldest first."""
        return self._result(lambda client: client.versions())

    def _result(self, call: Callable[[AsyncWeightsClient], Coroutine[Any, Any, T]]) -> T:
        if self._closed:
            raise ValueError("this WeightsClient is closed")
        return run_in_background(call(self._client))


def _require_cluster() -> None:
    """Ray would start a cluster of its own, in which nothing is served."""
    if not ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
        raise TryAgain(
            detail="this process has not joined a Ray cluster: set RAY_ADDRESS, and RAY_AUTH_MODE=token if the cluster "
            "asks for its token (`aoti-serve up` prints both), or call ray.init() first"
        )


async def _connected(model: str, app: str) -> AsyncWeightsClient:
    """Made in the loop that will use it: Serve may bind a handle to the loop that it is first used in."""
    return AsyncWeightsClient(model, app)


def _who() -> str:
    context = ray.get_runtime_context()
    return f"ray job {context.get_job_id()} on node {context.get_node_id()[:8]}"
