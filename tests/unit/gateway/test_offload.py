"""What would hold up the loop is done beside it, one after the other."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aoti_serve.gateway.offload import Offload


async def test_it_is_done_in_one_thread_in_order_and_raises_what_the_work_raises() -> None:
    offload, threads = Offload(), []

    def work(number: int) -> int:
        threads.append(threading.current_thread())
        if number == 2:
            raise ValueError("two")
        return number

    found = await asyncio.gather(*(offload.run(work, number) for number in range(4)), return_exceptions=True)
    assert [found[0], found[1], found[3]] == [0, 1, 3]
    assert isinstance(found[2], ValueError)
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


async def test_who_is_cancelled_before_its_turn_is_not_worked_for() -> None:
    offload, turn = Offload(), threading.Event()
    done: list[str] = []
    first = asyncio.create_task(offload.run(turn.wait))
    second = asyncio.create_task(offload.run(done.append, "second"))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    turn.set()
    await first
    await offload.run(done.append, "third")
    assert done == ["third"]


async def test_between_two_works_the_loop_has_time_of_its_own() -> None:
    """The second begins no sooner than the first took after it."""
    offload, loop = Offload(), asyncio.get_running_loop()
    times: list[float] = []

    def work() -> None:
        times.append(loop.time())
        threading.Event().wait(0.05)
        times.append(loop.time())

    await asyncio.gather(offload.run(work), offload.run(work))
    began, ended, again, _ = times
    assert again - ended >= 0.9 * (ended - began)
