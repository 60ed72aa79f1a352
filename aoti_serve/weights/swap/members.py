"""The members of one model's cluster, and the target that they follow: the coordinator's books, without Ray.

Events go in: a report arrives, a process has ended, a target is published, time passes. What follows from them comes
out. There is no clock and no call in here; `aoti_serve.cluster.membership` has both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aoti_serve.weights.swap.target import Report, Staging, Target, TargetRevision
from aoti_serve.weights.version import Committed

POLL_S = 2.0  # a member is answered after so long, whether there is news or not
TICK_S = 0.5
UNHEARD = -1  # the turn of a report that nobody has made
UNHEARD_S = 15.0  # a member may still wait for an answer of the coordinator before this one


class MemberTable:
    """Every member's last report. Used in the coordinator's event loop.

    A member is in from the start of the coordinator, or from its first report, until the cluster says that its process
    has ended; so the table never misses a replica that could still answer. `heard` has those that have reported to this
    coordinator.
    """

    def __init__(self, term: int, committed: Committed) -> None:
        self.target = Target(term=term, revision=1, committed=committed)
        self.heard: set[str] = set()
        self._reports: dict[str, Report] = {}

    @property
    def reports(self) -> list[Report]:
        return list(self._reports.values())

    @property
    def behind(self) -> set[str]:
        """The members that answer, and do not hold what is committed."""
        return {
            report.member for report in self.reports if not report.joining and not report.holds(self.target.committed)
        }

    def expect(self, members: Iterable[str]) -> None:
        """Count these as members of which nothing is known yet: they may answer already."""
        for member in members:
            self._reports.setdefault(member, Report(member, turn=UNHEARD))

    def hear(self, report: Report) -> bool:
        """Take a report, unless a later one of this member has come; whether it says anything new."""
        before = self._reports.get(report.member)
        if before is not None and report.turn <= before.turn:
            return False
        self._reports[report.member] = report
        self.heard.add(report.member)
        self._locate()
        return before is None or replace(before, turn=report.turn) != report

    def has_news(self, seen: TargetRevision | None) -> bool:
        """Whether a member that has seen this target is to be answered now."""
        return seen is None or seen.term != self.target.term or seen.revision < self.target.revision

    def publish(
        self, *, staging: Staging | None = None, committed: Committed | None = None, settled: int | None = None
    ) -> TargetRevision:
        """Make this the target; keep what is None, but for `staging`."""
        before = self.target
        self._retarget(
            staging=staging,
            committed=committed or before.committed,
            settled=before.settled if settled is None else settled,
        )
        return TargetRevision(self.target.term, self.target.revision)

    def settle(self) -> bool:
        """Between swaps: if every member holds what is committed, let nothing older out; whether that is new."""
        target = self.target
        if self.behind or target.settled >= target.committed.epoch:
            return False
        self.publish(staging=target.staging, settled=target.committed.epoch)
        return True

    def remove(self, members: Iterable[str]) -> bool:
        """Forget these; whether one of them was there."""
        found = [member for member in members if self._reports.pop(member, None) is not None]
        if found:
            self._locate()
        return bool(found)

    def keep(self, alive: set[str], known: set[str]) -> bool:
        """Forget those of the `known` that are no longer `alive`; whether there were any."""
        dead = known - alive
        self.heard -= dead
        return self.remove(dead)

    def _locate(self) -> None:
        """Let gateways know where replicas answer, and replicas whether gateways are on other nodes."""
        reports = self.reports
        addresses = tuple(report.address for report in reports if report.address and not report.joining)
        spread = len({report.node for report in reports if report.node}) > 1
        if (addresses, spread) != (self.target.addresses, self.target.spread):
            self._retarget(addresses=addresses, spread=spread)

    def _retarget(self, **changes: object) -> None:
        self.target = replace(self.target, revision=self.target.revision + 1, **changes)  # type: ignore[arg-type]


class TimeAllowance:
    """What is left of the time that members have together.

    Time in which this process was stopped does not count, nor time in which no member at all was heard: then it may be
    this coordinator that is cut off. Serve takes one out of its routes while its last swap is still under way.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def spend(self, seconds: float, silence: float) -> None:
        """So many seconds have passed; the last report came `silence` seconds ago."""
        if silence < POLL_S + TICK_S:
            self.left -= min(seconds, 2 * TICK_S)


class LagDetector:
    """Finds members that stay behind for longer than `patience` seconds, by looks that are `period` seconds apart.

    Looks are counted, not seconds, in which this process may be stopped. A coordinator that has heard of no member at
    all finds nobody: it may be itself that is cut off.
    """

    def __init__(self, patience: float, period: float) -> None:
        self._patience = patience
        self._period = period
        self._looks: dict[str, int] = {}

    def look(self, table: MemberTable) -> list[str]:
        """Those that are to be replaced now."""
        self._looks = {member: self._looks.get(member, 0) + 1 for member in table.behind}
        late = [member for member, looks in self._looks.items() if looks * self._period > self._limit(member, table)]
        return late if table.heard else []

    def forgive(self) -> None:
        """A swap is under way, and has deadlines of its own."""
        self._looks.clear()

    def _limit(self, member: str, table: MemberTable) -> float:
        return self._patience if member in table.heard else max(self._patience, UNHEARD_S)
