"""Counts the time that members take, except while this process was stopped or heard no member."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_serve.weights.swap.members import MemberTable

HEARTBEAT_S = 6.0  # the coordinator asks all members so often whether they live, and they answer at once
TICK_S = 0.5  # the rules look at the clock so often
MOST = 4
MEMBER_SILENCE_S = 2 * HEARTBEAT_S + TICK_S
UNHEARD_S = 60.0  # a member may still be connected to the coordinator before this one


@dataclass(frozen=True)
class SwapDeadlines:
    """Seconds that all members together may take for a phase.

    `confirm` is for the ends of those that were expelled: Ray's node kills a process that is stopped after 5 s.
    """

    stage: float = 300.0
    abort: float = 30.0
    commit: float = 30.0
    confirm: float = 15.0


class TimeAllowance:
    """The time that members have together; `left` is in seconds.

    Time in which this process was stopped does not count. Nor does time in which no member was heard: this coordinator
    may be cut off. In any case the time is over after `MOST` times the seconds.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self._most = MOST * seconds

    def spend(self, seconds: float, silence: float) -> bool:
        """Time has passed; a member was last heard `silence` seconds ago. Returns whether the allowance is used up."""
        passed = min(seconds, 2 * TICK_S)
        self._most -= passed
        if silence < MEMBER_SILENCE_S:
            self.left -= passed
        return min(self.left, self._most) <= 0


class LagDetector:
    """Finds members that stay behind what is committed for longer than `patience` seconds.

    It counts calls, not seconds, in which this process may be stopped. A coordinator that has heard no member at all
    finds none: it may be cut off itself.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._calls: dict[str, int] = {}

    def late_members(self, table: MemberTable) -> list[str]:
        """The members to replace now; called every `TICK_S` seconds."""
        self._calls = {member: self._calls.get(member, 0) + 1 for member in table.behind}
        late = [member for member, calls in self._calls.items() if calls * TICK_S > self._limit(member, table)]
        return late if table.heard else []

    def forgive(self) -> None:
        """Start anew: a swap is under way, and has deadlines of its own."""
        self._calls.clear()

    def _limit(self, member: str, table: MemberTable) -> float:
        return self._patience if member in table.heard else max(self._patience, UNHEARD_S)
