"""A stage that is stopped under way: at once, also while it waits, and with everything as before."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import save

from aoti_serve.cluster.replica.buffers import ReplicaBuffers
from aoti_serve.cluster.transfer.chunks import ChunkRef
from aoti_serve.cluster.transfer.download import ChunkReader, ChunkSource
from aoti_serve.cluster.transfer.files import FilePath
from aoti_serve.errors import StageWithdrawn
from aoti_serve.model.container import Container
from aoti_serve.weights.version import Version
from tests.integration.cluster.readers import CHUNKS, CountingTransfer, stopped, stored_version
from tests.integration.models import Compiled

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Coordinator:
    """A handle of a coordinator whose versions are files in one folder."""

    def __init__(self, transfer: Any, folder: Path) -> None:
        self._transfer = transfer
        self._folder = folder
        self.source = self

    def options(self, **_: object) -> Coordinator:
        return self

    def remote(self, version: Version) -> Awaitable[ChunkSource]:
        return at_once(ChunkSource(self._transfer, self._folder / str(version.number)))


async def at_once(source: ChunkSource) -> ChunkSource:
    return source


@pytest.fixture
def transfer() -> Iterator[Any]:
    made: Any = CountingTransfer.here(2**40)
    yield made
    ray.kill(made)


async def test_a_reader_that_waits_for_a_chunk_ends_at_once(transfer: Any, tmp_path: Path) -> None:
    path, version = stored_version(tmp_path)
    reader, chunks, going = ChunkReader("r", version), 0, asyncio.Event()
    await reader.open(at_once(ChunkSource(transfer, path)))
    loop = asyncio.get_running_loop()

    def consume() -> None:
        nonlocal chunks
        for chunks, _ in enumerate(reader, 1):
            if chunks == 2:
                asyncio.run_coroutine_threadsafe(going.wait(), loop).result()

    consuming = asyncio.create_task(asyncio.to_thread(consume))
    with stopped(await transfer.pid.remote()):
        going.set()
        done, _ = await asyncio.wait({consuming}, timeout=0.5)
        assert not done
        await asyncio.to_thread(reader.cancel)
        with pytest.raises(StageWithdrawn) as withdrawn:
            await consuming
    assert withdrawn.value.facts == {"version": 1}
    assert chunks < CHUNKS


async def test_a_reader_that_is_not_open_yet_ends_at_once(transfer: Any, tmp_path: Path) -> None:
    path, version = stored_version(tmp_path)
    reader = ChunkReader("r", version)
    with stopped(await transfer.pid.remote()):
        opening = asyncio.create_task(reader.open(at_once(ChunkSource(transfer, path))))
        done, _ = await asyncio.wait({opening}, timeout=0.1)
        assert not done
        reader.cancel()
        reader.cancel()
        with pytest.raises(StageWithdrawn):
            await opening


class GatedTransfer(CountingTransfer):
    """Hands out no chunk of version 2 until the gate is open."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._gate, self._asked = asyncio.Event(), asyncio.Event()

    async def chunk(self, path: FilePath, nbytes: int, node: str, replica: str, number: int) -> list[ChunkRef]:
        if path.name == "2":
            self._asked.set()
            await self._gate.wait()
        return await super().chunk(path, nbytes, node, replica, number)

    async def asked(self) -> None:
        """Wait until a replica asks."""
        await self._asked.wait()

    async def open_gate(self) -> None:
        self._gate.set()


@pytest.fixture
def gated() -> Iterator[Any]:
    made: Any = GatedTransfer.here(2**40)
    yield made
    ray.kill(made)


def put_version(folder: Path, number: int, weights: dict[str, torch.Tensor]) -> Version:
    content = save(weights)
    (folder / str(number)).write_bytes(content)
    return Version(number=number, digest=hashlib.sha256(content).hexdigest(), nbytes=len(content))


async def test_a_stage_that_is_cancelled_leaves_everything_as_before(
    gated: Any, mixed: Compiled, tmp_path: Path
) -> None:
    first = put_version(tmp_path, 1, mixed.weights())
    second = put_version(tmp_path, 2, {name: tensor * 2 for name, tensor in mixed.weights().items()})
    with Container(mixed.package) as container:
        coordinator: Any = Coordinator(gated, tmp_path)
        buffers = ReplicaBuffers(container, True, "r", coordinator)
        buffers.cancel_stage()
        await buffers.stage(first, accepted=False)
        await buffers.activate(first)
        before = container.run(mixed.inputs)
        staging = asyncio.create_task(buffers.stage(second, accepted=False))
        await gated.asked.remote()
        assert not staging.done()
        buffers.cancel_stage()
        with pytest.raises(StageWithdrawn):
            await staging
        assert (container.version, container.staged) == (1, None)
        torch.testing.assert_close(container.run(mixed.inputs), before, rtol=0, atol=0)
        await gated.open_gate.remote()
        await buffers.stage(second, accepted=False)
        await buffers.activate(second)
        assert container.version == 2
        with pytest.raises(AssertionError):
            torch.testing.assert_close(container.run(mixed.inputs), before)
