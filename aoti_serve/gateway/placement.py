"""Where a model's replicas are, as its gateways see it: apart from them (split), or in each of them (fused).

Split: gateways and replicas are processes of their own, so HTTP never competes with the model for a GIL, and one GPU is
fed by many gateways. Fused: a replica is its own gateway, one hop less, for the lowest latency; its HTTP and its model
share the process. The replica, the batcher, the swap and the promises are the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.replicas import Replicas
from aoti_serve.config import GatewayConfig, ModelConfig
from aoti_serve.gateway.data_plane import Served
from aoti_serve.model.signature import Signature
from aoti_serve.tensors import DTYPES
from aoti_serve.weights.target import Report, Target

if TYPE_CHECKING:
    from aoti_serve.cluster.replica import Replica  # needs torch, which the gateways of split models do without


class ServedModel(NamedTuple):
    """What a gateway needs of a model: bound deployments where it is built, handles where Serve has put it.

    In place of its replicas a fused model has its package: the gateway loads it.
    """

    config: ModelConfig
    signature: Signature
    coordinator: Any
    replicas: Any


class Fused(Served):
    """A model whose replica is here: one member that answers, and lets nothing older out."""

    def __init__(self, gateway: str, model: ServedModel, replica: Replica, limits: GatewayConfig) -> None:
        self._replica = replica
        super().__init__(gateway, model.config, model.signature, replica, model.coordinator, limits)

    def report(self) -> Report:
        return self._replica.report()

    async def reconcile(self, target: Target) -> None:
        await self._replica.reconcile(target)
        self.follow(target, self._replica.num_runners)

    def check_health(self) -> None:
        super().check_health()
        self._replica.check_health()


async def placed(gateway: str, model: ServedModel, limits: GatewayConfig) -> Served:
    """The model as this gateway serves it; a fused one is loaded here."""
    config, signature = model.config, model.signature
    if isinstance(model.replicas, DeploymentHandle):
        replicas = Replicas(config.name, model.replicas, _row_bytes(signature))
        return Served(gateway, config, signature, replicas, model.coordinator, limits)
    from aoti_serve.cluster.replica import Replica

    replica = await Replica.load(model.replicas, config.num_runners, config.previous == "keep", model.coordinator)
    return Fused(gateway, model, replica, limits)


def _row_bytes(signature: Signature) -> int:
    """Of an answer, as far as its shape is known before there is one."""
    sizes = [
        (DTYPES[spec.dtype].itemsize, *(size for size in spec.static_shape if size > 0)) for spec in signature.outputs
    ]
    return sum(math.prod(size) for size in sizes)
