"""The simulation of the scale benchmark, in small: what it counts does not depend on the machine."""

from __future__ import annotations

import pytest
from scale.report import targets
from scale.simulated import SWAPS, ScaleRun, measure
from scale.sockets import SocketRun


@pytest.mark.parametrize("members", [10, 300])
def test_messages_grow_with_the_members_and_no_faster(members: int) -> None:
    """A target and a report for each of three phases, but for those that overtake each other."""
    run = measure(members)
    assert len(run.swap_s) == SWAPS
    assert 5.0 < run.messages < 7.0
    assert run.recovery_s < 1.0


def test_a_target_is_met_or_missed() -> None:
    slow = ScaleRun(10, [1.0], cpu_us=151.0, messages=6.0, idle_cpu=0.0, recovery_s=0.1, broken=0)
    busy = SocketRun(1_000, join_s=1.0, swap_s=1.0, cpu_us=150.0, idle_cpu=0.02, recovery_s=1.0)
    assert list(targets([slow], [busy]).values()) == [False, True, False]
