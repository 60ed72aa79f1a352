"""All processes of the simulated cluster, and what can happen to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from aoti_serve.weights.version import Version
from tests.unit.weights.swap.simulated_coordinator import Coordinator
from tests.unit.weights.swap.simulated_members import Gateway, Member, Replica
from tests.unit.weights.swap.simulated_memory import GARBAGE, OLD, Durable


class Answer(NamedTuple):
    epoch: int
    version: Version


@dataclass(eq=False)
class Request:
    """On its way through a gateway, with that gateway's fence at the time; perhaps for the candidate."""

    gateway: Gateway
    fence: int
    candidate: Version | None = None
    answer: Answer | None = None


class Processes:
    """All processes and the store. `returned` is the epoch of the newest swap whose caller has been told of success.

    `withdrawn` are the candidates whose withdrawal has returned.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.store = Durable()
        self.members: dict[str, Member] = {}
        self.coordinators: list[Coordinator] = []
        self.returned = OLD.epoch
        self.withdrawn: set[int] = set()
        self._version = OLD.version.number
        self._turn = 0
        self._unseen: list[tuple[Coordinator, Member]] = []

    # who is there

    @property
    def coordinator(self) -> Coordinator:
        return self.coordinators[-1]

    @property
    def replicas(self) -> list[Replica]:
        return [member for member in self.members.values() if isinstance(member, Replica) and member.alive]

    @property
    def gateways(self) -> list[Gateway]:
        return [member for member in self.members.values() if isinstance(member, Gateway) and member.alive]

    @property
    def live(self) -> list[Member]:
        return [*self.replicas, *self.gateways]

    def replica(self, name: str) -> Replica:
        member = self.members[name]
        assert isinstance(member, Replica)
        return member

    @property
    def unreachable(self) -> set[str]:
        return {member.name for member in self.members.values() if member.cut}

    def serving(self) -> set[int]:
        """The versions that the ready replicas would answer with."""
        return {
            replica.memory.answering.number for replica in self.replicas if replica.ready and replica.memory.answering
        }

    # what can happen

    def new_version(self) -> Version:
        self._version += 1
        return Version(number=self._version, digest=f"sha of {self._version}")

    def take_over(self) -> Coordinator:
        self.coordinators.append(Coordinator(self))
        return self.coordinator

    def add_replica(self, name: str = "") -> Replica:
        replica = Replica(name or f"replica-{len(self.members)}", self)
        self.members[replica.name] = replica
        return replica

    def add_gateway(self, name: str = "") -> Gateway:
        gateway = Gateway(name or f"gateway-{len(self.members)}", self)
        self.members[gateway.name] = gateway
        return gateway

    def leave(self, member: Member) -> None:
        """It says that it will end soon."""
        member.membership.leave()
        self.hear_all(member)

    def hear_all(self, member: Member) -> None:
        """What it has said arrives."""
        while member.line.wire is not None and member.line.wire.up:
            member.line.wire.at.take(member)

    def kill(self, member: Member) -> None:
        member.alive = False
        member.task.cancel()
        member.membership.close()
        self.lose(member)

    def lose(self, member: Member) -> None:
        """Its connection ends; the coordinator sees that, unless they are cut off from each other."""
        wire = member.line.wire
        if wire is None:
            return
        member.line.cut()
        if not wire.at.alive:
            return
        if member.cut:
            self._unseen.append((wire.at, member))
        else:
            wire.at.lose(member)

    def cut_off(self, member: Member) -> None:
        """Neither words nor kills reach it, nor does anything of it reach the others."""
        member.cut_since = self.now

    def join_up(self, member: Member) -> None:
        """The network is whole again: what has ended meanwhile is seen."""
        member.cut_since = None
        unseen, self._unseen = self._unseen, []
        for coordinator, ended in unseen:
            if ended is member:
                coordinator.lose(member)
            else:
                self._unseen.append((coordinator, ended))

    def can_step(self, member: Member) -> bool:
        """It has something to do or to hear."""
        if not member.alive or member.paused or member.sick:
            return False
        if member.gate.occupied and not member.deaf:
            return True
        wire = member.line.wire
        if member.cut:
            return False
        if wire is None:
            return self._reachable() is not None
        return wire.at.alive and bool(wire.up or wire.down)

    def step(self, member: Member, at: Coordinator | None = None) -> None:
        """The next small thing that happens to it: a write ends, it connects, a word of it or to it arrives."""
        wire = member.line.wire
        writes = member.gate.occupied and not member.deaf
        if writes and (self._turn % 2 or wire is None or not (wire.up or wire.down)):
            member.gate.open()
        elif wire is None:
            coordinator = at or self._reachable()
            assert coordinator is not None
            coordinator.connect(member)
        elif wire.up:
            wire.at.take(member)
        elif not member.line.deliver():
            self.lose(member)

    def _reachable(self) -> Coordinator | None:
        """Where Serve sends a call: to the newest coordinator that runs."""
        return max((each for each in self.coordinators if each.alive), key=lambda each: each.term, default=None)

    # requests

    def ask(self, gateway: Gateway) -> Request:
        assert gateway.ready
        return Request(gateway, gateway.epoch)

    def answers(self, replica: Replica, request: Request) -> bool:
        """Whether it runs the request now: not before it has reached the fence."""
        return replica.alive and replica.ready and not replica.paused and replica.epoch >= request.fence

    def ask_candidate(self, gateway: Gateway) -> Request | None:
        """A canary request, if this gateway knows of a candidate."""
        out = gateway.fence.candidate
        return None if out is None else Request(gateway, gateway.epoch, out.version)

    def run(self, replica: Replica, request: Request) -> None:
        if request.candidate is not None:
            if request.candidate in (replica.memory.staged, replica.memory.answering):
                request.answer = Answer(replica.epoch, request.candidate)
            return
        version = replica.memory.answering
        assert version is not None
        assert version != GARBAGE, "P1: an answer from a slot that is being written"
        later = [self.store.history[epoch].version for epoch in self.store.history if epoch >= replica.epoch]
        assert version in later, "P1: an answer that does not belong to its epoch"
        request.answer = Answer(replica.epoch, version)

    def let_out(self, request: Request) -> bool:
        """Whether the gateway passes the answer on; checks that it may."""
        gateway, answer = request.gateway, request.answer
        assert answer is not None
        if not gateway.alive or gateway.paused or not gateway.membership.pauses.fresh:
            return False
        if not gateway.fence.lets_out(answer.epoch):
            return False
        if request.candidate is not None and not gateway.fence.trusts(request.candidate.number):
            return False
        assert answer.version.number not in self.withdrawn, "P3: an answer of a candidate after its withdrawal"
        assert answer.epoch >= self.returned, f"P3: epoch {answer.epoch} after swap {self.returned} has returned"
        return True
