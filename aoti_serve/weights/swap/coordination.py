"""All that a coordinator decides: events and a clock go in, orders come out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from aoti_serve.errors import AotiServeError
from aoti_serve.weights.swap.members import MemberTable
from aoti_serve.weights.swap.orders import Expel, Order, Publish, Reroute
from aoti_serve.weights.swap.states import ChangeName, new_id
from aoti_serve.weights.swap.story import Story
from aoti_serve.weights.swap.swap import Swap
from aoti_serve.weights.swap.target import Exposure, Report
from aoti_serve.weights.swap.timeouts import LagDetector, SwapDeadlines
from aoti_serve.weights.version import Committed, Version


class Coordination:
    """Membership, failure detection and at most one swap at a time. Lives in the coordinator's event loop.

    After each event the caller takes the `orders` and carries them out. `clock` is in seconds and may stand still while
    the process is stopped.
    """

    def __init__(
        self,
        term: int,
        committed: Committed,
        deadlines: SwapDeadlines,
        clock: Callable[[], float],
        *,
        processors: bool = False,
    ) -> None:
        self.table = MemberTable(term, committed, processors=processors)
        self.story = Story(clock)
        self.swap: Swap | None = None
        self._deadlines = deadlines
        self._clock = clock
        self._lag = LagDetector(deadlines.commit)
        self._ticked = self._heard = clock()
        self._published = self.table.target
        self._routed: set[str] = set()
        self._orders: list[Order] = []

    @property
    def settled(self) -> bool:
        """Nothing older than what is committed leaves any gateway, also none that was expelled."""
        epoch = self.table.target.committed.epoch
        fenced = all(report.joining or report.settled_epoch >= epoch for report in self.table.reports)
        return fenced and self.table.target.settled_epoch >= epoch and not self.table.ending

    def begin(
        self,
        version: Version,
        exposure: Exposure | None = None,
        *,
        without_replicas: bool = False,
        name: ChangeName | None = None,
        resumed: bool = False,
    ) -> Swap:
        """Start a swap; the one before must have ended."""
        assert self.swap is None, "one swap at a time"
        self._lag.forgive()
        self.swap = Swap(
            version,
            self.table,
            self._deadlines,
            self.story,
            self._clock,
            name or ChangeName("swap", new_id()),
            without_replicas=without_replicas,
            exposure=exposure,
            resumed=resumed,
        )
        return self.swap

    def finish(self) -> None:
        """The swap has ended, and its caller knows."""
        self.swap = None

    def connect(self, member: str) -> None:
        self._heard = self._clock()
        self.table.connect(member)
        self.story.tell("connected", member)

    def disconnect(self, member: str, *, cut: bool = False) -> None:
        """Its connection has ended; `cut` by one of both sides, or by itself."""
        self.table.disconnect(member, cut=cut)
        self.story.tell("connection cut" if cut else "connection ended", member)
        if self.swap is not None:
            self.swap.advance()

    def beat(self) -> None:
        """A member has sent a heartbeat."""
        self._heard = self._clock()

    def hear(self, report: Report) -> bool:
        """A report has arrived; returns whether it says anything new."""
        self._heard = self._clock()
        if not self.table.hear(report):
            return False
        self._tell(report)
        if self.swap is not None:
            self.swap.hear(report)
        return True

    def remove_ended(self, alive: set[str], known: Iterable[str], unreachable: Collection[str] = ()) -> None:
        """Ray says that of the `known` members only the `alive` run. It cannot reach the nodes of the `unreachable`."""
        for member in set(known) - alive:
            if self.table.lose(member, self._clock(), unreachable=member in unreachable):
                self.story.tell("its process has ended", member)
                if self.swap is not None:
                    self.swap.gone(member)

    def killed(self, members: Iterable[str]) -> None:
        self.table.killed(members, self._clock())

    def doubt(self, members: Mapping[str, float]) -> None:
        """Ray took these for dead, so many seconds ago. They may live, since it could not reach their nodes."""
        for member, seconds in members.items():
            self.table.doubt(member, self._clock() - seconds)
            self.story.tell("may live: its node cannot be reached", member)

    def killed_before(self, seconds: float) -> set[str]:
        """The members that were killed so many seconds ago, and whose end is not certain."""
        return self.table.killed_before(self._clock() - seconds)

    def confirm(self, members: Iterable[str]) -> None:
        """It is certain that these have ended."""
        for member in members:
            self.table.end(member)
            self.story.tell("its end is certain", member)
        if self.swap is not None:
            self.swap.advance()

    def superseded(self, error: AotiServeError) -> None:
        self.story.tell(f"superseded: {error}")
        if self.swap is not None:
            self.swap.superseded(error)

    def tick(self) -> None:
        """Called every `TICK_S` seconds."""
        now = self._clock()
        self.table.expire(now)
        if overdue := self.table.overdue(now):
            self._orders.append(Expel(overdue))
        if self.swap is not None and not self.swap.held:
            self.swap.tick(now - self._ticked, now - self._heard)
        else:
            self._look_after_members(now)
        self._ticked = now

    def orders(self) -> list[Order]:
        """The orders to carry out now, in this order; each is given once."""
        orders, self._orders = self._orders, []
        if self.swap is not None:
            orders += self.swap.orders
            self.swap.orders = []
        if self.table.target is not self._published:
            self._published = self.table.target
            orders.append(Publish(self._published))
        if self.table.rerouted:
            orders.append(self._route())
        return orders

    def _look_after_members(self, now: float) -> None:
        late = tuple(sorted(self._lag.late_members(self.table)))
        if late:
            for member in late:
                self.story.tell(f"expelled: not at {self.table.target.committed.version.number} in time", member)
            self.table.expel(late, now)
            self._orders.append(Expel(late))
        if self.table.settle():
            self.story.tell(f"settled: epoch {self.table.target.settled_epoch}")

    def _route(self) -> Reroute:
        changed, self.table.rerouted = self.table.rerouted, set()
        added = {member: self.table.addresses[member] for member in changed if member in self.table.addresses}
        removed = changed & self._routed - added.keys()
        self._routed = self._routed - removed | added.keys()
        return Reroute(tuple(added.values()), tuple(sorted(removed)))

    def _tell(self, report: Report) -> None:
        said = "joining" if report.joining else f"epoch {report.epoch}, settled {report.settled_epoch}"
        if report.staged:
            said += f", staged {report.staged}"
        if report.failed:
            said += f", failed {report.failed}: {report.error}"
        self.story.tell(said + (", leaving" if report.leaving else ""), report.member)
