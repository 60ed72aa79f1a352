"""Changes a model's weights from Python: for trainers, in any Ray driver, task or actor."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import ray

from aoti_serve.cluster.calls import run_in_background
from aoti_serve.cluster.coordinator_client import CoordinatorClient
from aoti_serve.cluster.head import join_named_cluster
from aoti_serve.cluster.swap_call import SwapCall, SwapKeywords, WrittenShare, checked_arguments, swap_call
from aoti_serve.cluster.transfer.delta import Delta, WeightChanges
from aoti_serve.cluster.transfer.upload import UPLOAD_CHUNK_BYTES, Weights, in_one_piece, rechunk, upload_stream
from aoti_serve.weights.adapter_config import adapter_at
from aoti_serve.weights.files.checkpoint import checkpoint_label
from aoti_serve.weights.labels import ExpectedVersion, LabelChange
from aoti_serve.weights.swap_options import ExposureOptions

if TYPE_CHECKING:
    from aoti_serve.cluster.status import WeightsStatus
    from aoti_serve.weights.store.usage import StoredVersion
    from aoti_serve.weights.version import Version

T = TypeVar("T")


class AsyncWeightsClient:
    """The weights of one served model, from any Ray driver, task or actor, for code that runs in an event loop.

    `app` is the name of the Serve application. With `wait=False` changes return as soon as they have begun; their
    outcome is in the status' `last`.
    """

    def __init__(self, model: str, app: str = "default") -> None:
        """Raises Unavailable outside of a cluster, and UnknownModel."""
        join_named_cluster()
        self._client = CoordinatorClient.of(model, app)

    async def swap(
        self, weights: Weights, label: str = "", *, wait: bool = True, **options: Unpack[SwapKeywords]
    ) -> WeightsStatus:
        """Make every replica answer with these weights; returns when all do.

        `weights`: a state dict, the path of a safetensors file here, of an index of shards or of a folder with either,
        or the flat bytes of a file as objects in Ray's object store. With `partial=True` they are changes to
        `base_version`, with `delta=True` a file of `save_delta`. With `adapter=True` they are a LoRA adapter, and
        `adapter_config` is `LoraConfig.to_dict()`; of a path, which may be PEFT's folder, it is read beside the file.
        `rename`, `drop` and `cast=True` fit other names and dtypes to the package's (docs/guides/checkpoints.md).
        `golden` are GoldenRequests, or the path of a file of them, which the weights must answer rightly on every
        replica. `assets` are files that the processor reads with these weights, by name, such as `{"tokenizer.json":
        path}`; those that are left out stay (docs/guides/processors.md). With `candidate=True` the version is staged
        everywhere and answers a `share` of the requests, "5%" or 0.05, until `promote` or `withdraw`. A `rollout`,
        which is a RolloutPlan, a dict or YAML, decides that by rules; False commits at once, also where the
        configuration has a rollout. A path without a `label` is called by its name. Raises an InvalidWeights,
        StageFailed, BaseVersionMismatch, SwapInProgress or CandidateOut; nothing has changed then.
        """
        if isinstance(weights, Path) and weights.is_dir() and not options.get("adapter"):
            found = {name: weights / name for name in (await self.status()).assets if (weights / name).is_file()}
            options["assets"] = found | dict(options.get("assets") or {})
        call = swap_call(label or (checkpoint_label(weights) if isinstance(weights, Path) else ""), options)
        asked = call.options
        if asked.adapter and asked.adapter_config is None and isinstance(weights, Path):
            weights, config = adapter_at(weights)
            asked = asked.model_copy(update={"adapter_config": config})
        await self._offer(call)
        return await self._client.swap_bytes(upload_stream(weights), asked, _who(), wait)

    async def swap_delta(
        self, changes: WeightChanges, label: str = "", *, base: Version | None = None, wait: bool = True
    ) -> WeightsStatus:
        """As `swap`, to `base` with these changes; see RowChanges, ElementChanges and `make_delta`.

        Only the changes are sent. `base` must answer; if it is left out it is the version that answers now. Raises a
        DeltaBaseMismatch if its bytes are others.
        """
        base = base or (await self.status()).current
        return await self.swap(Delta(changes, base.digest), label, wait=wait, delta=True, base_version=base.number)

    async def swap_uri(
        self, uri: str, label: str = "", *, wait: bool = True, **options: Unpack[SwapKeywords]
    ) -> WeightsStatus:
        """As `swap`, to a file under one of the model's `weights_roots`, which the coordinator reads."""
        call = swap_call(label, options)
        await self._offer(call)
        return await self._client.swap_uri(uri, call.options, _who(), wait)

    async def rollback(self, version: int | None = None, *, wait: bool = True) -> WeightsStatus:
        """Swap back to a stored version, the previous one if None."""
        return await self._client.rollback(version, _who(), wait)

    async def expose(self, share: WrittenShare | None = None, shadow: WrittenShare | None = None) -> WeightsStatus:
        """Let the candidate meet other shares of the requests; one that is left out stays as it is.

        It answers `share` of them, "5%" or 0.05, and runs `shadow` of the others beside the version that answers.
        When this returns every gateway goes by that. Raises NoCandidate, and NotSettled if a gateway is silent.
        """
        asked = checked_arguments(ExposureOptions, {"share": share, "shadow": shadow})
        return await self._client.expose(asked, _who())

    async def promote(self, *, wait: bool = True) -> WeightsStatus:
        """Make every replica answer with the candidate; moves no data. Raises NoCandidate."""
        return await self._client.promote(_who(), wait)

    async def withdraw(self, *, wait: bool = True) -> WeightsStatus:
        """Free the candidate everywhere. When this returns nobody is answered with it. Raises NoCandidate."""
        return await self._client.withdraw(_who(), wait)

    async def label(self, name: str, version: int, *, expected: ExpectedVersion = "any") -> dict[str, int]:
        """Let the label `name` name this version from now on; all labels with their versions.

        `expected`: only if it names that one now; None: only if there is no such label; "any": in any case. Raises
        LabelMoved, UnknownWeightsVersion or TooManyLabels; nothing has changed then.
        """
        change = checked_arguments(LabelChange, {"name": name, "version": version, "expected": expected})
        return await self._client.relabel(change, _who())

    async def unlabel(self, name: str, *, expected: ExpectedVersion = "any") -> dict[str, int]:
        """Take a label away, `expected` as in `label`; those that are left."""
        change = checked_arguments(LabelChange, {"name": name, "version": None, "expected": expected})
        return await self._client.relabel(change, _who())

    async def labels(self) -> dict[str, int]:
        """The labels that can be moved, with the versions that they name."""
        return (await self._client.status()).labels

    async def status(self) -> WeightsStatus:
        """The current and the previous version, and every replica's receipt."""
        return await self._client.status()

    async def versions(self) -> list[StoredVersion]:
        """The stored versions, oldest first, with what each costs on the disk."""
        return await self._client.versions()

    async def _offer(self, call: SwapCall) -> None:
        if call.golden:
            await self._client.offer_golden(rechunk(in_one_piece(call.golden), UPLOAD_CHUNK_BYTES), _who())
        for asset in call.assets.values():
            await self._client.offer_asset(rechunk(in_one_piece(asset), UPLOAD_CHUNK_BYTES), _who())


