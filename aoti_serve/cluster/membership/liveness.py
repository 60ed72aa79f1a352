"""Looks for members that have ended, in the cluster's books, and ends those that are expelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from aoti_serve.cluster.membership.live_actors import KILL_S, LiveActors
from aoti_serve.weights.swap.coordination import Coordination
from aoti_serve.weights.swap.members import ENDED_S
from aoti_serve.weights.swap.timeouts import TICK_S

logger = logging.getLogger("ray.serve")
LONGEST_LOOK_S = 4.0  # between two looks, while there is a reason for them


class Liveness:
    """Runs in the coordinator's event loop; Ray is asked in threads. While all members are heard it asks nothing.

    `silent` are members that are connected and not heard of. `changed` is called when the rules have been told.
    """

    def __init__(
        self, rules: Coordination, live: LiveActors, silent: Callable[[], set[str]], changed: Callable[[], None]
    ) -> None:
        self._rules = rules
        self._live = live
        self._silent = silent
        self._changed = changed
        self._nodes: dict[str, str] = {}  # where members were seen last

    async def begin(self) -> None:
        """Tell the rules which processes may answer already, and which may do so though they are taken for dead."""
        self._nodes = await asyncio.to_thread(self._live.alive)
        self._rules.table.expect(self._nodes)
        self._rules.doubt(await asyncio.to_thread(self._live.doubtful, ENDED_S))

    async def run(self) -> None:
        """Look while there is a reason to, less and less often; for ever, as a task."""
        pause = TICK_S
        while True:
            await asyncio.sleep(pause)
            if not self._suspects() and not self._rules.killed_before(KILL_S):
                pause = TICK_S
                continue
            pause = min(2 * pause, LONGEST_LOOK_S)
            try:
                await self._look()
            except Exception as error:  # the control store is away: members that were alive still count
                logger.warning(f"the cluster's books cannot be read now: {error!r}")

    async def kill(self, members: Collection[str]) -> None:
        """End those of the members that have not recovered meanwhile."""
        ending = [member for member in members if member in self._rules.table.ending]
        await asyncio.to_thread(self._live.kill, ending)
        self._rules.killed(ending)

    async def _look(self) -> None:
        suspects, killed = self._suspects(), self._rules.killed_before(KILL_S)
        alive = await asyncio.to_thread(self._live.alive)
        gone = {member: self._node_of(member) for member in suspects - alive.keys()}
        self._nodes = alive
        unreachable = await asyncio.to_thread(self._live.unreachable, gone) if gone else set()
        self._rules.remove_ended(set(alive), suspects & self._suspects(), unreachable)
        if killed:
            doubtful: Mapping[str, float] = await asyncio.to_thread(self._live.doubtful, ENDED_S)
            self._rules.confirm(killed - doubtful.keys() - alive.keys())
        self._changed()

    def _node_of(self, member: str) -> str:
        report = self._rules.table.report_of(member)
        return (report.node if report else "") or self._nodes.get(member, "")

    def _suspects(self) -> set[str]:
        return self._rules.table.away | self._silent()
