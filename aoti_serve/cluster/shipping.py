"""The versions that replicas are reading at this moment."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ray import ObjectRef

from aoti_serve.cluster.registry import Registry
from aoti_serve.cluster.transfer import Feed, Layout
from aoti_serve.errors import UnknownWeightsVersion
from aoti_serve.tensors import Span
from aoti_serve.weights.store import Store

IDLE_S = 5.0


class Shipping:
    """A feed for each version that is wanted: the committed one, and the one that is being staged."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._feeds: dict[int, Feed] = {}
        self._asked: dict[int, float] = {}
        self._opening = asyncio.Lock()

    async def index(self, number: int) -> dict[str, Span]:
        return (await self._feed(number)).layout.spans

    async def chunk(self, number: int, reader: str, chunk: int) -> list[ObjectRef[Any]]:
        refs = await (await self._feed(number)).chunk(reader, chunk)
        await self._registry.touch()  # whoever follows the status sees the bytes move
        return refs

    def read(self, number: int) -> dict[str, int]:
        """How many bytes each reader has of a version."""
        return self._feeds[number].read if number in self._feeds else {}

    def drop_idle(self) -> None:
        """Give back what nobody has asked for in a while; it would be opened again."""
        oldest = time.monotonic() - IDLE_S
        for number in [number for number, asked in self._asked.items() if asked < oldest]:
            del self._asked[number]
            self._feeds.pop(number).close()

    async def _feed(self, number: int) -> Feed:
        """Raises UnknownWeightsVersion for a version that nobody should hold any more: its swap was aborted."""
        target = self._registry.target
        wanted = [target.committed.version, *([target.staging.version] if target.staging else [])]
        version = next((version for version in wanted if version.number == number), None)
        if version is None:
            known = [version.number for version in wanted]
            raise UnknownWeightsVersion(model=self._store.model, version=number, known=known)
        async with self._opening:
            if number not in self._feeds:
                index = await asyncio.to_thread(self._store.index, version)
                file = await asyncio.to_thread(self._store.open, version)
                self._feeds[number] = Feed(file, Layout(index, version.nbytes))
        self._asked[number] = time.monotonic()
        return self._feeds[number]
