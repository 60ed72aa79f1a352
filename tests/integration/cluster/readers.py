"""What the tests of transfers share: a transfer that counts its calls, and processes that read through it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from safetensors.numpy import save

from aoti_serve.cluster.transfer import actor, node
from aoti_serve.cluster.transfer.actor import TransferActor
from aoti_serve.cluster.transfer.chunks import ChunkRef
from aoti_serve.cluster.transfer.download import ChunkReader, ChunkSource
from aoti_serve.cluster.transfer.files import FilePath
from aoti_serve.errors import Unavailable
from aoti_serve.weights.version import Version

T = TypeVar("T")
CHUNKS = 16
SOON_S = 120.0


def stored_version(folder: Path) -> tuple[Path, Version]:
    """A file of `CHUNKS` chunks, and the version that it is."""
    content = save({"a": np.random.default_rng(0).integers(0, 256, CHUNKS * 2**22 - 10_000, np.uint8)})
    path = folder / "weights.safetensors"
    path.write_bytes(content)
    return path, Version(number=1, digest=hashlib.sha256(content).hexdigest(), nbytes=len(content))


class CountingTransfer(TransferActor):
    """Counts the calls of nodes; is quick to give up a process that is stopped."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        actor.FAN_OUT, actor.NODE_PATIENCE_S, node.PING_S = 1, 4.0, 5.0
        self._calls: Counter[tuple[str, int]] = Counter()

    async def node_chunk(
        self, path: FilePath, nbytes: int, node: str, number: int, received: dict[str, int]
    ) -> list[ChunkRef]:
        self._calls[node, number] += 1
        return await super().node_chunk(path, nbytes, node, number, received)

    async def calls(self) -> dict[tuple[str, int], int]:
        """How often each node has asked for each chunk."""
        return dict(self._calls)

    async def pid(self) -> int:
        return os.getpid()


class LockstepTransfer(CountingTransfer):
    """No node may be ahead of another one: all ask for the same chunk."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        actor.NODE_WINDOW = 1


class Reader:
    """A process that reads a version as a replica does; `pause_before` is the chunk at which it waits for `go_on`."""

    def __init__(self) -> None:
        self._going = asyncio.Event()
        self._paused = asyncio.Event()

    async def read(self, source: ChunkSource, name: str, version: Version, pause_before: int | None = None) -> int:
        """How many bytes there were; raises what the ChunkReader raises."""
        reader = ChunkReader(name, version)
        await reader.open(_at_once(source))
        loop, total = asyncio.get_running_loop(), 0

        def consume() -> int:
            nonlocal total
            for number, chunk in enumerate(reader):
                total += len(chunk)
                if number + 1 == pause_before:
                    loop.call_soon_threadsafe(self._paused.set)
                    asyncio.run_coroutine_threadsafe(self._going.wait(), loop).result()
            return total

        return await asyncio.to_thread(consume)

    async def paused(self) -> None:
        """Wait until it has read so far."""
        await self._paused.wait()

    async def go_on(self) -> None:
        self._going.set()

    async def pid(self) -> int:
        return os.getpid()


async def _at_once(source: ChunkSource) -> ChunkSource:
    return source


def reader_on(node: str) -> Any:
    """A Reader, running, on a node."""
    remote: Any = ray.remote(Reader)
    made = remote.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
    ray.get(made.pid.remote(), timeout=SOON_S)
    return made


def got(call: Any) -> Any:
    return ray.get(call, timeout=SOON_S)


def eventually(found: Callable[[], T], expected: T) -> None:
    """Ask until that is the answer."""
    deadline = time.monotonic() + SOON_S
    while (last := found()) != expected:
        assert time.monotonic() < deadline, f"still {last!r}"
        time.sleep(0.05)


def read_again(reader: Any, source: ChunkSource, name: str, version: Version) -> int:
    """How many bytes a Reader reads, as soon as what has died is there again."""
    deadline = time.monotonic() + SOON_S
    while True:
        try:
            return int(got(reader.read.remote(source, name, version)))
        except Unavailable:
            assert time.monotonic() < deadline


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Inside, the process does not run; afterwards it does, if it is still there."""
    process = psutil.Process(pid)
    process.suspend()
    try:
        yield
    finally:
        if process.is_running():
            process.resume()


def cluster_processes(title: str) -> list[psutil.Process]:
    """The processes of this process' own cluster that are called so: Ray calls an actor's process `ray::<actor>`."""
    return [process for process in psutil.Process().children(recursive=True) if title in _title(process)]


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
