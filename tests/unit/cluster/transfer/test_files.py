"""Files under way: open while somebody reads, closed soon after."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aoti_serve.cluster.transfer import files
from aoti_serve.cluster.transfer.broadcast import ChunkBroadcast
from aoti_serve.cluster.transfer.chunks import LARGEST, SMALLEST, ChunkPlan, ChunkRef
from aoti_serve.cluster.transfer.files import FilePath, FileTransfer, FileTransfers
from aoti_serve.cluster.transfer.window import ChunkWindow
from aoti_serve.signature.tensors import Span

PATH = Path("weights.safetensors")


class Shelf:
    """What opens files; it knows how many it has opened, and when one is closed."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = asyncio.Event()
        self.transfers = FileTransfers(self._open)

    async def _open(self, path: FilePath, plan: ChunkPlan) -> FileTransfer:
        self.opened += 1
        window = ChunkWindow(plan.count, width=1, patience=1.0)
        return FileTransfer(plan, ChunkBroadcast(window, self._fetch), self._index, self.closed.set)

    async def _fetch(self, number: int) -> ChunkRef:
        raise AssertionError("nobody reads here")

    async def _index(self) -> dict[str, Span]:
        return {}


async def test_a_file_is_opened_once_and_closed_when_nobody_asks_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "IDLE_S", 0.01)
    shelf = Shelf()
    async with shelf.transfers.using(PATH, 100) as first, shelf.transfers.using(PATH, 100) as second:
        assert first is second
    await asyncio.wait_for(shelf.closed.wait(), 60)
    assert shelf.opened == 1
    assert shelf.transfers.find(PATH) is None


async def test_a_file_stays_open_while_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "IDLE_S", 0.0)
    shelf = Shelf()
    async with shelf.transfers.using(PATH, 100) as waits_long:
        async with shelf.transfers.using(PATH, 100):
            pass
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert shelf.transfers.find(PATH) is waits_long
    await asyncio.wait_for(shelf.closed.wait(), 60)


@pytest.mark.parametrize(
    ("nbytes", "size", "count"),
    [(0, SMALLEST, 0), (1, SMALLEST, 1), (SMALLEST + 1, SMALLEST, 2), (2**32, LARGEST, 64), (2**34, LARGEST, 256)],
)
def test_a_file_is_cut_into_64_chunks_unless_they_were_too_small_or_too_large(
    nbytes: int, size: int, count: int
) -> None:
    plan = ChunkPlan.of(nbytes)
    assert (plan.size, plan.count) == (size, count)
    assert plan.bytes_before(count) == nbytes
