"""One swap as a state machine: stage everywhere, then commit everywhere; or nowhere. `states` has its table."""

from __future__ import annotations

from collections.abc import Callable

from aoti_serve.errors import AotiServeError, StageFailed, TryAgain
from aoti_serve.weights.swap.members import MemberTable
from aoti_serve.weights.swap.orders import Commit, Expel, Order
from aoti_serve.weights.swap.states import ENDS, PHASES, TRANSITIONS, Cause, ChangeName, Phase, State
from aoti_serve.weights.swap.story import Story
from aoti_serve.weights.swap.tally import Tally
from aoti_serve.weights.swap.target import Exposure, Report, Staging, Trial
from aoti_serve.weights.swap.timeouts import SwapDeadlines, TimeAllowance
from aoti_serve.weights.version import Committed, Version


class Swap:
    """One swap to `version`. Events go in by its methods; `orders` come out.

    Before the commit point a failure, an end or a late member aborts everywhere; after it the swap only rolls forward.
    Its end is one of three. SETTLED: every live member holds the new version, and none lets out anything older.
    ABORTED: nothing has changed, `error` says why. UNSETTLED: `committed` stands, and it is not certain yet that all
    members hold it.

    A replica that ends while it stages fails the swap: the weights may have ended it, and would end every replica that
    starts with them. For the same reason at least one live replica must have staged the version, unless the swap is a
    way back `without_replicas`. Processors take part as replicas do: they stage the files that come with a version.

    With an `exposure` the version becomes a candidate: the swap is HELD when all have staged it, or was (`resumed`),
    until it is promoted or withdrawn. A replica that cannot stage it then withdraws it, too; one that ends does not.
    """

    def __init__(
        self,
        version: Version,
        table: MemberTable,
        deadlines: SwapDeadlines,
        story: Story,
        clock: Callable[[], float],
        name: ChangeName,
        *,
        without_replicas: bool = False,
        exposure: Exposure | None = None,
        resumed: bool = False,
    ) -> None:
        self.id = name.id
        self.version = version
        self.exposure = exposure
        self.state = State.HELD if resumed else State.STAGING
        self.error: BaseException | None = None
        self.committed: Committed | None = None
        self.orders: list[Order] = []
        self.seconds: dict[Phase, float] = {}  # that each phase has taken
        self._entered = clock()
        self._table = table
        self._deadlines = deadlines
        self._began = self._name = name
        self._story = story
        self._clock = clock
        self._without_replicas = without_replicas
        self._allowance = TimeAllowance(deadlines.stage)
        self._holds = exposure is not None
        self._was_held = self.held
        table.publish(staging=Staging(self.id, version))
        # The members that must not end: all that are here now, less those that have staged or say that they leave.
        self._must_live = {report.member for report in table.live_stagers if not report.leaving and not resumed}
        self._tally = Tally(self._staged, table.reports)
        if resumed and exposure:
            self.expose(exposure)
        story.tell(f"{name}: {self.state} version {version.number}")
        self.advance()

    @property
    def ended(self) -> bool:
        return self.state in ENDS

    @property
    def held(self) -> bool:
        return self.state is State.HELD

    @property
    def waiting(self) -> set[str]:
        """The members that this phase still waits for."""
        return set(self._tally.waiting)

    @property
    def phase(self) -> Phase:
        return PHASES[self.state]

    def expose(self, exposure: Exposure) -> None:
        """Let the candidate meet other shares of the requests."""
        self.exposure = exposure
        self._table.try_out(Trial(self.id, self.version.number, self._table.target.committed.version.number))
        self._table.publish(staging=Staging(self.id, self.version, exposure))
        self._story.tell(f"{self._name}: share {exposure.share:g}, shadow {exposure.shadow:g}")

    def pass_on(self, name: ChangeName) -> None:
        """Another change goes on with what is held, and is told of by its own name from here on."""
        self._name = name
        self._story.tell(f"{name}: goes on with {self._began}")

    def promote(self) -> None:
        """Go on to the commit point, from HELD."""
        self._holds = False
        self._move(Cause.PROMOTED)
        self.advance()

    def withdraw(self, error: BaseException) -> None:
        """Free the candidate everywhere, from HELD."""
        self.error = error
        self._move(Cause.WITHDRAWN)
        self.advance()

    def hear(self, report: Report) -> None:
        """A member's report has come into the table."""
        self._tally.hear(report)
        if self.state in (State.STAGING, State.HELD):
            self._watch(report)
        self.advance()

    def gone(self, member: str) -> None:
        """A member's process has ended, and it has left the table."""
        self._tally.drop(member)
        if self.state is State.STAGING and member in self._must_live:
            self._fail(member, TryAgain(detail="its process has ended meanwhile"))
        self.advance()

    def stored(self, committed: Committed) -> None:
        """The store has committed it: the commit point is passed."""
        self.committed = committed
        self._move(Cause.STORED)
        self.advance()

    def refused(self, error: BaseException) -> None:
        """The store has not committed it."""
        self.error = error
        self._move(Cause.REFUSED)
        self.advance()

    def superseded(self, error: AotiServeError) -> None:
        """A newer coordinator has replaced this one, and brings the members along."""
        if Cause.SUPERSEDED in TRANSITIONS.get(self.state, {}):
            self.error = error
            self._move(Cause.SUPERSEDED)

    def tick(self, seconds: float, silence: float) -> None:
        """Time has passed; a member was last heard `silence` seconds ago."""
        if self.state not in ENDS and self.state is not State.STORING and self._allowance.spend(seconds, silence):
            self._late()
        self.advance()

    def advance(self) -> None:
        """Move on as long as a phase waits for nothing more."""
        while (cause := self._next()) is not None:
            self._move(cause)

    def _watch(self, report: Report) -> None:
        if self._staged(report) or report.leaving:
            self._must_live.discard(report.member)
        if report.failed == self.id and not report.joining:
            self._fail(report.member, report.error)

    def _late(self) -> None:
        match self.state:
            case State.STAGING:
                self._fail(min(self._tally.waiting), TryAgain(detail=f"no answer within {self._deadlines.stage:g} s"))
            case State.FOLLOWING | State.SETTLING:
                self._expel()
            case State.CONFIRMING:
                self._move(Cause.UNCONFIRMED)
            case State.ABORTING:
                if self._was_held:  # it might go on to answer with what nobody trusts
                    self._expel()
                self._move(Cause.ALL_FREED)

    def _fail(self, member: str, cause: BaseException | None) -> None:
        if self.state in (State.STAGING, State.HELD):
            story = tuple(map(str, self._story.events()[-50:]))
            self.error = StageFailed(replica=member, version=self.version.number, cause=cause, story=story)
            self._move(Cause.FAILED)

    def _expel(self) -> None:
        late = tuple(sorted(self._tally.waiting))
        self._table.expel(late, self._clock())
        self.orders.append(Expel(late))
        for member in late:
            self._story.tell("expelled: late", member)
            self._tally.drop(member)

    def _next(self) -> Cause | None:
        match self.state:
            case State.STAGING if not self._tally.waiting and self._has_replica_or_aborts():
                return Cause.ALL_HOLD if self._holds else Cause.ALL_STAGED
            case State.FOLLOWING if not self._tally.waiting:
                return Cause.ALL_FOLLOW
            case State.SETTLING if not self._tally.waiting:
                return Cause.ALL_FENCED
            case State.CONFIRMING if not self._table.ending and not self._tally.waiting:
                return Cause.ALL_ENDED
            case State.ABORTING if not self._tally.waiting:
                return Cause.ALL_FREED
        return None

    def _has_replica_or_aborts(self) -> bool:
        """At least one live replica has staged it; else the swap aborts here."""
        if self._without_replicas or not (lacks := self._table.lacks):
            return True
        detail = f"no live {lacks} has staged version {self.version.number}: nothing has changed; try again"
        self.error = TryAgain(detail=detail)
        self._move(Cause.FAILED)
        return False

    def _move(self, cause: Cause) -> None:
        now, phase = self._clock(), self.phase
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._entered
        self._entered = now
        self.state = TRANSITIONS[self.state][cause]
        self._story.tell(f"{self._name}: {self.state}, since {cause}")
        match self.state:
            case State.HELD:
                assert self.exposure is not None
                self._was_held = True
                self.expose(self.exposure)
            case State.STAGING:
                self._wait_for(self._staged, self._deadlines.stage)
            case State.STORING:
                self.orders.append(Commit(self.version))
            case State.FOLLOWING:
                assert self.committed is not None
                committed = self.committed
                self._table.publish(committed=committed)
                self._wait_for(lambda report: report.holds(committed), self._deadlines.commit)
            case State.SETTLING:
                epoch = self._table.target.committed.epoch
                self._table.publish(settled_epoch=epoch)
                self._wait_for(lambda report: report.settled_epoch >= epoch, self._deadlines.commit)
            case State.CONFIRMING:
                self._allowance = TimeAllowance(self._deadlines.confirm)
            case State.ABORTING:
                self._table.try_out(None)
                aborted = self._table.publish(staging=None)
                self._wait_for(lambda report: report.freed(aborted), self._deadlines.abort)

    def _wait_for(self, done: Callable[[Report], bool], seconds: float) -> None:
        self._tally = Tally(done, self._table.reports)
        self._allowance = TimeAllowance(seconds)

    def _staged(self, report: Report) -> bool:
        return report.staged == self.id
