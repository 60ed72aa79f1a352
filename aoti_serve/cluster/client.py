"""Changes a model's weights from Python: for trainers, in any Ray driver, task or actor."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack

import ray
from ray import serve

from aoti_serve.cluster.calls import run_in_background
from aoti_serve.cluster.coordinator_client import CoordinatorClient
from aoti_serve.cluster.deployments import coordinator_of
from aoti_serve.cluster.transfer.upload import Weights, upload_stream
from aoti_serve.errors import TryAgain
from aoti_serve.weights.adapter_config import adapter_at
from aoti_serve.weights.labels import ExpectedVersion, LabelChange
from aoti_serve.weights.swap_options import SwapOptions

if TYPE_CHECKING:
    from aoti_serve.cluster.status import WeightsStatus
    from aoti_serve.weights.version import Version

T = TypeVar("T")


class SwapKeywords(TypedDict, total=False):
    """The other `SwapOptions`, by keyword."""

    sha256: str | None
    partial: bool
    base_version: int | None
    adapter: bool
    adapter_config: Mapping[str, Any] | None
    strict: bool
    skip_acceptance: bool


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
        beside the file. Raises an InvalidWeights, StageFailed, BaseVersionMismatch or SwapInProgress; nothing has
        changed then.
        """
        asked = SwapOptions.model_validate({"label": label, **options})
        if asked.adapter and asked.adapter_config is None and isinstance(weights, Path):
            weights, config = adapter_at(weights)
            asked = asked.model_copy(update={"adapter_config": config})
        return await self._client.swap_bytes(upload_stream(weights), asked, _who(), wait)

    async def swap_uri(
        self, uri: str, label: str = "", *, wait: bool = True, **options: Unpack[SwapKeywords]
    ) -> WeightsStatus:
        """As `swap`, to a file under one of the model's `weights_roots`, which the coordinator reads."""
        asked = SwapOptions.model_validate({"label": label, **options})
        return await self._client.swap_uri(uri, asked, _who(), wait)

    async def rollback(self, version: int | None = None, *, wait: bool = True) -> WeightsStatus:
        """Swap back to a stored version, the previous one if None."""
        return await self._client.rollback(version, _who(), wait)

    async def label(self, name: str, version: int, *, expected: ExpectedVersion = "any") -> dict[str, int]:
        """Let the label `name` name this version from now on; all labels with their versions.

        `expected`: only if it names that one now; None: only if there is no such label; "any": in any case. Raises
        LabelMoved, UnknownWeightsVersion or TooManyLabels; nothing has changed then.
        """
        return await self._client.relabel(LabelChange(name=name, version=version, expected=expected), _who())

    async def unlabel(self, name: str, *, expected: ExpectedVersion = "any") -> dict[str, int]:
        """Take a label away, `expected` as in `label`; those that are left."""
        return await self._client.relabel(LabelChange(name=name, version=None, expected=expected), _who())

    async def labels(self) -> dict[str, int]:
        """The labels that can be moved, with the versions that they name."""
        return (await self._client.status()).labels

    async def status(self) -> WeightsStatus:
        """The current and the previous version, and every replica's receipt."""
        return await self._client.status()

    async def versions(self) -> list[Version]:
        """The stored versions, oldest first."""
        return await self._client.versions()


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

    def label(self, name: str, version: int, *, expected: ExpectedVersion = "any") -> dict[str, int]:
        """See AsyncWeightsClient.label."""
        return self._result(lambda client: client.label(name, version, expected=expected))

    def unlabel(self, name: str, *, expected: ExpectedVersion = "any") -> dict[str, int]:
        """See AsyncWeightsClient.unlabel."""
        return self._result(lambda client: client.unlabel(name, expected=expected))

    def labels(self) -> dict[str, int]:
        """The labels that can be moved, with the versions that they name."""
        return self._result(lambda client: client.labels())

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
