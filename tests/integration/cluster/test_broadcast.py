"""A version's bytes through Ray's object store: read once, put once, a few chunks at a time."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from typing import Any

import numpy as np
import pytest

from aoti_serve.cluster.transfer import broadcast as feeds
from aoti_serve.cluster.transfer.broadcast import ChunkBroadcast

pytestmark = pytest.mark.usefixtures("ray_cluster")
CHUNK = 1000
CONTENT = np.random.default_rng(0).integers(0, 256, 16 * CHUNK + 17, np.uint8).tobytes()


class CountingFile(io.BytesIO):
    """Remembers how much was read of it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.taken = 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self.taken += len(found)
        return found


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> CountingFile:
    monkeypatch.setattr(feeds, "SMALLEST", CHUNK)
    return CountingFile(CONTENT)


@pytest.fixture
def feed(file: CountingFile) -> ChunkBroadcast:
    return ChunkBroadcast(file, len(CONTENT))


async def read(feed: ChunkBroadcast, reader: str, start: int = 0, stop: int | None = None) -> str:
    """What a reader makes of the chunks from `start` on, as sha256."""
    digest, number = hashlib.sha256(CONTENT[: start * CHUNK]), start
    while number != stop and (refs := await feed.chunk(reader, number)):
        piece: Any = await refs[0]
        digest.update(piece.tobytes())
        number += 1
    return digest.hexdigest()


WHOLE = hashlib.sha256(CONTENT).hexdigest()


async def test_many_readers_take_one_read_of_the_file(feed: ChunkBroadcast, file: CountingFile) -> None:
    assert await asyncio.gather(*(read(feed, f"r{turn}") for turn in range(8))) == [WHOLE] * 8
    assert file.taken == len(CONTENT)
    assert set(feed.read.values()) == {len(CONTENT)}


async def test_at_most_a_quarter_of_the_file_is_held(feed: ChunkBroadcast) -> None:
    most = 0

    async def watched(reader: str) -> None:
        nonlocal most
        number = 0
        while refs := await feed.chunk(reader, number):
            await refs[0]
            number += 1
            most = max(most, len(feed._refs))

    await asyncio.gather(*(watched(f"r{turn}") for turn in range(4)))
    assert most * CHUNK <= len(CONTENT) / 4


async def test_a_fast_reader_waits_for_a_slow_one(
    feed: ChunkBroadcast, file: CountingFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "PATIENCE_S", 60.0)
    await feed.chunk("slow", 0)
    fast = asyncio.create_task(read(feed, "fast"))
    while feed.read.get("fast", 0) < feeds.WINDOW * feed.chunk_bytes:
        await asyncio.sleep(0)
    assert file.taken == feeds.WINDOW * feed.chunk_bytes
    assert await read(feed, "slow") == WHOLE
    assert await fast == WHOLE
    assert file.taken == len(CONTENT)


async def test_a_reader_that_has_stopped_holds_nobody_up_and_can_go_on_later(
    feed: ChunkBroadcast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "PATIENCE_S", 0.05)
    await feed.chunk("stopped", 0)
    assert await read(feed, "fast") == WHOLE
    assert await read(feed, "stopped", 0) == WHOLE


async def test_a_newcomer_reads_from_the_start(feed: ChunkBroadcast, file: CountingFile) -> None:
    assert await read(feed, "first") == WHOLE
    assert await read(feed, "newcomer") == WHOLE
    assert file.taken <= 2 * len(CONTENT)


async def test_an_empty_file_is_nothing() -> None:
    assert await ChunkBroadcast(io.BytesIO(b""), 0).chunk("r", 0) == []


async def test_where_ray_frees_late_a_transfer_is_held_back(
    file: CountingFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "SMALLEST", CHUNK // 4)
    monkeypatch.setattr(feeds, "FREE_PERIOD_S", 0.2)
    started = time.monotonic()
    assert await read(ChunkBroadcast(file, len(CONTENT)), "r") == WHOLE
    assert time.monotonic() - started > 0.2 * (feeds.SHARE / feeds.PUTS - 1)
