"""The coordinator's server for its members: it tells the rules what they report, and carries out the orders."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from aoti_serve.address import Address
from aoti_serve.cluster.calls import spawn
from aoti_serve.cluster.membership.liveness import LiveActors, Liveness
from aoti_serve.cluster.membership.shared_check import SharedCheck
from aoti_serve.cluster.membership.wire import report_of, reroute_bytes, target_bytes
from aoti_serve.errors import AotiServeError, LedElsewhere, StoreFailed, Superseded
from aoti_serve.link.control import ControlEnd, ControlServer
from aoti_serve.link.frames import Kind
from aoti_serve.weights.swap.coordination import Coordination
from aoti_serve.weights.swap.members import MemberTable
from aoti_serve.weights.swap.orders import Commit, Expel, Order, Publish, Reroute
from aoti_serve.weights.swap.states import ChangeName, State
from aoti_serve.weights.swap.story import StoryEvent
from aoti_serve.weights.swap.swap import Swap
from aoti_serve.weights.swap.target import Exposure, Report
from aoti_serve.weights.swap.timeouts import HEARTBEAT_S, TICK_S, SwapDeadlines
from aoti_serve.weights.version import Committed, Version

logger = logging.getLogger("ray.serve")
SILENT_S = 4 * HEARTBEAT_S
CommitVersion = Callable[[Version], Awaitable[Committed]]


class MemberServer:
    """Runs in the coordinator's event loop, as the handler of its members' connections.

    `check_term` raises Superseded once there is a newer coordinator. `revision` counts changes of any kind.
    """

    def __init__(
        self,
        term: int,
        committed: Committed,
        deadlines: SwapDeadlines,
        live: LiveActors,
        check_term: Callable[[], Awaitable[None]],
        *,
        processors: bool = False,
    ) -> None:
        self.rules = Coordination(term, committed, deadlines, time.monotonic, processors=processors)
        self.revision = 0
        self.liveness = Liveness(self.rules, live, self._silent, self._carry_out)
        self._check_term = check_term
        self._newest = SharedCheck(check_term)
        self._server = ControlServer(self, HEARTBEAT_S)
        self._ends: dict[str, ControlEnd] = {}
        self._gateways: set[ControlEnd] = set()
        self._tcp: tuple[str, int] | None = None
        self._opening = asyncio.Lock()
        self._changed = asyncio.Event()
        self._commit_version: CommitVersion | None = None
        self._state: State | None = None

    @property
    def table(self) -> MemberTable:
        return self.rules.table

    async def open(self) -> None:
        """Listen for members, and count those in that Ray knows already."""
        await self._server.open()
        await self.liveness.begin()

    async def address(self, node: str, host: str, asking: str) -> Address:
        """The address of this server on `node`, which is `host`, for a member on the node `asking`."""
        async with self._opening:
            if asking != node and self._tcp is None:
                self._tcp = host, await self._server.open_to_nodes(host)
        return Address("coordinator", node, self._server.path, 0, self._server.key, self._tcp)

    async def run(self) -> None:
        """Let the rules look at the clock; for ever, as a task."""
        while True:
            await asyncio.sleep(TICK_S)
            self.rules.tick()
            self._carry_out()

    def begin(
        self,
        version: Version,
        commit: CommitVersion,
        *,
        without_replicas: bool = False,
        exposure: Exposure | None = None,
        name: ChangeName | None = None,
        resumed: bool = False,
    ) -> Swap:
        """Start a swap; see `Swap`. `commit` makes the version the committed one."""
        self._commit_version = commit
        swap = self.rules.begin(version, exposure, without_replicas=without_replicas, name=name, resumed=resumed)
        self._carry_out()
        return swap

    def promote(self, swap: Swap, commit: CommitVersion) -> None:
        """Let a swap that is held go on to its commit."""
        self._commit_version = commit
        swap.promote()
        self._carry_out()

    def withdraw(self, swap: Swap, error: AotiServeError) -> None:
        """Free what a swap that is held has staged."""
        swap.withdraw(error)
        self._carry_out()

    def expose(self, swap: Swap, exposure: Exposure) -> None:
        swap.expose(exposure)
        self._carry_out()

    def end_trial(self) -> None:
        self.table.try_out(None)
        self._carry_out()

    async def rest(self, swap: Swap, *, held: bool = True) -> None:
        """Wait until the swap has ended, or is `held`, if that is to count."""
        while not (swap.ended or (held and swap.held)):
            await self._changed.wait()

    async def finish(self) -> None:
        """Wait until the swap that has begun has ended, or is held; in the first case let the next one begin."""
        if (swap := self.rules.swap) is not None:
            await self.rest(swap)
            if swap.ended:
                self.rules.finish()

    def relabel(self, labels: Mapping[str, int]) -> None:
        """Publish the labels that can be moved, with the versions that they name."""
        self.table.relabel(labels)
        self._carry_out()

    def story(self) -> tuple[StoryEvent, ...]:
        """With times in UTC."""
        shift = time.time() - time.monotonic()
        return tuple(event.model_copy(update={"at": round(event.at + shift, 3)}) for event in self.rules.story.events())

    def tell(self, event: str) -> None:
        """Add an event of the coordinator's own to the story."""
        self.rules.story.tell(event)
        self.touch()

    def touch(self) -> None:
        """Wake all tasks that wait for a change."""
        self.revision += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, seconds: float) -> None:
        """Wait for any change, of a report, of the target or of a swap's progress; no longer than so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def opened(self, end: ControlEnd) -> None:
        end.heard = time.monotonic()
        self._ends[end.name] = end
        self.rules.connect(end.name)
        end.answer(0, Kind.TARGET, target_bytes(self.table.target))

    def reported(self, end: ControlEnd, call: int, report: memoryview) -> None:
        self._hear(end, report_of(report))
        if call:
            spawn(self._answer(end, call))

    def beaten(self, end: ControlEnd) -> None:
        end.heard = time.monotonic()
        self.rules.beat()

    def ended(self, end: ControlEnd) -> None:
        self._gateways.discard(end)
        if self._ends.get(end.name) is end:
            del self._ends[end.name]
            self.rules.disconnect(end.name, cut=end.cut)
            self._carry_out()

    def _hear(self, end: ControlEnd, report: Report) -> None:
        end.heard = time.monotonic()
        if report.is_gateway and not report.joining and end not in self._gateways:
            self._gateways.add(end)
            end.answer(0, Kind.ROUTE, reroute_bytes(True, self.table.addresses.values()))
        if self.rules.hear(report):
            self.touch()
        self._carry_out()

    async def _answer(self, end: ControlEnd, call: int) -> None:
        """Answer once a check of the term has passed that began after the question."""
        try:
            await self._newest.passed()
        except LedElsewhere:  # no other coordinator has these members
            end.answer(call, Kind.TARGET, target_bytes(self.table.target))
        except Superseded as error:
            end.abort(error)
        except StoreFailed as error:  # this may not be the newest coordinator: the member asks again
            logger.warning(str(error))
        else:
            end.answer(call, Kind.TARGET, target_bytes(self.table.target))

    def _silent(self) -> set[str]:
        """Connected members that were not heard for long: stopped, cut off, or on a machine without power."""
        oldest = time.monotonic() - SILENT_S
        return {name for name, end in self._ends.items() if end.heard < oldest}

    def _carry_out(self) -> None:
        orders = self.rules.orders()
        for order in orders:
            self._do(order)
        state = self.rules.swap.state if self.rules.swap else None
        if orders or state is not self._state:
            self._state = state
            self.touch()

    def _do(self, order: Order) -> None:
        match order:
            case Publish(target):
                self._server.send_to(self._ends.values(), Kind.TARGET, target_bytes(target))
            case Reroute(added, removed):
                self._server.send_to(self._gateways, Kind.ROUTE, reroute_bytes(False, added, removed))
            case Commit(version):
                spawn(self._commit(version))
            case Expel(members):
                spawn(self._expel(members))

    async def _commit(self, version: Version) -> None:
        swap = self.rules.swap
        assert swap is not None
        assert self._commit_version is not None
        try:
            committed = await self._commit_version(version)
        except BaseException as error:
            swap.refused(error)
        else:
            swap.stored(committed)
        self._carry_out()

    async def _expel(self, members: tuple[str, ...]) -> None:
        try:
            await self._check_term()
            await self.liveness.kill(members)
        except Superseded as error:
            self.rules.superseded(error)
        except Exception as error:  # the store or the control store is away: the rules give the order again
            logger.warning(f"{', '.join(members)} cannot be ended now: {error!r}")
        self._carry_out()
