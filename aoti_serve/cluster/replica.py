"""The replica: the Ray actor that owns one container and answers with it."""

from __future__ import annotations

import asyncio
import pickle
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.answer import Answer
from aoti_serve.cluster.member import Membership
from aoti_serve.cluster.resident import Resident
from aoti_serve.cluster.scaling import METRIC, Load, Loads
from aoti_serve.errors import ContainerClosed, DeadlineExceeded, ReplicaBehind, RuntimeFailed
from aoti_serve.model.package import Package
from aoti_serve.tensors import DTYPES, TensorSpec
from aoti_serve.weights.follower import Follower
from aoti_serve.weights.target import NOTHING, Receipt, Report, Target

FENCE_WAIT_S = 5.0
# A runner that begins or ends a run waits so long for the GIL while the event loop is busy; 5 ms unless Python is told.
SWITCH_INTERVAL_S = 0.05e-3


class Replica:
    """One container that follows the coordinator and answers. In a process of its own, or in a gateway's (fused).

    Runs happen on `num_runners` threads with the GIL released, staging on one more, so the event loop never waits for
    the model.
    """

    def __init__(self, member: str, buffers: Resident) -> None:
        self._member = member
        self._buffers = buffers
        self._container = buffers.container
        self._runs = ThreadPoolExecutor(self._container.num_runners, "runner")
        self._follower = Follower(buffers)
        self._receipt: Receipt | None = None
        self._settled = NOTHING
        self._moved = asyncio.Event()
        self.loads = Loads()

    @classmethod
    async def load(
        cls, package: Package, num_runners: int, keeps_previous: bool, coordinator: DeploymentHandle[Any]
    ) -> Replica:
        """Of this process, a Serve replica; pinned to the GPU or the CPU cores that Ray assigned."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        member = serve.get_replica_context().replica_id.unique_id
        return cls(member, await Resident.load(package, num_runners, keeps_previous, member, coordinator))

    @property
    def num_runners(self) -> int:
        return self._container.num_runners

    async def infer(
        self, inputs: Sequence[NDArray[Any]], fence: int, timeout: float | None = None, load: Load | None = None
    ) -> Answer:
        """Run one batch: checked arrays in the signature's order, no older weights than epoch `fence`.

        `load` is what the calling gateway has in hand.

        Raises ReplicaBehind if the fence is not reached in time, and DeadlineExceeded if no runner was free within
        `timeout` seconds; nothing has run then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if load is not None:
            self.loads.note(load)
        if self._follower.epoch < fence:
            await self._reach(fence)
        return await asyncio.get_running_loop().run_in_executor(self._runs, self._run, inputs, deadline)

    def check_health(self) -> None:
        """For Serve: a replica that cannot run must be replaced."""
        if self._container.closed:
            raise ContainerClosed()

    def report(self) -> Report:
        follower = self._follower
        return Report(
            member=self._member,
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

    def _run(self, inputs: Sequence[NDArray[Any]], deadline: float | None) -> Answer:
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineExceeded(model=self._member, timeout=time.monotonic() - deadline)
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
            raise ReplicaBehind(replica=self._member, epoch=self._follower.epoch, fence=fence) from None


class ReplicaActor:
    """Serve deployment class: a replica in a process of its own (split)."""

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self, package: Package, num_runners: int, keeps_previous: bool, coordinator: DeploymentHandle[Any]
    ) -> None:
        self._replica = await Replica.load(package, num_runners, keeps_previous, coordinator)
        self._membership = Membership(self._replica, coordinator)
        await self._membership.join()

    async def infer(
        self, inputs: Sequence[NDArray[Any]], fence: int, timeout: float | None = None, load: Load | None = None
    ) -> Answer:
        """See Replica.infer."""
        return await self._replica.infer(inputs, fence, timeout, load)

    async def check_health(self) -> None:
        """For Serve: a replica that cannot follow the coordinator, or cannot run, must be replaced."""
        self._membership.check()
        self._replica.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, see `by_rows`."""
        return {METRIC: self._replica.loads.rows}


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
