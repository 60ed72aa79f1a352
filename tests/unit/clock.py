"""Event loops whose time is simulated: it stands still while anything can go on, then jumps to the next timer.

So a test of an hour takes a millisecond, and does the same every time. Threads and sockets are not for these loops.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch

P = ParamSpec("P")
T = TypeVar("T")


class Stuck(AssertionError):
    """Somebody waits, and nothing is left that could happen."""


class _Jumps(selectors.BaseSelector):
    """In place of waiting for sockets, moves the time on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.before: Callable[[], None] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck
        if timeout > 0:
            if self.before is not None:
                self.before()
            self.now += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)  # the loop's own pipe to itself

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)


class SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now

    def before_every_jump(self, check: Callable[[], None]) -> None:
        """Call this whenever nothing more can happen at the present time."""
        self._jumps.before = check


def simulated(scenario: Coroutine[Any, Any, T]) -> T:
    """Run it to its end in simulated time. Raises Stuck if it would wait for ever; no callback may fail on the way."""
    failed: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: failed.append(context))
        with patch("aoti_serve.gateway.batching.batcher.monotonic", runner.get_loop().time):
            result = runner.run(scenario)
    assert not failed, failed
    return result


def in_simulated_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that is a coroutine, run in simulated time."""

    @wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        simulated(test(*arguments, **named))

    return run


async def settled() -> None:
    """Let everything that can go on without the clock go on."""
    await asyncio.sleep(1e-6)


def now() -> float:
    return asyncio.get_running_loop().time()
