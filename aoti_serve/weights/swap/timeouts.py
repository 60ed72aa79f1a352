"""How long members may take, told apart from the time in which nobody could be heard."""

from __future__ import annotations

from aoti_serve.weights.swap.members import MemberTable

HEARTBEAT_S = 6.0  # the coordinator asks all members so often whether they live, and they answer at once
TICK_S = 0.5  # the rules look at the clock so often
MOST = 4
MEMBER_SILENCE_S = 2 * HEARTBEAT_S + TICK_S
UNHEARD_S = 60.0  # a member may be on its way from the coordinator before to this one


class TimeAllowance:
    """What is left of the time that members have together.

    Time in which this process was stopped does not count. Nor does time in which no member at all was heard: then it
    may be this coordinator that is cut off. But that is not for ever: after `MOST` times the seconds it is over.
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

    Looks are counted, not seconds, in which this process may be stopped. A coordinator that has heard of no member at
    all finds none: it may be itself that is cut off.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._looks: dict[str, int] = {}

    def late_members(self, table: MemberTable) -> list[str]:
        """Those that are to be replaced now; called every `TICK_S` seconds."""
        self._looks = {member: self._looks.get(member, 0) + 1 for member in table.behind}
        late = [member for member, looks in self._looks.items() if looks * TICK_S > self._limit(member, table)]
        return late if table.heard else []

    def forgive(self) -> None:
        """A swap is under way, and has deadlines of its own."""
        self._looks.clear()

    def _limit(self, member: str, table: MemberTable) -> float:
        return self._patience if member in table.heard else max(self._patience, UNHEARD_S)
