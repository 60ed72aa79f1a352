"""Calls between our processes: how long they may take, errors on the way back, and calls from blocking code."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import grpc
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from aoti_serve.errors import AotiServeError, TryAgain

T = TypeVar("T")
# What a call to another of our processes raises that has come to nothing. Serve lets gRPC's own errors through.
CALL_FAILED = (AotiServeError, RayError, RayServeException, grpc.aio.AioRpcError)
_LOCK = threading.Lock()
_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}  # by process id: a forked process inherits no thread
_TASKS: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run `work` in this event loop; the task is kept until it ends, though nobody waits for it."""
    task = asyncio.get_running_loop().create_task(work)
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)
    return task


async def result_of(call: Awaitable[Any], seconds: float | None = None) -> Any:
    """Await a call; an AotiServeError raised on the other side is raised here as itself.

    An actor's comes as a RayTaskError that is of its class as well, and whose text is a traceback. Raises Unavailable
    if there is no answer in so many `seconds`: a process that is stopped, not dead, would never give one.
    """
    clock = asyncio.timeout(seconds)
    try:
        async with clock:
            return await call
    except RayTaskError as error:
        if isinstance(error.cause, AotiServeError):
            raise error.cause from None
        raise
    except AotiServeError:
        raise
    except Exception:
        if clock.expired():
            raise TryAgain(detail=f"no answer within {seconds:g} s") from None
        raise


def run_in_background(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in the event loop that this process shares, and return its result.

    The loop and its thread start with the first call and end with the process. If the wait is interrupted, by Ctrl-C
    for example, the work is cancelled.
    """
    future = asyncio.run_coroutine_threadsafe(work, _background_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _background_loop() -> asyncio.AbstractEventLoop:
    with _LOCK:
        if (loop := _LOOPS.get(os.getpid())) is None:
            loop = _LOOPS[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="aoti-serve-clients", daemon=True).start()
        return loop
