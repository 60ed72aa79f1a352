"""The root of all transfers of weights: an actor on the coordinator's node that takes uploads and hands out chunks.

It is a process apart from the coordinator, so that a slow disk or reader keeps the coordinator waiting in nothing. Also
a Serve call whose answer may name objects blocks the whole answering process while its caller is stopped.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, TypeAlias

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aoti_serve.cluster.transfer.broadcast import ChunkBroadcast
from aoti_serve.cluster.transfer.chunks import Chunk, ChunkFile, ChunkPlan, ChunkRef
from aoti_serve.cluster.transfer.files import FilePath, FileTransfer, FileTransfers
from aoti_serve.cluster.transfer.node import NodeActors, NodeTransfer, NodeTransferHandle
from aoti_serve.cluster.transfer.window import ChunkWindow
from aoti_serve.errors import BodyTooLarge, InvalidBody, StoreFailed, TryAgain
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import index_in
from aoti_serve.weights.store.objects.objects import open_stored

NODE_WINDOW = 6  # chunks; how far the fastest node may be ahead of the slowest
NODE_PATIENCE_S = 5.0  # longer than that of a node with its replicas
# Nodes that fetch a chunk from one that has it. Ray asks any node that has the whole object; if all nodes asked at
# once, only the first one would have it, and send it to each.
FAN_OUT = 2
CALLS = 20_000  # at a time: each node waits with one, and the coordinator must get through
TransferHandle: TypeAlias = "ActorHandle[TransferActor]"


class TransferActor:
    """Ray actor, one per coordinator, on its node. `limit` is the size of an upload in bytes.

    Each node reads a file once, with one call per chunk: its NodeTransfer calls, or the replica itself if it is alone
    on its node.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        context = ray.get_runtime_context()
        self._node, self._self = context.get_node_id(), context.current_actor
        self._files = FileTransfers(self._open)
        self._here = NodeTransfer(self._node, self)
        self._nodes = NodeActors(self._self)

    @classmethod
    def here(cls, limit: int) -> TransferHandle:
        """A new one on this node; it ends with the process that has made it, and starts again if it alone dies."""
        place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote: Any = ray.remote(cls)
        options = remote.options(num_cpus=0, max_restarts=-1, max_concurrency=CALLS, scheduling_strategy=place)
        actor: TransferHandle = options.remote(limit)
        return actor

    async def append(self, path: FilePath, piece: bytes | Chunk) -> None:
        """Add bytes to an upload, or a flat array of uint8; Ray resolves one that is in its object store.

        Raises BodyTooLarge when there are too many.
        """
        await asyncio.to_thread(self._append, path, _flat(piece))

    async def reader_of(self, node: str, replica: str) -> TransferHandle | NodeTransferHandle:
        """The actor from which a replica on a node reads, by `index` and `chunk`: this one, or one on its node."""
        shared = None if node == self._node else self._nodes.on(node, replica)
        handle: TransferHandle = self._self
        return shared or handle

    async def index(self, path: FilePath, nbytes: int) -> dict[str, Span]:
        """The places of the tensors in a file of `nbytes`."""
        async with self._files.using(path, nbytes) as file:
            return await file.index()

    async def chunk(self, path: FilePath, nbytes: int, node: str, replica: str, number: int) -> list[ChunkRef]:
        """As NodeTransfer.chunk, for replicas on this node, and for one that is alone on its node."""
        if node == self._node:
            return await self._here.chunk(path, nbytes, node, replica, number)
        received = {replica: ChunkPlan.of(nbytes).bytes_before(number)}
        return await self.node_chunk(path, nbytes, f"{node} {replica}", number, received)

    async def node_chunk(
        self, path: FilePath, nbytes: int, node: str, number: int, received: dict[str, int]
    ) -> list[ChunkRef]:
        """Chunk `number` of a file for a node that has all before it, as an object in a list; empty beyond the end.

        `received` says how many bytes each of the node's replicas has.
        """
        async with self._files.using(path, nbytes) as file:
            file.received[node] = received
            return await file.broadcast.chunk(node, number)

    async def received(self, path: FilePath) -> dict[str, int]:
        """The bytes of a file that each replica has received, as far as its node has told. For the coordinator."""
        file = self._files.find(path)
        nodes = file.received.values() if file else ()
        return {replica: nbytes for received in nodes for replica, nbytes in received.items()}

    async def close_idle(self) -> None:
        """Let unused actors of nodes end. The answer also shows that this process runs."""
        self._nodes.forget_unused()

    async def _open(self, path: FilePath, plan: ChunkPlan) -> FileTransfer:
        content = ChunkFile(await asyncio.to_thread(open_stored, path), plan)
        window = ChunkWindow(plan.count, width=NODE_WINDOW, patience=NODE_PATIENCE_S, fan_out=FAN_OUT)
        broadcast = ChunkBroadcast(window, content.put, self._nodes.check)
        return FileTransfer(plan, broadcast, lambda: asyncio.to_thread(_index, path, plan.nbytes), content.close)

    def _append(self, path: FilePath, content: bytes | memoryview) -> None:
        try:
            with path.open("r+b") as file:  # not "ab", which would make a file anew that was thrown away
                file.seek(0, os.SEEK_END)
                file.write(content)
                size = file.tell()
        except FileNotFoundError as error:
            raise TryAgain(detail="the upload was given up; send it again") from error
        except OSError as error:
            raise StoreFailed.of(str(path.parent), error) from error
        if size > self._limit:
            raise BodyTooLarge(limit=self._limit, setting="gateway.max_weights_bytes")


def _index(path: FilePath, nbytes: int) -> dict[str, Span]:
    with open_stored(path) as file:
        return index_in(file, nbytes)


def _flat(piece: object) -> bytes | memoryview:
    """The bytes of a piece; raises InvalidBody for any object but bytes or a flat array of uint8."""
    if isinstance(piece, np.ndarray) and piece.dtype == np.uint8 and piece.ndim == 1:
        content: NDArray[Any] = np.ascontiguousarray(piece)
        return content.data
    if isinstance(piece, bytes):
        return piece
    raise InvalidBody(detail=f"an object of {type(piece).__name__}, not the flat bytes of a safetensors file")
