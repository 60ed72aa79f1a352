"""All links of one gateway to the replicas of one model, and which of them gets a batch."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from asyncio import Task
from collections.abc import Callable, Collection
from typing import NamedTuple

from aoti_serve.address import Address
from aoti_serve.errors import LinkRefused, NoReplica, VersionNotResident
from aoti_serve.link.client import Link
from aoti_serve.link.health.probe import Probe
from aoti_serve.link.health.routing_log import RoutingLog
from aoti_serve.link.health.run_health import RunHealth
from aoti_serve.link.messages import AnswerMessage, BatchArrays, BatchMessage
from aoti_serve.link.server import BEAT_S

logger = logging.getLogger("ray.serve")
FIRST_S, LONGEST_S = 0.05, 2.0  # between two tries to connect
# Ticks for which the last replica of all is still used after it has said that it leaves: Serve ends an application's
# gateways at the same time, and may not have told this one yet.
LEAVING_TICKS = 8


class Probing(NamedTuple):
    """How replicas are judged: by `probe`, whose inputs become a batch in `batch_of`, within `period` seconds."""

    probe: Probe
    batch_of: Callable[[BatchArrays], BatchMessage]
    period: float


class ReplicaState(NamedTuple):
    """A connected replica, as its gateway sees it. `load` counts batches in hand for each runner.

    `fault` says why it gets no requests; None for one that gets them, and for one that has just come.
    """

    replica: str
    runners: int
    load: float
    usable: bool
    leaving: bool
    fault: str | None


class Pool:
    """Keeps a link to every address, and makes it anew when it ends. Lives in the gateway's event loop.

    A link that is open stays, whatever addresses say: a coordinator that has just started knows few. `changed` is
    called when `runners`, of all replicas that can be sent a batch now, may have changed. With `probing`, a replica is
    sent clients' batches only while its runs succeed. A batch that finds no replica waits until there has been none for
    `patience` seconds.
    """

    def __init__(
        self,
        model: str,
        gateway: str,
        node: str,
        changed: Callable[[], None],
        probing: Probing | None = None,
        patience: float = math.inf,
        interface: str = "",
    ) -> None:
        self.runners = 0
        self._model = model
        self._gateway = gateway
        self._node = node
        self._changed = changed
        self._addresses: dict[str, Address] = {}
        self._links: dict[str, Link] = {}
        self._keepers: dict[str, Task[None]] = {}
        self._usable = asyncio.Event()
        self._draining = False
        self._interface = interface
        self._upgrading = False
        self._probing = probing
        self._patience = patience
        self._probes: set[Task[None]] = set()
        self._now = 0.0
        self._log = RoutingLog(model)
        loop = asyncio.get_running_loop()
        self._alone_since = loop.time()
        self._ticking = loop.create_task(self._tick())

    def follow(self, addresses: Collection[Address]) -> None:
        """Keep links to these addresses, and to no others once theirs have ended.

        Replicas of a package with another interface understand no batch from here: they are there while one package
        takes the place of another, and with the replicas the gateways.
        """
        ours = [address for address in addresses if address.interface in ("", self._interface)]
        self._upgrading = len(ours) < len(addresses)
        self._addresses = {address.replica: address for address in ours if address.reached_from(self._node)}
        loop = asyncio.get_running_loop()
        for replica in self._addresses.keys() - self._keepers.keys():
            self._keepers[replica] = loop.create_task(self._keep(replica))

    async def ask(self, batch: BatchMessage) -> AnswerMessage:
        """Have the batch run by the replica that has the least to do. Waits for one while there is none, see above.

        Raises what the replica has raised, and ReplicaDied if it has ended, or was stopped, before it has answered;
        VersionNotResident if none of them holds the version; NoReplica.
        """
        without: set[Link] = set()
        while True:
            while (link := self._least_loaded(without)) is None:
                await self._wait_for_one()
            try:
                return await link.ask(batch)
            except VersionNotResident:
                without.add(link)
                if without.issuperset(self._willing()):
                    raise

    @property
    def states(self) -> list[ReplicaState]:
        """All replicas that are connected."""
        return [
            ReplicaState(replica, link.address.runners, link.load, link.usable, bool(link.leaving), link.fault)
            for replica, link in sorted(self._links.items())
        ]

    @property
    def why_idle(self) -> str:
        """The reason why no replica is sent a batch now."""
        if not self._links:
            return "no replica is connected"
        faults = {link.fault or "it is coming or leaving" for link in self._links.values()}
        return f"none of {len(self._links)} connected replicas can be used: {', '.join(sorted(faults))}"

    def drain(self) -> None:
        """Keep replicas that want to leave, where there are no others: this gateway leaves, too."""
        self._draining = True

    def close(self) -> None:
        for task in (self._ticking, *self._keepers.values(), *self._probes):
            task.cancel()
        for link in self._links.values():
            link.transport.close()

    def _least_loaded(self, without: Collection[Link] = ()) -> Link | None:
        links = [link for link in self._willing() if link not in without] if without else self._willing()
        if len(links) <= 1:
            return links[0] if links else None
        return min(links, key=lambda link: (link.load, random.random()))

    async def _wait_for_one(self) -> None:
        """Batches that failed with the last replica wait for the next one together, not one after the other."""
        loop = asyncio.get_running_loop()
        since = loop.time() if self.runners else self._alone_since
        self._usable.clear()
        try:
            async with asyncio.timeout_at(since + self._patience if self._patience < math.inf else None):
                await self._usable.wait()
        except TimeoutError:
            raise NoReplica.since(self._model, loop.time() - since) from None

    def _willing(self) -> list[Link]:
        """The links that can take a batch now; the leaving ones only while there are no others."""
        usable = [link for link in self._links.values() if link.usable]
        return [link for link in usable if not link.leaving] or usable

    async def _keep(self, replica: str) -> None:
        pause = FIRST_S
        while (address := self._addresses.get(replica)) is not None:
            try:
                self._links[replica] = link = await self._connected(address)
            except (OSError, LinkRefused) as error:
                if pause == LONGEST_S:  # not for one that has just died
                    logger.warning(f"no link to replica {replica}: {error}")
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_S)
                continue
            pause = FIRST_S
            self._probe_where_due()
            self._look()
            await link.closed
            del self._links[replica]
            self._log.ended(replica, link)
            self._look()
        del self._keepers[replica]
        self._log.forget(replica)

    async def _connected(self, address: Address) -> Link:
        health = RunHealth(self._probing.period, lambda: self._now) if self._probing else None
        return await Link(self._model, address, self._gateway, health).connect(self._node)

    def _probe_where_due(self) -> None:
        for link in self._links.values():
            if self._probing and link.health and link.health.probe_due and not link.closed.done():
                link.health.begin_probe()
                task = asyncio.get_running_loop().create_task(self._probe(self._probing, link, link.health))
                self._probes.add(task)
                task.add_done_callback(self._probes.discard)

    async def _probe(self, probing: Probing, link: Link, health: RunHealth) -> None:
        await probing.probe.judge(health, lambda arrays: link.ask(probing.batch_of(arrays)))
        self._look()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self.pass_time()

    def pass_time(self) -> None:
        """Count a tick."""
        self._now += BEAT_S
        for link in list(self._links.values()):
            link.tick()
        self._probe_where_due()
        self._let_go()
        self._look()

    def _let_go(self) -> None:
        """Let replicas leave while there are others, and all after a while, unless this gateway is to leave, too."""
        willing, stays = self._willing(), not (self._draining or self._upgrading)
        for link in self._links.values():
            if link.leaving and (link not in willing or (link.leaving > LEAVING_TICKS and stays)):
                link.let_go()

    def _look(self) -> None:
        self._log.look(self._links)
        runners = sum(link.address.runners for link in self._willing())
        if runners:
            self._usable.set()
        if runners != self.runners:
            self._alone_since = asyncio.get_running_loop().time()
            self.runners = runners
            self._changed()
