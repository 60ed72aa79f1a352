"""Swaps of 10 to 10,000 members in simulated time, by the product's own classes.

Real are `Coordination` and all below it, the messages as bytes, and each member's `MemberSession`. Simulated are the
network (a millisecond or so), the time that a stage takes (one member in a hundred is ten times slower), connections
that break with what is on their way, and a coordinator that is replaced in the middle of a swap.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

from aoti_serve.address import Address
from aoti_serve.cluster.membership.wire import report_bytes, report_of, target_bytes, target_of
from aoti_serve.weights.swap.coordination import Coordination
from aoti_serve.weights.swap.follower import Fence, MemberSession
from aoti_serve.weights.swap.orders import Commit, Expel, Publish
from aoti_serve.weights.swap.states import State
from aoti_serve.weights.swap.swap import Swap
from aoti_serve.weights.swap.target import Receipt, Report, Target
from aoti_serve.weights.swap.timeouts import HEARTBEAT_S, TICK_S, SwapDeadlines
from aoti_serve.weights.version import Committed, Version

T = TypeVar("T")
SIZES = (10, 100, 1_000, 10_000)
SWAPS = 5
GATEWAYS = 0.1  # of all members
LATENCY_S = 0.001
STAGE_S = 1.0
SLOW, SLOWER = 0.01, 10.0  # how many members, and how many times
LOSS = 0.0005  # of all messages, with their connection
RETRY_S = (0.05, 0.15)
DEADLINES = SwapDeadlines()


@dataclass(frozen=True)
class ScaleRun:
    """`swap_s` are simulated seconds of each swap; `cpu_us` is CPU of the coordinator per member and swap.

    `recovery_s` is how long after the replacement of the coordinator all members had reported to the new one.
    """

    members: int
    swap_s: list[float]
    cpu_us: float
    messages: float  # per member and swap
    idle_cpu: float  # share of a core, while nothing but heartbeats happens
    recovery_s: float
    broken: int


class Member:
    """One process: a replica that takes its time to stage, or a gateway."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.name = f"member-{number:05}"
        self.runners = int(chance.random() >= GATEWAYS)
        self.stage_s = STAGE_S * chance.lognormvariate(0.0, 0.2) * (SLOWER if chance.random() < SLOW else 1.0)
        self.session = MemberSession()
        self.session.join()
        self.fence = Fence()
        self.connection = 0  # which one; what was sent over an earlier one does not arrive
        self.staged: str | None = None
        self.busy = False
        self.committed: Committed | None = None

    def report(self) -> Report:
        held = self.fence.report(self.name, f"node-{hash(self.name) % 64}")
        if self.runners:
            address = Address(self.name, held.node, f"/tmp/{self.name}", 1, b"k" * 32)
            held = replace(held, runners=1, staged=self.staged, address=address, receipt=self._receipt())
        return self.session.report(held)

    def follow(self, target: Target) -> float:
        """Seconds until it has done what the target asks for."""
        staging = target.staging
        wanted = staging.swap if staging else None
        seconds = self.stage_s if self.runners and wanted not in (None, self.staged) else LATENCY_S
        self.fence.follow(target)
        self.staged, self.committed = wanted, target.committed
        self.session.follow(target, self.fence.report(self.name))
        return seconds

    def _receipt(self) -> Receipt | None:
        if self.committed is None:
            return None
        version = self.committed.version
        return Receipt(
            replica=self.name,
            node="n",
            pid=1,
            device="cpu",
            gpu_ids=(),
            epoch=self.committed.epoch,
            version=version.number,
            digest=version.digest,
            previous=version.number - 1,
            nbytes=10**9,
            stage_milliseconds=1000.0,
            commit_milliseconds=1.0,
        )