class WeightsClient:
    """As AsyncWeightsClient, blocking; for any thread.

    WeightsClient("digits").swap(module.state_dict(), label="step 1200")

    All instances of a process share one thread with an event loop, and Serve shares the handle of a model: an instance
    costs nothing that it would have to give back. `close()`, or the end of a `with` block, only ends its use.
    """

    def __init__(self, model: str, app: str = "default") -> None:
        """Raises Unavailable outside of a cluster, and UnknownModel."""
        join_named_cluster()
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

    def swap_delta(
        self, changes: WeightChanges, label: str = "", *, base: Version | None = None, wait: bool = True
    ) -> WeightsStatus:
        """See AsyncWeightsClient.swap_delta."""
        return self._result(lambda client: client.swap_delta(changes, label, base=base, wait=wait))

    def swap_uri(
        self, uri: str, label: str = "", *, wait: bool = True, **options: Unpack[SwapKeywords]
    ) -> WeightsStatus:
        """See AsyncWeightsClient.swap_uri."""
        return self._result(lambda client: client.swap_uri(uri, label, wait=wait, **options))

    def rollback(self, version: int | None = None, *, wait: bool = True) -> WeightsStatus:
        """Swap back to a stored version, the previous one if None."""
        return self._result(lambda client: client.rollback(version, wait=wait))

    def expose(self, share: WrittenShare | None = None, shadow: WrittenShare | None = None) -> WeightsStatus:
        """See AsyncWeightsClient.expose."""
        return self._result(lambda client: client.expose(share, shadow))

    def promote(self, *, wait: bool = True) -> WeightsStatus:
        """Make every replica answer with the candidate; moves no data. Raises NoCandidate."""
        return self._result(lambda client: client.promote(wait=wait))

    def withdraw(self, *, wait: bool = True) -> WeightsStatus:
        """Free the candidate everywhere. When this returns nobody is answered with it. Raises NoCandidate."""
        return self._result(lambda client: client.withdraw(wait=wait))

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

    def versions(self) -> list[StoredVersion]:
        """The stored versions, oldest first, with what each costs on the disk."""
        return self._result(lambda client: client.versions())

    def _result(self, call: Callable[[AsyncWeightsClient], Coroutine[Any, Any, T]]) -> T:
        if self._closed:
            raise ValueError("this WeightsClient is closed")
        return run_in_background(call(self._client))


async def _connected(model: str, app: str) -> AsyncWeightsClient:
    """Made in the loop that will use it: Serve may bind a handle to the loop that it is first used in."""
    return AsyncWeightsClient(model, app)


def _who() -> str:
    context = ray.get_runtime_context()
    return f"ray job {context.get_job_id()} on node {context.get_node_id()[:8]}"
