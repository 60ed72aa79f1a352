"""A change ends by itself, whether its caller waits or not."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.changes import Changes
from aoti_serve.cluster.membership.live_actors import LiveActors
from aoti_serve.cluster.membership.registry import Registry
from aoti_serve.errors import Unavailable
from aoti_serve.weights.audit import AuditLog
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.swap import SwapDeadlines
from aoti_serve.weights.version import BUILT_IN, Committed, Version


class SlowLog(AuditLog):
    """The disk takes its time with the first line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.goes_on = threading.Event()

    def write(self, **facts: object) -> None:
        self.goes_on.wait(10)
        super().write(**facts)


async def newest() -> None:
    """No other coordinator has followed."""


def admitted(current: Version) -> Version:
    return Version(number=current.number + 1, digest="x")


async def test_a_caller_that_goes_as_it_begins_locks_nobody_out(tmp_path: Path) -> None:
    log = SlowLog(tmp_path / "audit.jsonl")
    registry = Registry(1, Committed(epoch=0, version=BUILT_IN), SwapDeadlines(), LiveActors("app", ()), newest)
    changes = Changes("m", Store(tmp_path / "store", "m", 2), registry, log)
    caller = asyncio.create_task(changes.swap(Attempt("swap", "somebody"), admitted, wait=True))
    while not changes.under_way:
        await asyncio.sleep(0)
    caller.cancel()
    log.goes_on.set()
    async with asyncio.timeout(10):
        while changes.under_way:
            await registry.changed(1.0)
    with pytest.raises(Unavailable, match="no live replica"):
        await changes.swap(Attempt("swap", "somebody else"), admitted, wait=True)
