"""Checks by Ray's control store which processes are alive, and which have ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from aoti_serve.cluster.ray_private import actors_in
from aoti_serve.weights.swap.coordination import Coordination
from aoti_serve.weights.swap.members import ENDED_S
from aoti_serve.weights.swap.timeouts import TICK_S

logger = logging.getLogger("ray.serve")
PREFIX = "SERVE_REPLICA::"
NAMESPACE = "serve"
KILL_S = 10.0  # a node that hears of it ends a process within 5 s
LONGEST_LOOK_S = 4.0  # between two looks, while there is a reason for them


class LiveActors:
    """Knows which Serve replicas of some deployments of one application are alive. Its calls block for a millisecond.

    It asks Ray's global control store, which knows of every process until it has seen it end. Serve's `broadcast()` and
    its status leave out replicas that are unavailable for a moment, and Serve's controller may be dead.
    """

    def __init__(self, application: str, deployments: Iterable[str]) -> None:
        self._prefixes = tuple(f"{PREFIX}{application}#{deployment}#" for deployment in deployments)

    def alive(self) -> dict[str, str]:
        """The replicas whose processes run, by their unique ids, and on which node; none that waits for a place.

        Raises if the control store cannot be asked now.
        """
        return {_member(actor): actor["Address"]["NodeID"] for actor in self._ours("ALIVE")}

    def doubtful(self, seconds: float) -> dict[str, float]:
        """The replicas that Ray took for dead lately, and that may live: how many seconds ago that was.

        It could not reach their node, or has just told the node to end them.
        """
        nodes, now = _reachable_nodes(), time.time()
        ages = {_member(actor): (now - actor["EndTime"] / 1e3, actor) for actor in self._ours("DEAD")}
        return {
            member: max(0.0, age)
            for member, (age, actor) in ages.items()
            if age < (KILL_S if actor["Address"]["NodeID"] in nodes else seconds)
        }

    def unreachable(self, members: Mapping[str, str]) -> set[str]:
        """The members, given by their nodes, whose node Ray cannot reach."""
        nodes = _reachable_nodes()
        return {member for member, node in members.items() if node and node not in nodes}

    def kill(self, members: Iterable[str]) -> None:
        """End the processes of these members; some may have ended already."""
        names = {_member(actor): actor["Name"] for actor in self._ours("ALIVE")}
        for member in members:
            if member in names:
                with suppress(ValueError):  # it has just ended
                    ray.kill(ray.get_actor(names[member], NAMESPACE))

    def _ours(self, state: str) -> list[dict[str, Any]]:
        return [actor for actor in actors_in(state) if actor["Name"].startswith(self._prefixes)]


def _member(actor: Mapping[str, Any]) -> str:
    name: str = actor["Name"]
    return name.rpartition("#")[2]


def _reachable_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@dataclass
class Liveness:
    """Tells the rules which members have ended, and kills those that are expelled.

    Runs in the coordinator's event loop, and asks Ray in threads; nothing while all members are heard. `silent` returns
    connected members that were not heard for long. `changed` is called when the rules have been told.
    """

    rules: Coordination
    live: LiveActors
    silent: Callable[[], set[str]]
    changed: Callable[[], None]
    _nodes: dict[str, str] = field(default_factory=dict)  # where members were seen last

    async def begin(self) -> None:
        """Tell the rules which processes may answer already, also of those that Ray takes for dead."""
        self._nodes = await asyncio.to_thread(self.live.alive)
        self.rules.table.expect(self._nodes)
        self.rules.doubt(await asyncio.to_thread(self.live.doubtful, ENDED_S))

    async def run(self) -> None:
        """Ask Ray while there is a reason to, less and less often; for ever, as a task."""
        pause = TICK_S
        while True:
            await asyncio.sleep(pause)
            if not self._suspects() and not self.rules.killed_before(KILL_S):
                pause = TICK_S
                continue
            pause = min(2 * pause, LONGEST_LOOK_S)
            try:
                await self._look()
            except Exception as error:  # the control store is away: members that were alive still count
                logger.warning(f"Ray's control store cannot be read now: {error!r}")

    async def kill(self, members: Collection[str]) -> None:
        """End those of the members that have not recovered meanwhile."""
        ending = [member for member in members if member in self.rules.table.ending]
        await asyncio.to_thread(self.live.kill, ending)
        self.rules.killed(ending)

    async def _look(self) -> None:
        suspects, killed = self._suspects(), self.rules.killed_before(KILL_S)
        alive = await asyncio.to_thread(self.live.alive)
        gone = {member: self._node_of(member) for member in suspects - alive.keys()}
        self._nodes = alive
        unreachable = await asyncio.to_thread(self.live.unreachable, gone) if gone else set()
        self.rules.remove_ended(set(alive), suspects & self._suspects(), unreachable)
        if killed:
            doubtful: Mapping[str, float] = await asyncio.to_thread(self.live.doubtful, ENDED_S)
            self.rules.confirm(killed - doubtful.keys() - alive.keys())
        self.changed()

    def _node_of(self, member: str) -> str:
        report = self.rules.table.report_of(member)
        return (report.node if report else "") or self._nodes.get(member, "")

    def _suspects(self) -> set[str]:
        return self.rules.table.away | self.silent()
