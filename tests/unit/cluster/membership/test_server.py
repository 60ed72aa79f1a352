"""Members and their coordinator over real connections."""

from __future__ import annotations

import asyncio

import pytest

from aoti_serve.address import Address
from aoti_serve.cluster.membership import liveness
from aoti_serve.cluster.membership import server as server_module
from aoti_serve.cluster.membership.member import announce_loading
from aoti_serve.cluster.membership.pauses import boottime
from aoti_serve.cluster.membership.shared_check import SharedCheck
from aoti_serve.errors import StageFailed, StoreFailed, UnknownTensor
from aoti_serve.weights.swap import members, timeouts
from aoti_serve.weights.swap.states import State
from aoti_serve.weights.swap.target import Report, Target
from aoti_serve.weights.swap.timeouts import SwapDeadlines
from tests.unit.cluster.membership.members import NEXT, PATIENCE_S, Process, a_cluster, is_settled


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator looks at the clock, and for members that have ended, ten times as often."""
    for module in (timeouts, server_module, liveness):
        monkeypatch.setattr(module, "TICK_S", 0.05)


async def test_members_join_and_follow_a_swap() -> None:
    async with a_cluster(replicas=3, gateways=2) as cluster:
        assert {member.fence.epoch for member in cluster.members.values()} == {4}
        assert is_settled(await cluster.swap())
        assert {member.fence.settled_epoch for member in cluster.members.values()} == {5}


async def test_gateways_hear_of_replicas_that_come_and_go() -> None:
    async with a_cluster(replicas=2, gateways=1) as cluster:
        gateway = cluster.members["g0"]
        await cluster.until(lambda: {address.replica for address in gateway.addresses} == {"r0", "r1"})
        await cluster.add("r2", runners=1)
        await cluster.until(lambda: len(gateway.addresses) == 3)
        cluster.end("r0")
        await cluster.until(lambda: {address.replica for address in gateway.addresses} == {"r1", "r2"})


async def test_the_cluster_is_asked_who_lives_only_when_a_connection_has_ended() -> None:
    async with a_cluster() as cluster:
        looks = cluster.ray.looks
        assert is_settled(await cluster.swap())
        assert cluster.ray.looks == looks
        cluster.end("r0")
        await cluster.until(lambda: "r0" not in {report.member for report in cluster.server.table.reports})
        assert cluster.ray.looks > looks


async def test_a_replica_that_ends_while_it_stages_fails_the_swap() -> None:
    class Slow(Process):
        async def reconcile(self, target: Target) -> None:
            if target.staging is not None:
                await asyncio.Event().wait()
            await super().reconcile(target)

    async with a_cluster() as cluster:
        cluster.members["slow"] = slow = Slow("slow", 1, cluster)
        cluster.ray.living.add("slow")
        await slow.membership.join()
        swapping = asyncio.create_task(cluster.swap())
        await cluster.until(lambda: any(report.staged for report in cluster.server.table.reports))
        cluster.end("slow")
        swap = await swapping
        assert swap.state is State.ABORTED
        assert isinstance(swap.error, StageFailed)
        assert swap.error.facts["replica"] == "slow"
        assert any("slow" in line for line in swap.error.facts["story"]), "it tells what came before"


async def test_members_go_on_with_the_next_coordinator() -> None:
    async with a_cluster() as cluster:
        assert is_settled(await cluster.swap())
        committed = cluster.server.table.target.committed
        await cluster.stop()
        await cluster.start(committed)
        assert cluster.server.table.behind == {"r0", "r1", "g0"}, "nothing is known of them yet"
        await cluster.until(lambda: not cluster.server.table.behind)
        swap = await cluster.swap(NEXT.model_copy(update={"number": 9}))
        assert is_settled(swap)


async def test_a_coordinator_that_was_followed_admits_none() -> None:
    async with a_cluster() as cluster:
        cluster.terms += 1  # another one has opened the store
        newcomer = Process("new", 1, cluster)
        joining = asyncio.create_task(newcomer.membership.join())
        story = cluster.server.rules.story
        await cluster.until(lambda: ("new", "connection cut") in [(e.member, e.event) for e in story.events()])
        assert not joining.done()
        joining.cancel()
        newcomer.membership.close()


async def test_a_coordinator_that_was_followed_expels_none() -> None:
    async with a_cluster(deadlines=SwapDeadlines(commit=0.1)) as cluster:
        cluster.terms += 1
        server = cluster.server
        server.table.hear(Report("r0", turn=10**6, epoch=3))
        await cluster.until(lambda: any("superseded" in event.event for event in server.rules.story.events()))


async def test_an_order_to_end_a_process_that_fails_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "KILL_AGAIN_S", 0.05)
    async with a_cluster(deadlines=SwapDeadlines(commit=0.1)) as cluster:
        cluster.ray.away = True
        cluster.members["r0"].membership.close()
        await cluster.until(lambda: "r0" in cluster.server.table.away)
        cluster.server.table.hear(Report("r0", turn=10**6, epoch=3))
        await cluster.until(lambda: len(cluster.ray.kills) > 1)
        assert cluster.ray.kills == [{"r0"}] * len(cluster.ray.kills)


async def test_a_coordinator_that_starts_knows_of_those_that_may_live() -> None:
    async with a_cluster() as cluster:
        await cluster.stop()
        cluster.ray.dead_lately = {"g9": 60.0}
        await cluster.start(deadlines=SwapDeadlines(confirm=0.2))
        await cluster.until(lambda: not cluster.server.table.behind)
        swap = await cluster.swap()
        assert swap.state is State.UNSETTLED
        cluster.ray.dead_lately = {}
        await cluster.until(lambda: cluster.server.rules.settled)


async def test_a_coordinator_that_cannot_read_its_store_confirms_none() -> None:
    async with a_cluster() as cluster:
        server = cluster.server
        server._newest = SharedCheck(unreadable)
        newcomer = Process("new", 1, cluster)
        joining = asyncio.create_task(newcomer.membership.join())
        await cluster.until(lambda: "new" in server.table.heard)
        await asyncio.wait([joining], timeout=0.2)
        assert not joining.done()
        joining.cancel()
        newcomer.membership.close()


async def unreadable() -> None:
    raise StoreFailed(path="/store", detail="it is gone")


async def test_one_that_loads_is_known_and_not_waited_for() -> None:
    async with a_cluster() as cluster:
        loading = Process("new", 1, cluster)
        async with announce_loading(loading):
            await cluster.until(lambda: "new" in cluster.server.table.heard)
            assert is_settled(await cluster.swap())


async def test_a_defect_of_the_line_ends_a_join() -> None:
    class Astray(Process):
        async def _find(self) -> Address:
            raise ZeroDivisionError("a defect")

    async with a_cluster() as cluster:
        newcomer = Astray("new", 1, cluster)
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(PATIENCE_S):
                await newcomer.membership.join()
        newcomer.membership.close()


async def test_one_that_leaves_says_so() -> None:
    async with a_cluster() as cluster:
        cluster.members["r0"].membership.leave()
        await cluster.until(lambda: _report(cluster.server.table.reports, "r0").leaving)


async def test_a_stage_that_is_withdrawn_is_told_to_the_member_at_once() -> None:
    """Also while it reconciles: over its connection targets come at any time."""

    withdrawn = asyncio.Event()

    class Busy(Process):
        def withdraw(self, target: Target) -> None:
            if target.staging is None:
                withdrawn.set()
            else:
                withdrawn.clear()

        async def reconcile(self, target: Target) -> None:
            if target.staging is not None:
                await withdrawn.wait()
            await super().reconcile(target)

    async with a_cluster() as cluster:
        cluster.members["busy"] = busy = Busy("busy", 1, cluster)
        await busy.membership.join()
        cluster.members["r0"].broken = UnknownTensor(name="w")
        swap = await cluster.swap()
        assert isinstance(swap.error, StageFailed)
        assert isinstance(swap.error.facts["cause"], UnknownTensor)


async def test_what_was_asked_is_not_known_before_it_was_done() -> None:
    """A member that has woken up, and cannot do yet what the target asks for, goes on holding its answers back."""
    async with a_cluster() as cluster:
        member = cluster.members["g0"]
        await member.membership.pauses.refreshed()
        member.lost = True
        member.membership.pauses.woke = boottime()
        member.membership.pauses._fresh.clear()
        member.membership._news.set()
        await cluster.until(lambda: member.tries > 1)
        assert not member.membership.pauses.fresh
        member.lost = False
        async with asyncio.timeout(PATIENCE_S):
            await member.membership.pauses.refreshed()


def _report(reports: list[Report], member: str) -> Report:
    [found] = [report for report in reports if report.member == member]
    return found
