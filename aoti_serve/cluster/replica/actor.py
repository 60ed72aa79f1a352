"""The replica: the Ray actor that owns one container, and answers with it over the link."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import torch
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from aoti_serve.address import Address
from aoti_serve.cluster.membership.line import CoordinatorFinder
from aoti_serve.cluster.membership.member import Membership, announce_loading
from aoti_serve.cluster.replica.buffers import ReplicaBuffers, load_container
from aoti_serve.cluster.replica.figures import ReplicaFigures
from aoti_serve.cluster.replica.self_test import SelfTest
from aoti_serve.cluster.scaling import METRIC, Loads
from aoti_serve.cluster.serve_log import join_serve_log
from aoti_serve.errors import ContainerClosed, DeadlineExceeded, ReplicaBehind
from aoti_serve.link.messages import AnswerMessage, BatchArrays, BatchMessage
from aoti_serve.link.server import LinkServer
from aoti_serve.model.package import Package
from aoti_serve.signature.tensors import DTYPES, TensorSpec
from aoti_serve.weights.swap.follower import Follower
from aoti_serve.weights.swap.target import NO_EPOCH, Receipt, Report, Target

FENCE_WAIT_S = 5.0
LEAVE_S = 40.0  # gateways finish what they have in hand, see REPLICA_LEAVES_S in aoti_serve.app
# A runner that begins or ends a run waits so long for the GIL while the event loop is busy; 5 ms unless Python is told.
SWITCH_INTERVAL_S = 0.05e-3


class ReplicaActor:
    """Serve deployment class of a model's replicas: one container that follows the coordinator and answers gateways.

    Pinned to the GPU or the CPU cores that Ray assigned. Runs happen with the GIL released on `num_runners` threads,
    those of other versions than the one that answers on as many more, and staging on one. So the event loop never waits
    for the model.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self,
        model: str,
        package: Package,
        num_runners: int,
        keeps_previous: bool,
        longest_run_s: float,
        coordinator: DeploymentHandle[Any],
    ) -> None:
        join_serve_log()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._model = model
        self._interface = package.signature.interface
        self._member = serve.get_replica_context().replica_id.unique_id
        self._node, self._host = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        finder = CoordinatorFinder(coordinator, self._member, self._node)
        async with announce_loading(finder):
            self._container = await asyncio.to_thread(load_container, package, num_runners)
        self._buffers = ReplicaBuffers(self._container, keeps_previous, self._member, coordinator)
        self._follower = Follower(self._buffers)
        self._runs = ThreadPoolExecutor(self._container.num_runners, "runner")
        # So that a candidate, however slow, holds up nobody who has not asked for it.
        self._runs_beside = ThreadPoolExecutor(self._container.num_runners, "runner beside")
        self._receipt: Receipt | None = None
        self._settled_epoch = NO_EPOCH
        self._moved = asyncio.Event()
        self._loads = Loads()
        self._figures = ReplicaFigures(model, package, self._container.num_runners)
        self._reporting = asyncio.get_running_loop().create_task(self._figures.report())
        self._tcp: tuple[str, int] | None = None
        self._self_test = SelfTest(model, self._container.signature, self._run_unfenced, longest_run_s)
        self._link = LinkServer(self._answer)
        await self._link.open()
        self._membership = Membership(self, finder)
        await self._membership.join()
        gc.freeze()  # what is here stays: a full collection need not look at it, and hold up every answer

    async def check_health(self) -> None:
        """Called by Serve: a replica that cannot follow the coordinator, or cannot run, must be replaced."""
        self._membership.check()
        if self._container.closed:
            raise ContainerClosed()
        self._self_test.check()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve, see `by_load`."""
        return {METRIC: self._loads.rows}

    async def __del__(self) -> None:
        """Serve awaits it when it ends this replica gently: answer what is in hand, take nothing new, end the links."""
        self._reporting.cancel()
        self._membership.leave()
        await self._link.leave(LEAVE_S)
        self._link.close()

    def report(self) -> Report:
        follower = self._follower
        return Report(
            member=self._member,
            node=self._node,
            address=self._address(),
            runners=self._container.num_runners,
            epoch=follower.epoch,
            settled_epoch=self._settled_epoch,
            staged=follower.staged,
            failed=follower.failed,
            error=follower.error,
            receipt=self._receipt,
        )

    async def reconcile(self, target: Target) -> None:
        """Follow the target, and listen also for other nodes if gateways are there."""
        if target.spread and self._tcp is None:
            self._tcp = self._host, await self._link.open_to_nodes(self._host)
        await self._follower.follow(target)
        self._settled_epoch = target.settled_epoch
        self._receipt = self._buffers.signed(self._follower.epoch)
        self._moved.set()
        self._moved = asyncio.Event()

    def withdraw(self, target: Target) -> None:
        self._follower.withdraw(target)

    def route(self, addresses: tuple[Address, ...]) -> None:
        """A replica asks no other replica."""

    def _address(self) -> Address:
        link, runners = self._link, self._container.num_runners
        return Address(self._member, self._node, link.path, runners, link.key, self._tcp, self._interface)

    async def _answer(self, gateway: str, batch: BatchMessage) -> AnswerMessage:
        """Run a batch of checked arrays in the signature's order.

        Raises ReplicaBehind if its fence is not reached in time, and DeadlineExceeded if no runner was free within its
        timeout; nothing has run then.
        """
        arrived = time.monotonic()
        self._loads.note(gateway, batch.rows)
        if self._follower.epoch < batch.fence:
            await self._reach(batch.fence)
        threads = self._runs if batch.version in (None, self._container.version) else self._runs_beside
        run = asyncio.get_running_loop().run_in_executor(threads, self._run, batch, arrived)
        return await self._self_test.watch(run)

    def _run_unfenced(self, arrays: BatchArrays) -> Awaitable[AnswerMessage]:
        batch = BatchMessage(arrays, NO_EPOCH)
        return asyncio.get_running_loop().run_in_executor(self._runs, self._run, batch, time.monotonic())

    def _run(self, batch: BatchMessage, arrived: float) -> AnswerMessage:
        begun = time.monotonic()
        if batch.timeout is not None and begun > arrived + batch.timeout:
            raise DeadlineExceeded(model=self._model, timeout=batch.timeout)
        epoch = self._follower.epoch  # before the run, so that its weights are of this epoch or of a later one
        specs = self._container.signature.inputs
        tensors = [_to_torch(array, spec) for array, spec in zip(batch.arrays, specs, strict=True)]
        given = time.monotonic()
        version, outputs = self._container.infer(tensors, batch.version)
        ran = time.monotonic()
        arrays = [_to_numpy(tensor) for tensor in outputs.values()]
        times = arrived, begun, given, ran, time.monotonic()
        return AnswerMessage(version, epoch, arrays, self._figures.note_run(times, batch.arrays))

    async def _reach(self, fence: int) -> None:
        try:
            async with asyncio.timeout(FENCE_WAIT_S):
                while self._follower.epoch < fence:
                    await self._moved.wait()
        except TimeoutError:
            raise ReplicaBehind(model=self._model, epoch=self._follower.epoch, fence=fence) from None


def _to_torch(array: NDArray[Any], spec: TensorSpec) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(getattr(torch, spec.dtype)) if DTYPES[spec.dtype].raw else tensor


def _to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu().contiguous()
    dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
    array: NDArray[Any] = (tensor.view(getattr(torch, dtype.numpy)) if dtype.raw else tensor).numpy()
    return array