class Simulation:
    """Time jumps from one event to the next. `cpu` is what the coordinator's part has taken, in real seconds."""

    def __init__(self, members: int, seed: int = 0) -> None:
        self.now, self.cpu, self.messages, self.broken = 0.0, 0.0, 0, 0
        self.chance = random.Random(seed)
        self.members = {member.name: member for member in (Member(n, self.chance) for n in range(members))}
        self.committed = Committed(epoch=1, version=Version(number=1, digest="1" * 64))
        self.term = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._ticking = 0
        self.replace_coordinator()

    def replace_coordinator(self) -> None:
        """The one before is gone, with all its connections; members come back after a moment."""
        self.term += 1
        self.rules = Coordination(self.term, self.committed, DEADLINES, lambda: self.now)
        self.rules.table.expect(self.members)
        self._ticking += 1
        self._tick(self._ticking)
        for member in self.members.values():
            member.connection += 1
            self.after(self.chance.uniform(*RETRY_S), lambda member=member: self._connect(member))  # type: ignore[misc]

    def swap(self) -> Swap:
        """Run one to its end."""
        number = self.rules.table.target.committed.version.number + 1
        swap = self.measured(lambda: self.rules.begin(Version(number=number, digest=f"{number:064}", nbytes=10**9)))
        self.carry_out()
        self.run(lambda: swap.ended)
        self.rules.finish()
        return swap

    def run(self, over: Callable[[], bool]) -> None:
        while not over():
            self.now, _, event = heapq.heappop(self._events)
            event()

    def rest(self, seconds: float) -> None:
        until = self.now + seconds
        self.run(lambda: self._events[0][0] > until)
        self.now = until

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), event))

    def measured(self, work: Callable[[], T]) -> T:
        started = time.thread_time()
        result = work()
        self.cpu += time.thread_time() - started
        return result

    def carry_out(self) -> None:
        for order in self.measured(self.rules.orders):
            match order:
                case Publish(target):
                    message = self.measured(lambda target=target: target_bytes(target))  # type: ignore[misc]
                    for member in self.members.values():
                        self._send_down(member, message)
                case Commit(version):
                    before = self.rules.table.target.committed
                    self.committed = Committed(epoch=before.epoch + 1, version=version, previous=before.version)
                    self.after(0.005, lambda committed=self.committed: self._stored(committed))  # type: ignore[misc]
                case Expel(members):
                    raise AssertionError(f"{members} are late")

    def _stored(self, committed: Committed) -> None:
        swap = self.rules.swap
        assert swap is not None
        self.measured(lambda: swap.stored(committed))
        self.carry_out()

    def _tick(self, ticking: int) -> None:
        if ticking == self._ticking:
            self.measured(self.rules.tick)
            self.carry_out()
            self.after(TICK_S, lambda: self._tick(ticking))

    def _connect(self, member: Member) -> None:
        self.measured(lambda: self.rules.connect(member.name))
        self._send_down(member, target_bytes(self.rules.table.target))
        self._send_up(member)
        self._beat(member, member.connection)

    def _beat(self, member: Member, connection: int) -> None:
        if connection == member.connection:
            self.measured(self.rules.beat)
            self.after(HEARTBEAT_S, lambda: self._beat(member, connection))

    def _send_down(self, member: Member, message: bytes) -> None:
        if self._passes(member):
            connection = member.connection
            self.after(self._latency(), lambda: self._follow(member, message, connection))

    def _follow(self, member: Member, message: bytes, connection: int) -> None:
        if connection == member.connection and member.session.take(target_of(memoryview(message))):
            self._go_on(member)

    def _go_on(self, member: Member) -> None:
        """One target at a time, and always the newest."""
        target = member.session.newest
        if member.busy or target is None or member.session.followed == target.at:
            return
        member.busy = True
        self.after(member.follow(target), lambda: self._done(member))

    def _done(self, member: Member) -> None:
        member.busy = False
        self._send_up(member)
        self._go_on(member)

    def _send_up(self, member: Member) -> None:
        if self._passes(member):
            message, connection = report_bytes(member.report()), member.connection
            self.after(self._latency(), lambda: self._hear(member, message, connection))

    def _hear(self, member: Member, message: bytes, connection: int) -> None:
        if connection == member.connection:
            self.measured(lambda: self.rules.hear(report_of(memoryview(message))))
            self.carry_out()

    def _passes(self, member: Member) -> bool:
        self.messages += 1
        if self.chance.random() >= LOSS:
            return True
        self.broken += 1
        member.connection += 1
        self.measured(lambda: self.rules.disconnect(member.name))
        self.after(self.chance.uniform(*RETRY_S), lambda: self._connect(member))
        return False

    def _latency(self) -> float:
        return LATENCY_S * self.chance.lognormvariate(0.0, 0.5)


def measure(members: int) -> ScaleRun:
    """Some swaps, a rest, and a coordinator that is replaced in the middle of another swap."""
    simulation = Simulation(members)
    simulation.run(lambda: not simulation.rules.table.behind)
    simulation.cpu, simulation.messages = 0.0, 0
    took = []
    for _ in range(SWAPS):
        started, swap = simulation.now, simulation.swap()
        assert swap.state is State.SETTLED, swap.error
        took.append(simulation.now - started)
    cpu, messages = simulation.cpu, simulation.messages
    simulation.cpu = 0.0
    simulation.rest(20.0)
    idle = simulation.cpu / 20.0
    recovery = _replaced(simulation)
    return ScaleRun(
        members,
        [round(seconds, 3) for seconds in took],
        round(1e6 * cpu / members / SWAPS, 1),
        round(messages / members / SWAPS, 2),
        round(idle, 5),
        round(recovery, 3),
        simulation.broken,
    )


def _replaced(simulation: Simulation) -> float:
    simulation.rules.begin(Version(number=10**6, digest="f" * 64))
    simulation.carry_out()
    simulation.rest(STAGE_S / 2)
    started = simulation.now
    simulation.replace_coordinator()
    simulation.run(lambda: not simulation.rules.table.behind)
    recovery = simulation.now - started
    assert simulation.swap().state is State.SETTLED
    return recovery
