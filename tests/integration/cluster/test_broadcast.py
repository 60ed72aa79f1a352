"""A file's chunks through Ray's object store: read once, put once, a few at a time."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from aoti_serve.cluster.transfer import chunks
from aoti_serve.cluster.transfer.broadcast import ChunkBroadcast
from aoti_serve.cluster.transfer.chunks import ChunkFile, ChunkPlan, ChunkRef
from aoti_serve.cluster.transfer.window import ChunkWindow

pytestmark = pytest.mark.usefixtures("ray_cluster")
CHUNK = 1000
WIDTH = 3
CONTENT = np.random.default_rng(0).integers(0, 256, 16 * CHUNK + 17, np.uint8).tobytes()
WHOLE = hashlib.sha256(CONTENT).hexdigest()
PLAN = ChunkPlan(len(CONTENT), CHUNK)


class CountingFile(io.BytesIO):
    """Remembers how much was read of it; may fail."""

    taken = 0
    broken = False

    def read(self, size: int | None = -1) -> bytes:
        if self.broken:
            raise OSError("the disk is away")
        found = super().read(size)
        self.taken += len(found)
        return found


@pytest.fixture
def file() -> CountingFile:
    return CountingFile(CONTENT)


def broadcast_of(fetch: Callable[[int], Awaitable[ChunkRef]], patience: float = 60.0) -> ChunkBroadcast:
    return ChunkBroadcast(ChunkWindow(PLAN.count, width=WIDTH, patience=patience), fetch)


async def read(broadcast: ChunkBroadcast, reader: str, start: int = 0) -> str:
    """What a reader makes of the chunks from `start` on, as sha256."""
    digest = hashlib.sha256(CONTENT[: start * CHUNK])
    for number in range(start, PLAN.count):
        (ref,) = await broadcast.chunk(reader, number)
        chunk: Any = await ref
        digest.update(chunk.tobytes())
    await broadcast.chunk(reader, PLAN.count)
    return digest.hexdigest()


async def test_many_readers_take_one_read_of_the_file(file: CountingFile) -> None:
    broadcast = broadcast_of(ChunkFile(file, PLAN).put)
    assert await asyncio.gather(*(read(broadcast, f"r{turn}") for turn in range(8))) == [WHOLE] * 8
    assert file.taken == len(CONTENT)


async def test_a_few_chunks_are_held_and_none_after_the_end(file: CountingFile) -> None:
    broadcast, most = broadcast_of(ChunkFile(file, PLAN).put), 0

    async def watched(reader: str) -> None:
        nonlocal most
        for number in range(PLAN.count):
            await broadcast.chunk(reader, number)
            most = max(most, len(broadcast._chunks._tasks))
        await broadcast.chunk(reader, PLAN.count)

    await asyncio.gather(*(watched(f"r{turn}") for turn in range(4)))
    assert 0 < most <= 2 * WIDTH
    assert len(broadcast._chunks._tasks) == 0


async def test_a_fast_reader_waits_for_a_slow_one(file: CountingFile) -> None:
    taken = asyncio.Condition()
    source = ChunkFile(file, PLAN)

    async def put(number: int) -> ChunkRef:
        ref = await source.put(number)
        async with taken:
            taken.notify_all()
        return ref

    broadcast = broadcast_of(put)
    await broadcast.chunk("slow", 0)
    fast = asyncio.create_task(read(broadcast, "fast"))
    async with taken:
        await taken.wait_for(lambda: file.taken == WIDTH * CHUNK)
    done, _ = await asyncio.wait({fast}, timeout=0.1)
    assert not done
    assert file.taken == WIDTH * CHUNK
    assert await read(broadcast, "slow") == WHOLE
    assert await fast == WHOLE


async def test_a_reader_that_has_stopped_holds_nobody_up_and_can_go_on_later(file: CountingFile) -> None:
    left_behind: list[str] = []
    window = ChunkWindow(PLAN.count, width=WIDTH, patience=0.05)
    broadcast = ChunkBroadcast(window, ChunkFile(file, PLAN).put, left_behind.append)
    await broadcast.chunk("stopped", 0)
    assert await read(broadcast, "fast") == WHOLE
    assert left_behind == ["stopped"]
    assert await read(broadcast, "stopped", start=1) == WHOLE


async def test_a_call_that_is_given_up_holds_nobody_up(file: CountingFile) -> None:
    broadcast = broadcast_of(ChunkFile(file, PLAN).put)
    await broadcast.chunk("first", 0)
    for number in range(WIDTH):
        await broadcast.chunk("given up", number)
    waiting = asyncio.create_task(broadcast.chunk("given up", WIDTH))
    fast = asyncio.create_task(read(broadcast, "first", start=1))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await fast == WHOLE


async def test_a_chunk_that_cannot_be_read_fails_for_all_and_is_read_again_when_asked_again(file: CountingFile) -> None:
    broadcast = broadcast_of(ChunkFile(file, PLAN).put)
    file.broken = True
    failures = await asyncio.gather(*(read(broadcast, f"r{turn}") for turn in range(3)), return_exceptions=True)
    assert [type(failure) for failure in failures] == [OSError] * 3
    file.broken = False
    assert await asyncio.gather(*(read(broadcast, f"r{turn}") for turn in range(3))) == [WHOLE] * 3


async def test_where_ray_frees_late_a_transfer_is_held_back(
    file: CountingFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "SMALLEST", CHUNK // 8)
    monkeypatch.setattr(chunks, "FREE_PERIOD_S", 0.2)
    started = time.monotonic()
    assert await read(broadcast_of(ChunkFile(file, PLAN).put), "r") == WHOLE
    assert time.monotonic() - started > 0.2
