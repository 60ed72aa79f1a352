"""The members of one model's cluster, their reports, and the target that they follow, as the coordinator knows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from aoti_serve.address import Address
from aoti_serve.weights.swap.target import Report, Staging, Target, TargetRevision, Trial
from aoti_serve.weights.version import Committed

UNHEARD = -1  # the turn of a report that a member has not made
# An expelled process that was not seen to end counts as ended after so long. Ray's node kills it within 5 s of the
# order. A node that no order reaches ends itself and its processes after 60 s (gcs_rpc_server_reconnect_timeout_s).
ENDED_S = 120.0
KILL_AGAIN_S = 5.0  # after an order to end a process has failed


class MemberTable:
    """Keeps every member's last report. A report costs the same, however many members there are.

    A process is a member from the start of the coordinator, or from its first report, until Ray says that it has ended.
    So the table never misses a replica that could still answer.

    `heard` members have reported to this coordinator, `away` ones have no connection to it, `behind` ones answer and do
    not hold what is committed. `ending` were expelled, or Ray takes them for dead, and they may still live: since when.
    `rerouted` members have a new address, or none any more. With `processors` the model has some that read assets.
    """

    def __init__(self, term: int, committed: Committed, *, processors: bool = False) -> None:
        self._wants_processors = processors
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

    @property
    def live_replicas(self) -> list[Report]:
        """The last reports of the replicas that answer."""
        return [report for report in self._reports.values() if report.runners and not report.joining]

    @property
    def live_stagers(self) -> list[Report]:
        """The last reports of the replicas and processors that answer: they stage versions."""
        return [report for report in self._reports.values() if not report.is_gateway and not report.joining]

    @property
    def lacks(self) -> str:
        """What must live so that a version is tried before it is committed, and does not; empty if nothing lacks."""
        if not self.live_replicas:
            return "replica"
        missing = self._wants_processors and not any(report.processor for report in self.live_stagers)
        return "processor" if missing else ""

    @property
    def living(self) -> set[str]:
        """All members, and those whose end is not certain."""
        return self._reports.keys() | self.ending.keys()

    def report_of(self, member: str) -> Report | None:
        return self._reports.get(member)

    def expect(self, members: Iterable[str]) -> None:
        """Ray says that these processes live: they may answer already, so they are members."""
        for member in members:
            if member not in self._reports:
                self.away.add(member)
                self._put(Report(member, turn=UNHEARD))

    def connect(self, member: str) -> None:
        self.away.discard(member)
        self._cut.discard(member)

    def disconnect(self, member: str, *, cut: bool = False) -> None:
        """Its connection has ended. If its process was killed before, its process has ended, too.

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
        self.end(report.member)  # if it was expelled, it does not know, and is a member again
        self._put(report)
        return before != report

    def publish(
        self, *, staging: Staging | None = None, committed: Committed | None = None, settled_epoch: int | None = None
    ) -> TargetRevision:
        """Change the target; what is None stays as it was, except `staging`."""
        before = self.target
        self._retarget(
            staging=staging,
            committed=committed or before.committed,
            settled_epoch=before.settled_epoch if settled_epoch is None else settled_epoch,
        )
        if committed is not None:
            self.behind = {report.member for report in self._reports.values() if self._is_behind(report)}
        return self.target.at

    def try_out(self, trial: Trial | None) -> None:
        """Let gateways count the answers of two versions apart, or no longer."""
        if trial != self.target.trial:
            self._retarget(trial=trial)

    def relabel(self, labels: Mapping[str, int]) -> None:
        """Tell the members of the labels that can be moved."""
        if labels != self.target.labels:
            self._retarget(labels=labels)

    def settle(self) -> bool:
        """Between swaps: let nothing older out, once all members hold what is committed; whether that is new."""
        target = self.target
        if self.behind or target.settled_epoch >= target.committed.epoch:
            return False
        self.publish(staging=target.staging, settled_epoch=target.committed.epoch)
        return True

    def remove(self, member: str) -> bool:
        """Forget a member; returns whether it was one."""
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
        """Ray says that its process has ended; returns whether it was a member.

        If Ray cannot reach its node (`unreachable`), the process may still live. Then its end is certain only if there
        was a connection to it, and that has ended by itself.
        """
        certain = not unreachable or (member in self.heard and member in self.away and member not in self._cut)
        found = self.remove(member)
        if found and not certain:
            self.doubt(member, now)
        return found

    def doubt(self, member: str, since: float) -> None:
        """Ray takes it for dead since then, and it may live."""
        self.ending[member] = since
        self._killed.add(member)

    def expel(self, members: Iterable[str], now: float) -> None:
        """Remove members that are to be ended."""
        for member in members:
            self.remove(member)
            self.ending[member] = now

    def killed(self, members: Iterable[str], now: float) -> None:
        """Ray was told to end these: from now on, when a connection ends, so has the process."""
        for member in members:
            if member in self.ending:
                self.doubt(member, now)

    def overdue(self, now: float) -> tuple[str, ...]:
        """The expelled members that nobody could kill yet; each is returned once in `KILL_AGAIN_S`."""
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
        """The ending members that were killed before this time."""
        return {member for member in self._killed if self.ending[member] <= now}

    def end(self, member: str) -> None:
        """It has certainly ended, or is a member again."""
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
