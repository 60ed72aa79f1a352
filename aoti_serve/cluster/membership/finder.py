"""The way to the newest coordinator: Serve knows which process that is."""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from aoti_serve.address import Address
from aoti_serve.cluster.calls import result_of
from aoti_serve.cluster.membership.line import CoordinatorLine, Listens
from aoti_serve.cluster.ray_private import over_grpc
from aoti_serve.errors import Superseded, Unavailable

FIND_S = 6.0
LOST = (RayError, RayServeException, Superseded, Unavailable)


class CoordinatorFinder:
    """For the process of the name `member` on `node`, Ray's id of it. Used in that process's event loop."""

    def __init__(self, coordinator: DeploymentHandle[Any], member: str, node: str) -> None:
        self.member = member
        self._node = node
        self._coordinator = over_grpc(coordinator)

    def line(self, listener: Listens) -> CoordinatorLine:
        return CoordinatorLine(self.member, self._node, self._find, LOST, listener)

    def is_lost(self, error: Exception) -> bool:
        """A failure inside the coordinator does not pass by waiting, and is none of these."""
        return isinstance(error, LOST) and not isinstance(error, RayTaskError)

    async def _find(self) -> Address:
        address: Address = await result_of(self._coordinator.address.remote(self._node), FIND_S)
        return address
