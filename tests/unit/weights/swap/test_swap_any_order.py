"""All new or all old, whatever happens in whichever order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.unit.weights.swap.simulated_cluster import World, a_world
from tests.unit.weights.swap.simulated_coordinator import Coordinator
from tests.unit.weights.swap.simulated_members import Member
from tests.unit.weights.swap.simulated_memory import settled
from tests.unit.weights.swap.simulated_processes import Request
from tests.unit.weights.swap.swap_faults import AT_A_MEMBER, AT_THE_COORDINATOR

T = TypeVar("T")
P = ParamSpec("P")

INDEX = st.integers(0, 5)
STEPS = st.integers(0, 40)
MOST = 5  # processes of a kind


def _pick(among: Sequence[T], number: int) -> T:
    return among[number % len(among)]


def played(
    method: Callable[Concatenate[AnyOrder, P], Coroutine[None, None, None]],
) -> Callable[Concatenate[AnyOrder, P], None]:
    """A rule that happens in the world's event loop, which has its way then, as far as nothing waits for a turn."""

    async def then_settled(machine: AnyOrder, *args: P.args, **kwargs: P.kwargs) -> None:
        await method(machine, *args, **kwargs)
        await settled()
        machine.world.check()

    def in_loop(machine: AnyOrder, /, *args: P.args, **kwargs: P.kwargs) -> None:
        machine.runner.run(then_settled(machine, *args, **kwargs))

    return wraps(method)(in_loop)


class AnyOrder(RuleBasedStateMachine):
    """Hypothesis chooses what happens next; the world checks P1, P3, P5 as it goes, P2, P6 and progress at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = self.runner.run(a_world(replicas=0, gateways=0))
        self.requests: list[Request] = []

    def teardown(self) -> None:
        try:
            self.runner.run(self._the_end())
        finally:
            self.runner.run(self.world.close())
            self.runner.close()

    async def _the_end(self) -> None:
        self._let_all_out()
        await self.world.check_recovers()
        self._let_all_out()

    def _let_all_out(self) -> None:
        for request in self.requests:
            if request.answer is not None:
                self.world.let_out(request)

    @property
    def _running(self) -> list[Coordinator]:
        return [each for each in self.world.coordinators if each.alive]

    @initialize(steps=STEPS, slow=st.none() | INDEX, replicas=st.integers(1, 3), gateways=st.integers(1, 2))
    def begins(self, steps: int, slow: int | None, replicas: int, gateways: int) -> None:
        """With a swap under way, and answers of before it."""
        self.world = self.runner.run(a_world(replicas, gateways))
        self.is_asked(answered=True)
        self.swaps(coordinator=0, back=False, steps=steps, slow=slow)

    # the ordinary course

    @rule(steps=STEPS, slow=st.none() | INDEX)
    @played
    async def goes_on(self, steps: int, slow: int | None) -> None:
        await self._go_on(steps, slow)

    @rule(coordinator=INDEX, back=st.booleans(), steps=STEPS, slow=st.none() | INDEX)
    @played
    async def swaps(self, coordinator: int, back: bool, steps: int, slow: int | None) -> None:
        if idle := self._idle:
            chosen = _pick(idle, coordinator)
            chosen.swap(chosen.target.committed.previous if back else None)
            await self._go_on(steps, slow)

    @rule(coordinator=INDEX, steps=STEPS, slow=st.none() | INDEX)
    @played
    async def tries(self, coordinator: int, steps: int, slow: int | None) -> None:
        """A candidate."""
        if idle := self._idle:
            _pick(idle, coordinator).hold()
            await self._go_on(steps, slow)

    @rule(coordinator=INDEX, promoted=st.booleans(), steps=STEPS, slow=st.none() | INDEX)
    @played
    async def decides(self, coordinator: int, promoted: bool, steps: int, slow: int | None) -> None:
        """About a candidate that is out."""
        if holding := [each for each in self._running if each.holds]:
            chosen = _pick(holding, coordinator)
            chosen.promote() if promoted else chosen.withdraw()
            await self._go_on(steps, slow)

    @property
    def _idle(self) -> list[Coordinator]:
        return [each for each in self._running if not each.swapping and each.rules.swap is None]

    async def _go_on(self, steps: int, slow: int | None) -> None:
        """All but the slow one take steps, and every answer is let out as soon as a gateway can."""
        held = [] if slow is None or not self.world.live else [_pick(self.world.live, slow)]
        held = [member for member in held if not member.paused]
        for member in held:
            member.paused = True
        for _ in range(steps):
            await self.world.advance()
            self._let_all_out()
        for member in held:
            member.paused = False

    @rule(member=INDEX, coordinator=INDEX)
    @played
    async def steps(self, member: int, coordinator: int) -> None:
        """One member alone; its call may reach any coordinator that runs."""
        able = [each for each in self.world.live if self.world.can_step(each)]
        if able and self._running:
            self.world.step(_pick(able, member), at=_pick(self._running, coordinator))

    @rule(gateway=st.booleans())
    @played
    async def joins(self, gateway: bool) -> None:
        if gateway and len(self.world.gateways) < MOST:
            self.world.add_gateway()
        elif not gateway and len(self.world.replicas) < MOST:
            self.world.add_replica()

    @rule()
    @played
    async def watches(self) -> None:
        """Ray restarts what is dead; each coordinator looks after its members."""
        if not self._running:
            self.world.take_over()
        for coordinator in self._running:
            coordinator.forget_the_dead()
            coordinator.tick()

    # requests

    @rule(answered=st.booleans())
    @played
    async def is_asked(self, answered: bool) -> None:
        """A request to each gateway for each replica, which may run it at once; the answer is on its way then."""
        ready = [each for each in self.world.gateways if each.ready and not each.paused]
        asked = [(self.world.ask(each), replica) for each in ready for replica in self.world.replicas]
        tried = [(self.world.ask_candidate(each), replica) for each in ready for replica in self.world.replicas]
        for request, replica in [*asked, *tried]:
            if request is None:
                continue
            self.requests.append(request)
            if answered and self.world.answers(replica, request):
                self.world.run(replica, request)

    @precondition(lambda self: self.requests)
    @rule(replica=INDEX)
    @played
    async def answers(self, replica: int) -> None:
        """One replica runs all that it takes."""
        if self.world.replicas:
            chosen = _pick(self.world.replicas, replica)
            for request in self.requests:
                if request.answer is None and self.world.answers(chosen, request):
                    self.world.run(chosen, request)
        self._let_all_out()

    # faults

    @rule(fault=st.sampled_from(AT_THE_COORDINATOR))
    @played
    async def befalls_the_coordinator(self, fault: Callable[[World], None]) -> None:
        if len(self.world.coordinators) < MOST:
            fault(self.world)

    @rule(fault=st.sampled_from(AT_A_MEMBER), member=INDEX)
    @played
    async def befalls_a_member(self, fault: Callable[[World, Member], None], member: int) -> None:
        if 1 < len(self.world.live) < 2 * MOST:
            fault(self.world, _pick(self.world.live, member))

    @rule(number=st.integers(0, 100))
    @played
    async def is_heard_again(self, number: int) -> None:
        _pick(self.world.coordinators, number).hear_again(number)

    @rule()
    @played
    async def recovers(self) -> None:
        """What was stopped goes on, what was broken is mended."""
        self.world.mend()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, suppress_health_check=list(HealthCheck))
