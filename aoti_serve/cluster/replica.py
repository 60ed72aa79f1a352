"""The replica: the Ray actor that owns one container and answers with it."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.member import Membership
from aoti_serve.cluster.resident import Resident
from aoti_serve.errors import ContainerClosed, ReplicaBehind, RuntimeFailed
from aoti_serve.model.package import Package
from aoti_serve.tensors import DTYPES, TensorSpec
from aoti_serve.weights.follower import Follower
from aoti_serve.weights.target import NOTHING, Receipt, Report, Target

FENCE_WAIT_S = 5.0


class Answer(NamedTuple):
    """One run's outputs in the signature's order, the version that computed them, and since which epoch it answers."""

    version: int
    epoch: int
    outputs: list[NDArray[Any]]


class Replica:
    """Serve deployment class. Pinned to the GPU or the CPU cores that Ray assigned; follows the coordinator.

    Runs happen on `num_runners` threads with the GIL released, staging on one more, so the event loop never waits for
    the model.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self, package: Package, num_runners: int, keeps_previous: bool, coordinator: DeploymentHandle[Any]
    ) -> None:
        self._id = serve.get_replica_context().replica_id.unique_id
        self._runs = ThreadPoolExecutor(num_runners, "runner")
        self._buffers = await Resident.load(package, num_runners, keeps_previous, self._id, coordinator)
        self._container = self._buffers.container
        self._follower = Follower(self._buffers)
        self._receipt: Receipt | None = None
        self._settled = NOTHING
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
        follower = self._follower
        return Report(
            member=self._id,
            runners=self._container.num_runners,
            epoch=follower.epoch,
            settled=self._settled,
            staged=follower.staged,
            failed=follower.failed,
            error=_portable(follower.error),
            receipt=self._receipt,
        )

    async def reconcile(self, target: Target) -> None:
        """Hold what is committed, and have staged what is staged."""
        await self._follower.follow(target)
        self._settled = target.settled
        self._receipt = self._buffers.signed(self._follower.epoch)
        self._moved.set()
        self._moved = asyncio.Event()

    def _run(self, inputs: Sequence[NDArray[Any]]) -> Answer:
        epoch = self._follower.epoch  # before the run, so that its weights are of this epoch or of a later one
        specs = self._container.signature.inputs
        tensors = [_to_torch(array, spec) for array, spec in zip(inputs, specs, strict=True)]
        version, outputs = self._container.infer(tensors)
        return Answer(version, epoch, [_to_numpy(tensor) for tensor in outputs.values()])

    async def _reach(self, fence: int) -> None:
        try:
            async with asyncio.timeout(FENCE_WAIT_S):
                while self._follower.epoch < fence:
                    await self._moved.wait()
        except TimeoutError:
            raise ReplicaBehind(replica=self._id, epoch=self._follower.epoch, fence=fence) from None


def _portable(error: BaseException | None) -> BaseException | None:
    """The error, or its words if Ray could not carry it to the coordinator."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class makes of being pickled
        return RuntimeFailed(call="stage", detail=repr(error))
    return error


def _to_torch(array: NDArray[Any], spec: TensorSpec) -> torch.Tensor:
    # What comes out of the object store is read-only memory that others share; a model may write to its inputs.
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(getattr(torch, spec.dtype)) if DTYPES[spec.dtype].raw else tensor


def _to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu().contiguous()
    dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
    array: NDArray[Any] = (tensor.view(getattr(torch, dtype.numpy)) if dtype.raw else tensor).numpy()
    return array
