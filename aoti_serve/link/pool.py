"""All links of one gateway to the replicas of one model, and which of them gets a batch."""

from __future__ import annotations

import asyncio
import logging
import random
from asyncio import Task
from collections.abc import Callable, Collection

from aoti_serve.address import Address
from aoti_serve.errors import LinkRefused
from aoti_serve.link.client import Link, connected
from aoti_serve.link.messages import Answer, Batch
from aoti_serve.link.server import BEAT_S

logger = logging.getLogger("ray.serve")
FIRST_S, LONGEST_S = 0.05, 2.0  # between two tries to connect


class Pool:
    """Keeps a link to every address, and makes it anew when it ends. Lives in the gateway's event loop.

    A link that is open stays, whatever addresses say: a coordinator that has just started knows few. `changed` is
    called when `runners`, of all replicas that can be sent a batch now, may have changed.
    """

    def __init__(self, model: str, gateway: str, node: str, changed: Callable[[], None]) -> None:
        self._model = model
        self._gateway = gateway
        self._node = node
        self._changed = changed
        self._addresses: dict[str, Address] = {}
        self._links: dict[str, Link] = {}
        self._keepers: dict[str, Task[None]] = {}
        self._usable = asyncio.Event()
        self._runners = 0
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    @property
    def runners(self) -> int:
        return self._runners

    def follow(self, addresses: Collection[Address]) -> None:
        """Have links to these, and to no others once theirs have ended."""
        self._addresses = {address.replica: address for address in addresses if address.reached_from(self._node)}
        loop = asyncio.get_running_loop()
        for replica in self._addresses.keys() - self._keepers.keys():
            self._keepers[replica] = loop.create_task(self._keep(replica))

    async def ask(self, batch: Batch) -> Answer:
        """Have it run by the replica that has the least to do. Waits while there is none.

        Raises what the replica has raised, and ReplicaDied if it has ended, or was stopped, before it has answered.
        """
        while (link := self._least_loaded()) is None:
            self._usable.clear()
            await self._usable.wait()
        return await link.ask(batch)

    def close(self) -> None:
        for task in (self._ticking, *self._keepers.values()):
            task.cancel()
        for link in self._links.values():
            link.transport.close()

    def _least_loaded(self) -> Link | None:
        usable = [link for link in self._links.values() if link.usable]
        if len(usable) <= 1:
            return usable[0] if usable else None
        return min(usable, key=lambda link: (link.load, random.random()))

    async def _keep(self, replica: str) -> None:
        pause = FIRST_S
        while (address := self._addresses.get(replica)) is not None:
            try:
                self._links[replica] = link = await connected(self._model, address, self._gateway, self._node)
            except (OSError, LinkRefused) as error:
                if pause == LONGEST_S:  # not for one that has just died
                    logger.warning(f"no link to replica {replica}: {error}")
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_S)
                continue
            pause = FIRST_S
            self._look()
            await link.closed
            del self._links[replica]
            self._look()
        del self._keepers[replica]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for link in list(self._links.values()):
                link.tick()
            self._look()

    def _look(self) -> None:
        runners = sum(link.address.runners for link in self._links.values() if link.usable)
        if runners:
            self._usable.set()
        if runners != self._runners:
            self._runners = runners
            self._changed()
