"""The meaning of requests, independent of their protocol; HTTP translates to this."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle

from aoti_serve.address import Address
from aoti_serve.cluster.client import CoordinatorClient
from aoti_serve.cluster.membership.line import CoordinatorFinder
from aoti_serve.cluster.membership.member import Membership
from aoti_serve.config import GatewayConfig, ModelConfig
from aoti_serve.errors import ReplicaBehind, TryAgain, UnknownModel, UnknownVersion
from aoti_serve.gateway.batching.batcher import Batcher, BatcherLoad
from aoti_serve.gateway.batching.work_item import Arrays
from aoti_serve.gateway.figures.counted import GatewayFigures
from aoti_serve.gateway.figures.exchange import StatisticsExchange
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.gateway.in_flight import InFlight, ReadingBudget
from aoti_serve.gateway.request_checker import CheckedRequest, RequestChecker
from aoti_serve.link.messages import AnswerMessage, BatchMessage
from aoti_serve.link.pool import Pool
from aoti_serve.protocol.messages import InferResponse, model_metadata
from aoti_serve.protocol.triton import model_config, repository_index
from aoti_serve.signature.signature import Signature
from aoti_serve.weights.swap.follower import Fence
from aoti_serve.weights.swap.target import Report, Target

JOIN_S = 30.0  # for all models of a gateway
TRIES = 5  # replicas that are behind the fence, one after the other


class ServedModel:
    """One model in a gateway: a member that holds no weights, only the fence and links to the replicas."""

    def __init__(
        self,
        gateway: str,
        node: str,
        config: ModelConfig,
        signature: Signature,
        coordinator: DeploymentHandle[Any],
        limits: GatewayConfig,
    ) -> None:
        self.name = config.name
        self.signature = signature
        self.weights = CoordinatorClient(config.name, coordinator)
        self.version = 0
        self.checker = RequestChecker(signature, limits)
        self._gateway = gateway
        self._node = node
        self._num_runners = config.num_runners
        self._fence = Fence()
        self.figures = ModelFigures(config.name)
        self.statistics = StatisticsExchange(gateway, self.figures, self.weights)
        batch = signature.batch
        rows = min(config.batching.max_batch_size, batch.max if batch and batch.max else sys.maxsize)
        self._batching = config.batching.model_copy(update={"max_batch_size": rows})
        smallest = batch.min if batch else 0
        self._batches = batch is not None
        self._batcher = Batcher(self.figures, self._batching, self._run, batches=self._batches, smallest=smallest)
        self._pool = Pool(config.name, gateway, node, self._count_runners)
        self.membership = Membership(self, CoordinatorFinder(coordinator, gateway, node))

    @property
    def ready(self) -> bool:
        return self._batcher.runners > 0

    @property
    def load(self) -> BatcherLoad:
        return self._batcher.load

    def report(self) -> Report:
        return self._fence.report(self._gateway, self._node)

    async def reconcile(self, target: Target) -> None:
        self._fence.follow(target)
        self.version = self.figures.current = target.committed.version.number

    def withdraw(self, target: Target) -> None:
        """Nothing to withdraw: nothing here takes long."""

    def route(self, addresses: tuple[Address, ...]) -> None:
        """Keep links to these replicas."""
        self._pool.follow(addresses)

    def check_health(self) -> None:
        self.membership.check()

    def drain(self) -> None:
        """Use also replicas that are about to leave, for the requests in hand: no new ones come."""
        self._pool.drain()

    def close(self) -> None:
        self.membership.close()
        self._pool.close()

    def check_version(self, version: str | None) -> None:
        if version is not None and version != str(self.version):
            raise UnknownVersion(name=self.name, version=version, current=self.version)

    async def infer(
        self, request: CheckedRequest, arrays: Arrays, version: str | None = None, timeout: float | None = None
    ) -> InferResponse:
        """Run the rows of a checked request in some batch. Returns the outputs and the version that computed them."""
        if not self.membership.joined:
            raise TryAgain(detail=f"this gateway has not reached the coordinator of model '{self.name}' yet")
        self.check_version(version)
        ordered = [arrays[index] for index in request.order]
        rows = await self._batcher.submit(ordered, priority=request.head.priority, timeout=timeout)
        if version is not None and version != str(rows.version):  # a swap was committed during the run
            raise UnknownVersion(name=self.name, version=version, current=rows.version)
        outputs = [(spec, rows.outputs[index]) for index, spec in request.outputs]
        asked = ordered[0].shape[0] if self._batches else 1
        return InferResponse(self.name, rows.version, request.head.id, outputs, asked)

    def metadata(self, version: str | None) -> dict[str, object]:
        self.check_version(version)
        return model_metadata(self.name, self.version, self.signature.inputs, self.signature.outputs)

    def triton_config(self, version: str | None) -> dict[str, Any]:
        """The model's configuration, as Triton's clients read it."""
        self.check_version(version)
        return model_config(self.name, self.signature, self._batching)

    def _count_runners(self) -> None:
        self._batcher.runners = self._pool.runners

    async def _run(self, arrays: Arrays, timeout: float | None) -> AnswerMessage:
        """Run a batch on any replica, and return an answer that is not older than the last swap that has returned.

        A replica, or this gateway, may have been suspended before that swap, removed by it, and resumed after it.
        """
        for _ in range(TRIES):
            share = self._batcher.rows * self._num_runners / max(self._batcher.runners, self._num_runners)
            sent = time.monotonic()
            try:
                answer = await self._pool.ask(BatchMessage(arrays, self._fence.epoch, timeout, share))
            except ReplicaBehind as error:
                behind = error
            else:
                self.figures.round_trip.note(time.monotonic() - sent - answer.run.seconds)
                await self.membership.pauses.refreshed()
                if self._fence.lets_out(answer.epoch):
                    return answer
                behind = ReplicaBehind(model=self.name, epoch=answer.epoch, fence=self._fence.settled_epoch)
        raise behind


class DataPlane:
    """All models of one gateway."""

    def __init__(self, models: Sequence[ServedModel], max_reading_bytes: int) -> None:
        self.door = InFlight()
        self.budget = ReadingBudget(max_reading_bytes)
        self.figures = GatewayFigures(model.figures for model in models)
        self._models = {model.name: model for model in models}
        self._joining: list[asyncio.Task[None]] = []
        self._noting: asyncio.Task[None] | None = None
        self._noted, self._refused = 0.0, 0

    async def join(self) -> None:
        """Join the clusters of all models at once.

        Returns when all have joined. After `JOIN_S` one is enough: a model whose coordinator cannot start must not keep
        a gateway from the others. It goes on joining, and its requests get a 503 meanwhile.
        """
        loop = asyncio.get_running_loop()
        joining = [loop.create_task(model.membership.join()) for model in self._models.values()]
        await asyncio.wait(joining, timeout=JOIN_S)
        if not any(task.done() for task in joining):
            await asyncio.wait(joining, return_when=asyncio.FIRST_COMPLETED)
        self._joining = joining
        self._check_joining()

    def check_health(self) -> None:
        self._check_joining()
        for model in self._models.values():
            model.check_health()

    def _check_joining(self) -> None:
        """Raise the error of a join that has failed."""
        for task in self._joining:
            if task.done():
                task.result()

    def drain(self) -> None:
        """Refuse new requests. Those in flight are answered."""
        self.door.open = False
        for model in self._models.values():
            model.drain()

    def close(self) -> None:
        for model in self._models.values():
            model.close()

    @property
    def reason_not_ready(self) -> str | None:
        if not self.door.open:
            return "the gateway is being stopped"
        waiting = [name for name in self.names if not self._models[name].ready]
        return f"no replica answers for {', '.join(waiting)}" if waiting else None

    @property
    def names(self) -> list[str]:
        return sorted(self._models)

    def index(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """The models, as Triton lists its repository."""
        reasons = [(model, None if model.ready else "no replica answers") for model in self.models()]
        return repository_index(
            (model.name, model.version, reason) for model, reason in reasons if not (ready_only and reason)
        )

    def models(self) -> list[ServedModel]:
        return [self._models[name] for name in self.names]

    def model(self, name: str) -> ServedModel:
        if name not in self._models:
            raise UnknownModel(name=name, known=self.names)
        return self._models[name]

    def note_refused(self, name: str, action: str, address: str, reason: str) -> None:
        """Audit a refused attempt, in the background. One line a second at most, so that a flood costs little."""
        served, now = self._models.get(name), time.monotonic()
        self._refused += 1
        if served is not None and now - self._noted >= 1.0 and (self._noting is None or self._noting.done()):
            facts = {"action": action, "who": address, "error": reason, "since_last": str(self._refused)}
            self._refused, self._noted = 0, now
            self._noting = asyncio.get_running_loop().create_task(served.weights.refused(facts))
