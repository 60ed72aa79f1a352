"""Calls that many wait for: made once, and a failure is nobody's for long."""

from __future__ import annotations

import asyncio

import pytest

from aoti_serve.cluster.transfer.shared_calls import SharedCalls


class Disk:
    """Something to be called; it answers when `ready` is set."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.ready = asyncio.Event()
        self.broken = False

    async def read(self, number: int) -> str:
        self.calls.append(number)
        await self.ready.wait()
        if self.broken:
            raise OSError("away")
        return f"chunk {number}"


async def test_many_wait_for_one_call() -> None:
    disk = Disk()
    shared = SharedCalls(disk.read)
    waiting = [asyncio.create_task(shared.get(number)) for number in (0, 0, 1, 0)]
    disk.ready.set()
    assert await asyncio.gather(*waiting) == ["chunk 0", "chunk 0", "chunk 1", "chunk 0"]
    assert await shared.get(1) == "chunk 1"
    assert disk.calls == [0, 1]


async def test_a_failure_is_told_to_all_who_wait_and_not_kept() -> None:
    disk = Disk()
    disk.broken = True
    shared = SharedCalls(disk.read)
    waiting = [asyncio.create_task(shared.get(0)) for _ in range(3)]
    disk.ready.set()
    assert [type(failure) for failure in await asyncio.gather(*waiting, return_exceptions=True)] == [OSError] * 3
    disk.broken = False
    assert await shared.get(0) == "chunk 0"
    assert disk.calls == [0, 0]


async def test_one_that_gives_up_does_not_stop_the_others() -> None:
    disk = Disk()
    shared = SharedCalls(disk.read)
    first, second = asyncio.create_task(shared.get(0)), asyncio.create_task(shared.get(0))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    disk.ready.set()
    assert await second == "chunk 0"


async def test_what_is_dropped_is_called_again_and_calls_under_way_go_on() -> None:
    disk = Disk()
    shared = SharedCalls(disk.read)
    under_way = asyncio.create_task(shared.get(0))
    await asyncio.sleep(0)
    shared.drop()
    disk.ready.set()
    assert await under_way == "chunk 0"
    await shared.get(1)
    shared.drop(lambda number: number == 1)
    assert len(shared._tasks) == 1
    await asyncio.gather(shared.get(0), shared.get(1))
    assert disk.calls == [0, 1, 0]
