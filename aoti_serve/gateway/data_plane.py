"""What the protocol means, once: HTTP translates to it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.calls import unwrapped
from aoti_serve.cluster.client import CoordinatorClient
from aoti_serve.cluster.member import Membership
from aoti_serve.config import ModelConfig
from aoti_serve.errors import ReplicaBehind, ReplicaDied, UnknownModel, UnknownVersion
from aoti_serve.gateway.batcher import Answered, Arrays, Batcher
from aoti_serve.model.signature import Signature
from aoti_serve.protocol.messages import InferRequest, InferResponse, model_metadata
from aoti_serve.tensors import Shaped
from aoti_serve.weights.target import NOTHING, Report, Target

if TYPE_CHECKING:
    from aoti_serve.cluster.replica import Answer

TRIES = 5  # replicas that may be behind the fence, one after the other
# Above this, a batch goes through the object store: inline, gRPC refuses it at 4 MB.
INLINE_BYTES = 2 * 2**20


class Served:
    """One model as a gateway sees it: a member that holds no weights, only the fence and the number of runners."""

    def __init__(
        self,
        gateway: str,
        config: ModelConfig,
        signature: Signature,
        replicas: Any,
        coordinator: Any,
    ) -> None:
        self.name = config.name
        self.signature = signature
        self.weights = CoordinatorClient(config.name, coordinator)
        self.version = 0
        self._gateway = gateway
        self._replicas: DeploymentHandle[Any] = replicas
        self._epoch = self._settled = NOTHING
        self._staging: str | None = None
        batch = signature.batch
        rows = min(config.batching.max_batch_size, batch.max if batch and batch.max else sys.maxsize)
        batching = config.batching.model_copy(update={"max_batch_size": rows})
        self._batcher = Batcher(config.name, batching, self._run, batches=batch is not None)
        self.membership = Membership(self, coordinator)

    @property
    def ready(self) -> bool:
        return self._batcher.runners > 0

    def report(self) -> Report:
        return Report(member=self._gateway, epoch=self._epoch, settled=self._settled, staged=self._staging)

    async def reconcile(self, target: Target) -> None:
        self._epoch = max(self._epoch, target.committed.epoch)
        self.version = target.committed.version.number
        self._settled = max(self._settled, target.settled)
        self._staging = target.staging.swap if target.staging else None
        self._batcher.runners = target.runners

    def check_version(self, version: str | None) -> None:
        if version is not None and version != str(self.version):
            raise UnknownVersion(name=self.name, version=version, current=self.version)

    async def infer(self, request: InferRequest, version: str | None) -> InferResponse:
        """Check the request in full, run its rows in some batch, name the version that computed them."""
        self.check_version(version)
        signature = self.signature
        inputs = signature.by_input(request.inputs)
        signature.check_inputs({name: Shaped(tensor.dtype, tensor.shape) for name, tensor in inputs.items()})
        wanted = [signature.output_named(name) for name in request.outputs or []]
        rows = await self._batcher.submit([inputs[spec.name].array for spec in signature.inputs])
        if version is not None and version != str(rows.version):  # a swap came in between
            raise UnknownVersion(name=self.name, version=version, current=rows.version)
        arrays = dict(zip((spec.name for spec in signature.outputs), rows.outputs, strict=True))
        specs = {spec.name: spec for spec in signature.outputs}
        outputs = [(specs[name], arrays[name]) for name in wanted or specs]
        return InferResponse(self.name, rows.version, request.id, outputs)

    def metadata(self, version: str | None) -> dict[str, object]:
        self.check_version(version)
        return model_metadata(self.name, self.version, self.signature.inputs, self.signature.outputs)

    async def _run(self, arrays: Arrays) -> Answered:
        """An answer that is not older than the last swap that has returned, by whichever replica gives one.

        A replica, or this gateway, may have been stopped before that swap, been expelled in it, and wake up after it.
        """
        for _ in range(TRIES):
            try:
                answer = await self._send(arrays)
            except RayActorError as error:
                raise ReplicaDied(model=self.name) from error
            except ReplicaBehind as error:
                behind = error
            else:
                await self.membership.current()
                self._epoch = max(self._epoch, answer.epoch)  # who has seen the new version sees no old one after it
                if answer.epoch >= self._settled:
                    return answer
                behind = ReplicaBehind(replica="that answered", epoch=answer.epoch, fence=self._settled)
        raise behind

    async def _send(self, arrays: Sequence[NDArray[Any]]) -> Answer:
        handle = self._replicas
        if sum(array.nbytes for array in arrays) > INLINE_BYTES:
            handle = handle.options(_by_reference=True)
        answer: Answer = await unwrapped(handle.infer.remote(arrays, self._epoch))
        return answer


class DataPlane:
    """All models of one gateway."""

    def __init__(self, models: Sequence[Served]) -> None:
        self._models = {model.name: model for model in models}
        self._noting: asyncio.Task[None] | None = None
        self._noted, self._refused = 0.0, 0

    async def join(self) -> None:
        for model in self._models.values():
            await model.membership.join()

    def check_health(self) -> None:
        for model in self._models.values():
            model.membership.check()

    @property
    def ready(self) -> bool:
        return all(model.ready for model in self._models.values())

    @property
    def names(self) -> list[str]:
        return sorted(self._models)

    def model(self, name: str) -> Served:
        if name not in self._models:
            raise UnknownModel(name=name, known=self.names)
        return self._models[name]

    def note_refused(self, name: str, action: str, address: str, reason: str) -> None:
        """Have a refused attempt audited, without waiting: one a second, so that a flood of them costs little."""
        served, now = self._models.get(name), time.monotonic()
        self._refused += 1
        if served is not None and now - self._noted >= 1.0 and (self._noting is None or self._noting.done()):
            facts = {"action": action, "who": address, "error": reason, "since_last": str(self._refused)}
            self._refused, self._noted = 0, now
            self._noting = asyncio.get_running_loop().create_task(served.weights.refused(facts))
