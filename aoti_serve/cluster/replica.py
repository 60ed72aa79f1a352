"""The replica: the Ray actor that owns one container and answers with it."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.calls import unwrapped
from aoti_serve.cluster.member import Membership
from aoti_serve.cluster.transfer import Chunks, pull
from aoti_serve.errors import ContainerClosed, ReplicaBehind, RuntimeFailed
from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from aoti_serve.tensors import DTYPES, Span, TensorSpec
from aoti_serve.weights.swap import Receipt, Report, Staging, Target
from aoti_serve.weights.version import Version

FENCE_WAIT_S = 30.0


class Answer(NamedTuple):
    """One run's outputs in the signature's order, and the version that computed them."""

    version: int
    outputs: list[NDArray[Any]]


class Replica:
    """Serve deployment class. Pinned to the GPU or the CPU cores that Ray assigned; follows the coordinator.

    Runs happen on `num_runners` threads with the GIL released, staging on one more, so the event loop never waits for
    the model.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self, package: Package, num_runners: int, coordinator: DeploymentHandle[Any]
    ) -> None:
        self._id = serve.get_replica_context().replica_id.unique_id
        self._coordinator = coordinator
        self._runs = ThreadPoolExecutor(num_runners, "runner")
        self._stager = ThreadPoolExecutor(1, "stager")
        self._container = await self._off_loop(_load, package, num_runners)
        self._epoch = -1
        self._staging: Staging | None = None
        self._failed: tuple[str, BaseException] | None = None
        self._receipt: Receipt | None = None
        self._digests: dict[int, str] = {}
        self._moved = asyncio.Event()
        self._membership = Membership(self, coordinator)
        await self._membership.join()

    async def infer(self, inputs: Sequence[NDArray[Any]], fence: int) -> Answer:
        """Run one batch: checked arrays in the signature's order, no older weights than epoch `fence`.

        Raises ReplicaBehind if the fence is not reached in time; nothing has run then.
        """
        await self._reach(fence)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._runs, self._run, inputs)

    async def check_health(self) -> None:
        """For Serve: a replica that cannot follow the coordinator, or cannot run, must be replaced."""
        self._membership.check()
        if self._container.closed:
            raise ContainerClosed()

    def report(self) -> Report:
        failed, error = self._failed or (None, None)
        return Report(
            member=self._id,
            runners=self._container.num_runners,
            epoch=self._epoch,
            staged=self._staging.swap if self._staging else None,
            failed=failed,
            error=error,
            receipt=self._receipt,
        )

    async def reconcile(self, target: Target) -> None:
        """Commit what is committed, stage what is staged, throw away what is neither."""
        if target.committed.epoch > self._epoch:
            await self._reach_committed(target)
        if target.staging is None:
            await self._unstage()
        elif self._staging is None or self._staging.swap != target.staging.swap:
            await self._stage(target.staging)

    async def _reach_committed(self, target: Target) -> None:
        version, started = target.committed.version, time.perf_counter()
        if self._container.version != version.number:
            await self._fill(version)
            await self._off_loop(self._make_active, version.number)
        self._staging = None
        self._epoch = target.committed.epoch
        self._receipt = self._signed(version, started)
        self._moved.set()
        self._moved = asyncio.Event()

    async def _stage(self, staging: Staging) -> None:
        started = time.perf_counter()
        try:
            await self._fill(staging.version)
        except Exception as error:  # whatever it is, the coordinator must hear it, and the old version goes on
            self._failed = staging.swap, _portable(error)
        else:
            self._staging = staging
            self._receipt = self._signed(staging.version, started)

    async def _unstage(self) -> None:
        if self._staging is not None:
            self._staging = None
            await self._off_loop(self._container.abort)

    async def _fill(self, version: Version) -> None:
        """Have `version` resident in the inactive buffer; moves no data if it is there already."""
        held = (self._container.version, self._container.staged, self._container.previous)
        if version.number in held and self._digests.get(version.number, "") == version.digest:
            return
        chunks: Chunks = await unwrapped(self._coordinator.fetch.remote(version.number))
        await self._off_loop(self._stage_pieces, await pull(chunks), chunks.slices, version.number)
        kept = {number: digest for number, digest in self._digests.items() if number in held}
        self._digests = kept | {version.number: version.digest}

    def _stage_pieces(self, pieces: list[NDArray[np.uint8]], slices: Mapping[str, Span], number: int) -> None:
        self._container.stage(_tensors(np.concatenate(pieces), slices), number)

    def _make_active(self, number: int) -> None:
        if self._container.staged == number:
            self._container.commit()
        else:
            self._container.rollback()

    def _run(self, inputs: Sequence[NDArray[Any]]) -> Answer:
        specs = self._container.signature.inputs
        tensors = [_to_torch(array, spec) for array, spec in zip(inputs, specs, strict=True)]
        version, outputs = self._container.infer(tensors)
        return Answer(version, [_to_numpy(tensor) for tensor in outputs.values()])

    async def _reach(self, fence: int) -> None:
        try:
            async with asyncio.timeout(FENCE_WAIT_S):
                while self._epoch < fence:
                    await self._moved.wait()
        except TimeoutError:
            raise ReplicaBehind(replica=self._id, epoch=self._epoch, fence=fence) from None

    def _signed(self, version: Version, started: float) -> Receipt:
        context = ray.get_runtime_context()
        return Receipt(
            replica=self._id,
            node=context.get_node_id(),
            pid=os.getpid(),
            device=str(self._container.device),
            gpu_ids=tuple(str(gpu) for gpu in ray.get_gpu_ids()),
            epoch=self._epoch,
            version=version.number,
            digest=version.digest,
            milliseconds=round((time.perf_counter() - started) * 1e3, 3),
        )

    async def _off_loop(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._stager, function, *arguments)


def _load(package: Package, num_runners: int) -> Container:
    device = "cuda:0" if package.device == "cuda" else package.device  # Ray shows each replica only its own card
    cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    threads = max(1, int(cores) // num_runners)  # of each run, so that all runners together have the replica's cores
    return Container(package, num_runners=num_runners, device=device, num_threads=threads)


def _portable(error: Exception) -> Exception:
    """The error, or its words if Ray could not carry it to the coordinator."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class makes of being pickled
        return RuntimeFailed(call="stage", detail=repr(error))
    return error


def _tensors(data: NDArray[np.uint8], index: Mapping[str, Span]) -> dict[str, torch.Tensor]:
    """Views of a whole safetensors file's bytes."""
    return {name: _view(data, part) for name, part in index.items()}


def _view(data: NDArray[np.uint8], part: Span) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, part.dtype)
    if part.begin == part.end:
        return torch.empty(part.shape, dtype=dtype)
    content = torch.from_numpy(data[part.begin : part.end])
    aligned = content.data_ptr() % dtype.itemsize == 0  # the format does not promise it
    return (content if aligned else content.clone()).view(dtype).reshape(part.shape)


def _to_torch(array: NDArray[Any], spec: TensorSpec) -> torch.Tensor:
    # What comes out of the object store is read-only memory that others share; a model may write to its inputs.
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(getattr(torch, spec.dtype)) if DTYPES[spec.dtype].raw else tensor


def _to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu().contiguous()
    dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
    array: NDArray[Any] = (tensor.view(getattr(torch, dtype.numpy)) if dtype.raw else tensor).numpy()
    return array
