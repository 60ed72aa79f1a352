"""The loop that blocking clients share."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from aoti_serve.cluster.calls import result_of, run_in_background
from aoti_serve.errors import AotiServeError, StageFailed, StoreFailed, UnknownTensor


def from_an_actor(cause: Exception) -> Exception:
    """As Ray has it arrive."""
    made: Any = RayTaskError
    error: Exception = made("append", "a traceback", cause, pid=1, ip="127.0.0.1").as_instanceof_cause()
    return error


async def this_loop() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    return asyncio.get_running_loop(), threading.current_thread()


def test_all_calls_of_a_process_share_one_loop_and_its_thread() -> None:
    first = run_in_background(this_loop())
    found = []
    threads = [threading.Thread(target=lambda: found.append(run_in_background(this_loop()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [first] * 8
    assert first[1] is not threading.current_thread()
    assert first[1].daemon


def test_an_error_arrives_as_itself() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        run_in_background(fail())


async def test_an_error_of_ours_arrives_as_itself_and_not_as_its_cause() -> None:
    async def fail() -> None:
        raise StageFailed(replica="r1", version=7, cause=UnknownTensor(name="w"))

    for seconds in (None, 10.0):
        with pytest.raises(StageFailed, match="replica r1 could not stage version 7"):
            await result_of(fail(), seconds)


@pytest.mark.parametrize(
    "cause", [StoreFailed(path="store", detail="full"), StageFailed(replica="r1", version=7, cause=ValueError("x"))]
)
async def test_an_error_of_ours_arrives_from_an_actor_as_itself(cause: AotiServeError) -> None:
    async def fail() -> None:
        raise from_an_actor(cause)

    for seconds in (None, 10.0):
        with pytest.raises(type(cause)) as raised:
            await result_of(fail(), seconds)
        assert raised.value is cause
        assert "traceback" not in str(raised.value)


async def test_a_foreign_error_keeps_its_name() -> None:
    async def fail() -> None:
        raise from_an_actor(ValueError("x"))

    with pytest.raises(ValueError, match="a traceback"):
        await result_of(fail())


def test_work_is_cancelled_if_its_caller_is_interrupted() -> None:
    ended, caller = threading.Event(), threading.get_ident()

    async def endless() -> None:
        while sys._current_frames()[caller].f_code.co_name != "wait":
            await asyncio.sleep(0)
        for _ in range(100):  # a signal that comes before its thread sleeps would be seen only after it has woken up
            await asyncio.sleep(0)
        signal.pthread_kill(caller, signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        run_in_background(endless())
    assert ended.wait(30)
