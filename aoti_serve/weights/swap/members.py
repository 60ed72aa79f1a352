"""The members of one model's cluster and the target that they follow: the coordinator's books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from aoti_serve.address import Address
from aoti_serve.weights.swap.target import Report, Staging, Target, TargetRevision
from aoti_serve.weights.version import Committed

UNHEARD = -1  # the turn of a report that a member has not made
# An expelled process that was not seen to end counts as ended after so long. Ray's node kills it within 5 s of hearing;
# a node that cannot hear ends itself and its processes after 60 s (gcs_rpc_server_reconnect_timeout_s).
ENDED_S = 120.0
KILL_AGAIN_S = 5.0  # after an order to end a process was given in vain


class MemberTable:
    """Every member's last report, and the sets that follow from it. A report costs the same, however many there are.

    A member is in from the start of the coordinator, or from its first report, until the cluster says that its process
    has ended; so the table never misses a replica that could still answer.

    `heard` have reported to this coordinator, `away` have no connection to it, `behind` answer and do not hold what is
    committed, `ending` were expelled and are not known to have ended. `rerouted` are those whose address has changed.
    """

    def __init__(self, term: int, committed: Committed) -> None:
        self.target = Target(term=term, revision=1, committed=committed)
        self.heard: set[str] = set()
        self.away: set[str] = set()
        self.behind: set[str] = set()
        self.ending: dict[str, float] = {}
        self.addresses: dict[str, Address] = {}
        self.rerouted: set[str] = set()
        self._killed: set[str] = set()
        self._cut: set[str] = set()  # whose connection has ended, while its process may go on
        self._reports: dict[str, Report] = {}
        self._nodes: Counter[str] = Counter()

    @property
    def reports(self) -> list[Report]:
        return list(self._reports.values())

    def report_of(self, member: str) -> Report | None:
        return self._reports.get(member)

    def expect(self, members: Iterable[str]) -> None:
        """Count these as members of which nothing is known yet: they may answer already."""
        for member in members:
            if member not in self._reports:
                self.away.add(member)
                self._put(Report(member, turn=UNHEARD))

    def connect(self, member: str) -> None:
        self.away.discard(member)
        self._cut.discard(member)

    def disconnect(self, member: str, *, cut: bool = False) -> None:
        """Its connection has ended. If its process was killed before, that is its end.

        Not if one of both sides has `cut` the connection: that says nothing of the process.
        """
        if member in self._reports:
            self.away.add(member)
        if cut:
            self._cut.add(member)
        elif member in self._killed:
            self.end(member)

    def hear(self, report: Report) -> bool:
        """Take a report, unless a later one of this member has come; returns whether it says anything new."""
        before = self._reports.get(report.member)
        if before is not None and report.turn <= before.turn:
            return False
        self.heard.add(report.member)
        self.end(report.member)  # expelled, but the word has not reached it: a member again
        self._put(report)
        return before != report

    def publish(
        self, *, staging: Staging | None = None, committed: Committed | None = None, settled_epoch: int | None = None
    ) -> TargetRevision:
        """Make this the target; keep what is None, but for `staging`."""
        before = self.target
        self._retarget(
            staging=staging,
            committed=committed or before.committed,
            settled_epoch=before.settled_epoch if settled_epoch is None else settled_epoch,
        )
        if committed is not None:
            self.behind = {report.member for report in self._reports.values() if self._is_behind(report)}
        return self.target.at

    def settle(self) -> bool:
        """Between swaps: let nothing older out once all members hold what is committed; returns whether that is new."""
        target = self.target
        if self.behind or target.settled_epoch >= target.committed.epoch:
            return False
        self.publish(staging=target.staging, settled_epoch=target.committed.epoch)
        return True

    def remove(self, member: str) -> bool:
        """Forget one whose process has ended; returns whether it was there."""
        report = self._reports.pop(member, None)
        self.heard.discard(member)
        self.away.discard(member)
        self.behind.discard(member)
        self._cut.discard(member)
        self._route(member, None)
        if report is not None:
            self._count(report.node, -1)
        return report is not None

    def lose(self, member: str, now: float, *, unreachable: bool) -> bool:
        """Its process has ended, says the cluster; returns whether it was there.

        Of a node that it cannot reach the cluster only believes that. Then the end is certain if there was a connection
        to the process, and that has ended by itself.
        """
        certain = not unreachable or (member in self.heard and member in self.away and member not in self._cut)
        found = self.remove(member)
        if found and not certain:
            self.doubt(member, now)
        return found

    def doubt(self, member: str, since: float) -> None:
        """The cluster takes it for dead since then, and it may live."""
        self.ending[member] = since
        self._killed.add(member)

    def expel(self, members: Iterable[str], now: float) -> None:
        """These are no members any more; whether they have ended is not known yet."""
        for member in members:
            self.remove(member)
            self.ending[member] = now

    def killed(self, members: Iterable[str], now: float) -> None:
        """Ray was told to end these: from now on the end of a connection is the end of its process."""
        for member in members:
            if member in self.ending:
                self.doubt(member, now)

    def overdue(self, now: float) -> tuple[str, ...]:
        """Those that were to be ended, and have not been for a while; each is named once in `KILL_AGAIN_S`."""
        late = [
            member
            for member, since in self.ending.items()
            if member not in self._killed and now - since >= KILL_AGAIN_S
        ]
        for member in late:
            self.ending[member] = now
        return tuple(sorted(late))

    def expire(self, now: float) -> None:
        """Count those as ended that were killed long ago."""
        for member in [member for member in self._killed if now - self.ending[member] >= ENDED_S]:
            self.end(member)

    def killed_before(self, now: float) -> set[str]:
        """Those that are ending, and were killed before this time."""
        return {member for member in self._killed if self.ending[member] <= now}

    def end(self, member: str) -> None:
        """It is certain now that it has ended, or that it is a member again."""
        self.ending.pop(member, None)
        self._killed.discard(member)

    def _put(self, report: Report) -> None:
        before = self._reports.get(report.member)
        self._reports[report.member] = report
        (self.behind.add if self._is_behind(report) else self.behind.discard)(report.member)
        if before is None or before.node != report.node:
            self._count(before.node if before else "", -1)
            self._count(report.node, 1)
        self._route(report.member, None if report.joining else report.address)

    def _route(self, member: str, address: Address | None) -> None:
        if self.addresses.get(member) == address:
            return
        self.rerouted.add(member)
        if address is None:
            del self.addresses[member]
        else:
            self.addresses[member] = address

    def _is_behind(self, report: Report) -> bool:
        return not report.joining and not report.holds(self.target.committed)

    def _count(self, node: str, change: int) -> None:
        """Replicas listen for gateways on other nodes only while there are any."""
        if not node:
            return
        self._nodes[node] += change
        if not self._nodes[node]:
            del self._nodes[node]
        if (len(self._nodes) > 1) != self.target.spread:
            self._retarget(spread=not self.target.spread)

    def _retarget(self, **changes: object) -> None:
        self.target = replace(self.target, revision=self.target.revision + 1, **changes)  # type: ignore[arg-type]


class Tally:
    """The members that a phase still waits for: those whose last report is not `done`. A report costs the same, however
    many there are.

    A member that is joining is not waited for: it answers nothing yet, and becomes ready only with what is committed
    then.
    """

    def __init__(self, done: Callable[[Report], bool], reports: Iterable[Report]) -> None:
        self._done = done
        self.waiting: set[str] = set()
        for report in reports:
            self.hear(report)

    def hear(self, report: Report) -> None:
        if report.joining or self._done(report):
            self.waiting.discard(report.member)
        else:
            self.waiting.add(report.member)

    def drop(self, member: str) -> None:
        """This one is no longer a member."""
        self.waiting.discard(member)
