"""The transfer on one node: each chunk is fetched once for all replicas there."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnschedulableError, ObjectLostError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aoti_serve.cluster.calls import result_of, spawn
from aoti_serve.cluster.transfer.broadcast import ChunkBroadcast
from aoti_serve.cluster.transfer.chunks import ChunkPlan, ChunkRef
from aoti_serve.cluster.transfer.files import FilePath, FileTransfer, FileTransfers
from aoti_serve.cluster.transfer.window import ChunkWindow
from aoti_serve.errors import TryAgain, Unavailable
from aoti_serve.signature.tensors import Span

WINDOW = 3  # chunks; how far the fastest replica of a node may be ahead of its slowest
REPLICA_PATIENCE_S = 2.0
PING_S = 20.0  # to start on a busy node, too
UNUSED_S = 600.0
CHUNK_S = 60.0  # a slow disk, the slowest of all readers
NodeTransferHandle: TypeAlias = "ActorHandle[NodeTransfer]"


class TransferRoot(Protocol):
    """Hands out chunks to nodes: the TransferActor on the coordinator's node."""

    async def index(self, path: FilePath, nbytes: int) -> dict[str, Span]: ...

    async def node_chunk(
        self, path: FilePath, nbytes: int, node: str, number: int, received: dict[str, int]
    ) -> list[ChunkRef]: ...


async def transfer_answer(call: Awaitable[Any]) -> Any:
    """Await a call to a transfer's process, or an object of one.

    Raises Unavailable after `CHUNK_S`, and if the process has died: it is started again.
    """
    try:
        return await result_of(call, CHUNK_S)
    except (RayActorError, ObjectLostError) as error:
        raise TryAgain(detail="what moves the weights has died and is started again; try again") from error


class RemoteRoot:
    """The root as another process sees it. Its calls raise Unavailable as `transfer_answer` does."""

    def __init__(self, actor: ActorHandle[Any]) -> None:
        self._actor = actor

    async def index(self, path: FilePath, nbytes: int) -> dict[str, Span]:
        found: dict[str, Span] = await transfer_answer(self._actor.index.remote(path, nbytes))
        return found

    async def node_chunk(
        self, path: FilePath, nbytes: int, node: str, number: int, received: dict[str, int]
    ) -> list[ChunkRef]:
        call: Any = self._actor.node_chunk.remote(path, nbytes, node, number, received)
        refs: list[ChunkRef] = await transfer_answer(call)
        return refs


class NodeTransfer:
    """Hands out chunks to the replicas of one node; `node` is its id.

    A Ray actor on each node with several replicas; on the coordinator's node a part of the TransferActor. Chunks come
    to a node through Ray's object manager, from any node that has them. This process only sees references.
    """

    def __init__(self, node: str, root: TransferRoot) -> None:
        self._node = node
        self._root = root
        self._files = FileTransfers(self._open)

    async def index(self, path: FilePath, nbytes: int) -> dict[str, Span]:
        """The places of the tensors in a file of `nbytes`."""
        async with self._files.using(path, nbytes) as file:
            return await file.index()

    async def chunk(self, path: FilePath, nbytes: int, node: str, replica: str, number: int) -> list[ChunkRef]:
        """Chunk `number` of a file of `nbytes`, as an object in a list; an empty list beyond the end.

        `replica` is one of this `node`.
        """
        async with self._files.using(path, nbytes) as file:
            file.received[node][replica] = file.plan.bytes_before(number)
            refs = await file.broadcast.chunk(replica, number)
            if not refs:
                spawn(self._tell_end(path, file))
            return refs

    async def ping(self) -> None:
        """Answer, to show that this process runs."""

    async def _open(self, path: FilePath, plan: ChunkPlan) -> FileTransfer:
        window = ChunkWindow(plan.count, width=WINDOW, patience=REPLICA_PATIENCE_S)
        broadcast = ChunkBroadcast(window, lambda number: self._fetch(path, file, number))
        file = FileTransfer(plan, broadcast, partial(self._root.index, path, plan.nbytes))
        file.received[self._node] = {}
        return file

    async def _fetch(self, path: FilePath, file: FileTransfer, number: int) -> ChunkRef:
        """Have the chunk in the node's object store before a replica hears of it."""
        received = file.received[self._node]
        (ref,) = await self._root.node_chunk(path, file.plan.nbytes, self._node, number, received)
        await transfer_answer(ref)
        if number + 1 == file.plan.count:
            spawn(self._tell_end(path, file))
        return ref

    async def _tell_end(self, path: FilePath, file: FileTransfer) -> None:
        """Tell the root that every chunk is here, and how far the replicas are."""
        plan, received = file.plan, file.received[self._node]
        with suppress(RayError, Unavailable):  # it waits for this node a little longer then
            await self._root.node_chunk(path, plan.nbytes, self._node, plan.count, received)


class NodeActors:
    """The NodeTransfer actors of a cluster: one for each node with several replicas, as long as it is used.

    Runs in the event loop of the TransferActor `root`. The actors end with its process.

    Ray starts one again that dies; one that is stopped is killed here, and then started again.
    """

    def __init__(self, root: ActorHandle[Any]) -> None:
        self._root = root
        self._actors: dict[str, NodeTransferHandle] = {}
        self._asked: defaultdict[str, dict[str, float]] = defaultdict(dict)  # by node and replica, when
        self._checks: dict[str, asyncio.Task[None]] = {}

    def on(self, node: str, replica: str) -> NodeTransferHandle | None:
        """The actor on a node; None if no other replica there has asked: a single one reads by itself."""
        replicas = self._asked[node]
        replicas[replica] = time.monotonic()
        if len(replicas) == 1:
            return None
        if node not in self._actors:
            self._actors[node] = self._start(node)
        self.check(node)
        return self._actors[node]

    def check(self, node: str) -> None:
        """In the background, replace the actor on a node if it does not answer."""
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
            self._actors.pop(node, None)  # Ray starts it no more; the next replica that asks gets a new one
        except RayError:
            pass  # being started again
        finally:
            del self._checks[node]
