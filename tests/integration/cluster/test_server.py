"""Members that are real Ray processes: which of them live, and what becomes of those that do not follow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError

from aoti_serve.cluster.membership.liveness import NAMESPACE, LiveActors
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.cluster.membership.wire import report_bytes
from aoti_serve.errors import Superseded
from aoti_serve.link.control import ControlLink
from aoti_serve.weights.swap.states import State
from aoti_serve.weights.swap.target import Report
from aoti_serve.weights.swap.timeouts import SwapDeadlines
from aoti_serve.weights.version import Committed, Version

pytestmark = pytest.mark.usefixtures("ray_cluster")
COMMITTED = Committed(epoch=5, version=Version(number=2, digest="two"))
NEXT = Version(number=3, digest="three")
LIVE = LiveActors("app", ("m-replica", "gateway"))
PATIENCE_S = 60.0


@ray.remote(num_cpus=0)
class Process:
    """Stands where a Serve replica would: named as Serve names them, and connected as a member."""

    def __init__(self) -> None:
        self.link: ControlLink | None = None

    async def connect(self, address: Any, report: Report) -> None:
        self.link = await ControlLink(address, report.member, lambda *_: None).connect(address.node)
        self.link.report(report_bytes(report))


def process(deployment: str, member: str, **options: Any) -> ActorHandle[Any]:
    name = f"SERVE_REPLICA::app#{deployment}#{member}"
    made: ActorHandle[Any] = Process.options(name=name, namespace=NAMESPACE, **options).remote()  # type: ignore[attr-defined]
    return made


@pytest.fixture
def replica() -> Iterator[ActorHandle[Any]]:
    made = process("m-replica", "r1")
    ray.get(made.__ray_ready__.remote())
    yield made
    ray.kill(made)


async def died(actor: ActorHandle[Any]) -> None:
    with suppress(ActorDiedError):
        while True:
            await actor.__ray_ready__.remote()


async def newest() -> None:
    """No other coordinator has followed."""


async def followed() -> None:
    raise Superseded(model="m", term=1, newer=2)


async def test_the_living_of_some_deployments_are_known(replica: ActorHandle[Any]) -> None:
    others = [process("other-replica", "r2"), process("m-replica", "r3", num_gpus=1)]  # no GPU here: it waits for ever
    ray.get(others[0].__ray_ready__.remote())
    alive = LIVE.alive()
    assert alive.keys() == {"r1"}
    assert LIVE.unreachable(alive) == set()
    assert LIVE.unreachable({"r1": "a node that is not there"}) == {"r1"}
    LIVE.kill(["r1", "r2", "r3"])
    while LIVE.alive():
        await asyncio.sleep(0.01)
    assert LIVE.doubtful(120.0).keys() >= {"r1"}, "it may take its node some seconds to end it"
    assert ray.get(others[0].__ray_ready__.remote()), "it is none of these deployments"
    for other in others:
        ray.kill(other)


async def test_one_that_is_expelled_is_killed_and_the_swap_waits_for_its_end(replica: ActorHandle[Any]) -> None:
    server = MemberServer(1, COMMITTED, SwapDeadlines(commit=1.0, confirm=30.0), LIVE, newest)
    await server.open()
    running = asyncio.gather(server.run(), server.liveness.run())
    address = await server.address("node", "127.0.0.1", "node")
    await replica.connect.remote(address, Report("r1", turn=1, epoch=5))
    swap = server.begin(NEXT, _commit, without_replicas=True)
    async with asyncio.timeout(PATIENCE_S):
        while not server.table.heard:
            await server.changed(0.1)
        server.rules.hear(Report("r1", turn=2, epoch=5, staged=swap.id))
        await server.finish()
        await died(replica)
    assert swap.state is State.SETTLED
    assert server.rules.settled
    running.cancel()
    server._server.close()


async def test_a_coordinator_that_was_followed_kills_none(replica: ActorHandle[Any]) -> None:
    """Its members report to the next one; to it they only seem to be behind."""
    server = MemberServer(1, COMMITTED, SwapDeadlines(commit=0.5), LIVE, followed)
    await server.open()
    running = asyncio.gather(server.run(), server.liveness.run())
    server.table.hear(Report("r1", turn=1, epoch=4))
    async with asyncio.timeout(PATIENCE_S):
        while not any("superseded" in event.event for event in server.rules.story.events()):
            await server.changed(0.1)
    assert LIVE.alive().keys() == {"r1"}
    running.cancel()
    server._server.close()


async def _commit(version: Version) -> Committed:
    return Committed(epoch=6, version=version, previous=COMMITTED.version)
