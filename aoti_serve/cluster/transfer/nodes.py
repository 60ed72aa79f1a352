"""The NodeTransfer actors of a cluster: one for each node with several replicas, as long as it is used."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayError
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
        self._asked: defaultdict[str, dict[str, float]] = defaultdict(dict)  # by node and replica, when
        self._checks: dict[str, asyncio.Task[None]] = {}

    def on(self, node: str, replica: str) -> NodeTransferHandle | None:
        """The one on a node; None if no other replica there has asked: a single one needs no process to share with."""
        replicas = self._asked[node]
        replicas[replica] = time.monotonic()
        if len(replicas) == 1:
            return None
        if node not in self._actors:
            self._actors[node] = self._start(node)
        self.check(node)
        return self._actors[node]

    def check(self, node: str) -> None:
        """In the background, replace the one on a node if it does not answer."""
        if node in self._actors and node not in self._checks:
            self._checks[node] = asyncio.get_running_loop().create_task(self._check(node, self._actors[node]))

    def forget_unused(self) -> None:
        """Forget replicas that have not asked in a while, and let the actors end that nobody shares any more."""
        oldest = time.monotonic() - UNUSED_S
        for node, replicas in list(self._asked.items()):
            for replica in [replica for replica, asked in replicas.items() if asked < oldest]:
                del replicas[replica]
            if len(replicas) < 2:
                self._actors.pop(node, None)  # Ray ends an actor that nobody has a handle of
            if not replicas:
                del self._asked[node]

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
        except (ActorDiedError, ActorUnschedulableError):
            self._actors.pop(node, None)  # for good; whoever asks gets a new one
        except RayError:
            pass  # being started again
        finally:
            del self._checks[node]
