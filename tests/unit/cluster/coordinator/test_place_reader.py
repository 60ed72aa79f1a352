"""A place that hangs does not hang who reads it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aoti_serve.cluster.coordinator.follow.place_reader import PlaceReader
from aoti_serve.errors import UnreadableWeights


async def test_results_and_errors_come_back() -> None:
    reader = PlaceReader("here")
    assert [await reader.read(lambda: "one"), await reader.read(lambda: "two")] == ["one", "two"]

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await reader.read(fail)
    assert await reader.read(lambda: 3) == 3


async def test_a_read_that_hangs_is_given_up_and_none_is_begun_beside_it() -> None:
    goes_on, reader, begun = threading.Event(), PlaceReader("here", seconds=0.05), list[int]()

    def hang() -> None:
        begun.append(1)
        goes_on.wait(10)

    with pytest.raises(UnreadableWeights, match=r"here: no answer within 0\.05 s"):
        await reader.read(hang)
    for _ in range(3):
        with pytest.raises(UnreadableWeights, match="an earlier look at it has not returned yet"):
            await reader.read(hang)
    assert begun == [1]
    goes_on.set()
    while reader.busy:
        await asyncio.sleep(0)
    assert await reader.read(lambda: 3) == 3
