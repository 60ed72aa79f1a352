"""The NodeTransfer actors of a cluster: one for each node that asks, as long as it is used."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aoti_serve.cluster.calls import result_of
from aoti_serve.cluster.transfer.node import NodeTransfer, NodeTransferHandle, RemoteRoot
from aoti_serve.errors import Unavailable

PING_S = 20.0  # to start on a busy node, too
UNUSED_S = 600.0


class NodeActors:
    """Runs in the event loop of the TransferActor `root`. The actors end with its process.

    Ray starts one again that dies; one that is stopped is killed here, and then started again.
    """

    def __init__(self, root: ActorHandle[Any]) -> None:
        self._root = root
        self._actors: dict[str, NodeTransferHandle] = {}
        self._asked: dict[str, float] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}

    def on(self, node: str) -> NodeTransferHandle:
        """The one on a node."""
        self._asked[node] = time.monotonic()
        if node not in self._actors:
            self._actors[node] = self._start(node)
        self.check(node)
        return self._actors[node]

    def check(self, node: str) -> None:
        """In the background, replace the one on a node if it does not answer."""
        if node in self._actors and node not in self._checks:
            self._checks[node] = asyncio.get_running_loop().create_task(self._check(node, self._actors[node]))

    def drop_unused(self) -> None:
        """Let those end that nobody has asked for in a while."""
        oldest = time.monotonic() - UNUSED_S
        for node in [node for node, asked in self._asked.items() if asked < oldest]:
            del self._asked[node]
            self._actors.pop(node, None)  # Ray ends an actor that nobody has a handle of

    def _start(self, node: str) -> NodeTransferHandle:
        place = NodeAffinitySchedulingStrategy(node, soft=False)
        remote: Any = ray.remote(NodeTransfer)
        actor: NodeTransferHandle = remote.options(num_cpus=0, max_restarts=-1, scheduling_strategy=place).remote(
            node, RemoteRoot(self._root)
        )
        return actor

    async def _check(self, node: str, actor: NodeTransferHandle) -> None:
        try:
            await result_of(actor.ping.remote(), PING_S)
        except Unavailable:
            ray.kill(actor, no_restart=False)
        except RayError:
            pass  # being started again, or its node has died
        finally:
            del self._checks[node]
