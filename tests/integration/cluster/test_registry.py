"""Members that are real processes: who is alive, who is told, and who is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError

from aoti_serve.cluster.membership import live_actors as census
from aoti_serve.cluster.membership import registry
from aoti_serve.cluster.membership.failure_detector import FailureDetector
from aoti_serve.cluster.membership.live_actors import LiveActors
from aoti_serve.cluster.membership.registry import Registry
from aoti_serve.errors import Superseded
from aoti_serve.weights.swap.target import Receipt, Report, Staging, TargetRevision
from aoti_serve.weights.version import Committed, Version

pytestmark = pytest.mark.usefixtures("ray_cluster")
VERSION = Version(number=2, digest="two")
COMMITTED = Committed(epoch=5, version=VERSION)


@ray.remote(num_cpus=0)
class Process:
    """Stands where a Serve replica would: named as Serve names them."""


def process(deployment: str, member: str, **options: Any) -> ActorHandle[Any]:
    name = f"SERVE_REPLICA::app#{deployment}#{member}"
    made: ActorHandle[Any] = Process.options(name=name, namespace=census.NAMESPACE, **options).remote()  # type: ignore[attr-defined]
    return made


@pytest.fixture
def replica() -> Iterator[ActorHandle[Any]]:
    made = process("m-replica", "r1")
    ray.get(made.__ray_ready__.remote())
    yield made
    ray.kill(made)


CENSUS = LiveActors("app", ("m-replica", "gateway"))


async def died(actor: ActorHandle[Any]) -> None:
    with suppress(ActorDiedError):
        while True:
            await actor.__ray_ready__.remote()


def receipt(version: int, digest: str) -> Receipt:
    return Receipt(
        replica="r1",
        node="n",
        pid=1,
        device="cpu",
        gpu_ids=(),
        epoch=5,
        version=version,
        digest=digest,
        previous=None,
        nbytes=0,
        stage_milliseconds=0,
        commit_milliseconds=0,
    )


async def test_the_census_knows_the_living_of_its_deployments(replica: ActorHandle[Any]) -> None:
    others = [process("other-replica", "r2"), process("m-replica", "r3", num_gpus=1)]  # no GPU here: it waits for ever
    ray.get(others[0].__ray_ready__.remote())
    assert CENSUS.alive() == {"r1"}
    assert CENSUS.processes().keys() == {"r1"}
    ray.kill(replica)
    while CENSUS.alive():
        await asyncio.sleep(0)
    for other in others:
        ray.kill(other)


async def test_what_may_answer_already_is_waited_for(replica: ActorHandle[Any]) -> None:
    """A coordinator that has just started must not commit behind the back of those it has not heard of."""
    made = Registry(1, COMMITTED)
    made.expect(CENSUS.processes())
    assert [(report.member, report.joining) for report in made.reports] == [("r1", False)]

    def holds(reports: list[Report]) -> bool:
        return all(report.holds(COMMITTED) for report in reports)

    assert not holds(await made.until(holds, 0.01))
    await made.sync(Report("r1", turn=1, epoch=5), replica, None)
    assert holds(await made.until(holds, 0.01))


async def test_a_member_hears_of_a_change_at_once(replica: ActorHandle[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "POLL_S", 60.0)
    made = Registry(7, COMMITTED)
    first = await made.sync(Report("r1"), replica, None)
    waiting = asyncio.create_task(made.sync(Report("r1"), replica, TargetRevision(first.term, made.target.revision)))
    await asyncio.sleep(0)
    assert not waiting.done()
    made.publish(staging=Staging("s", VERSION))
    target = await waiting
    assert target.staging == Staging("s", VERSION)
    again = await made.sync(
        Report("r1"), replica, TargetRevision(6, 1000)
    )  # what an earlier coordinator counted means nothing
    assert again.term == 7


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(Report("r1", epoch=4), id="behind"),
        pytest.param(Report("r1", epoch=5, receipt=receipt(1, "one")), id="another version"),
        pytest.param(Report("r1", epoch=5, receipt=receipt(2, "else")), id="other bytes"),
    ],
)
async def test_who_has_diverged_is_replaced(replica: ActorHandle[Any], report: Report) -> None:
    made = Registry(1, COMMITTED)
    await made.sync(report, replica, None)
    watch = asyncio.create_task(FailureDetector(made, CENSUS, patience=0.0, swapping=lambda: False).run())
    await died(replica)
    watch.cancel()


async def test_between_swaps_what_all_hold_is_settled(replica: ActorHandle[Any]) -> None:
    """The predecessor may have died after the commit point: its successor completes what it began."""
    made = Registry(2, COMMITTED)
    await made.sync(Report("r1", epoch=5, receipt=receipt(2, "two")), replica, None)
    watch = asyncio.create_task(FailureDetector(made, CENSUS, patience=60.0, swapping=lambda: False).run())
    while made.target.settled < 5:
        await made.changed(1.0)
    watch.cancel()


async def test_during_a_swap_the_swap_has_the_deadlines(replica: ActorHandle[Any]) -> None:
    made = Registry(1, COMMITTED)
    await made.sync(Report("r1", epoch=4), replica, None)
    looked = asyncio.Event()

    def swapping() -> bool:
        looked.set()
        return True

    task = asyncio.create_task(FailureDetector(made, CENSUS, patience=0.0, swapping=swapping).run())
    await looked.wait()
    assert ray.get(replica.__ray_ready__.remote())
    task.cancel()


async def test_a_coordinator_that_has_heard_of_nobody_ends_nobody(replica: ActorHandle[Any]) -> None:
    """It may be itself that is cut off."""
    made = Registry(1, COMMITTED)
    made.expect(CENSUS.processes())
    looks = 0

    def looked() -> bool:
        nonlocal looks
        looks += 1
        return False

    task = asyncio.create_task(FailureDetector(made, CENSUS, patience=0.0, swapping=looked).run())
    while looks < 3:
        await asyncio.sleep(0.1)
    assert ray.get(replica.__ray_ready__.remote())
    task.cancel()


async def test_a_coordinator_that_was_followed_ends_nobody(replica: ActorHandle[Any]) -> None:
    async def followed() -> None:
        raise Superseded(model="m", term=1, newer=2)

    made = Registry(1, COMMITTED, followed)
    await made.sync(Report("r1", epoch=4), replica, None)
    with pytest.raises(Superseded):
        await made.expel(["r1"])
    assert ray.get(replica.__ray_ready__.remote())
