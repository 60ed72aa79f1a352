"""The swap: all members hold the new version, or all hold the old one, whatever goes wrong."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_serve.errors import AotiServeError, StageFailed, StoreFailed, UnknownTensor
from aoti_serve.weights.swap import Phase, Report, Staging, Swap, Target
from aoti_serve.weights.version import Committed, Version

OLD = Committed(epoch=4, version=Version(number=7, digest="old"))
NEW_VERSION = Version(number=8, digest="new")
NEW = Committed(epoch=5, version=NEW_VERSION, previous=OLD.version)


@dataclass
class Member:
    """What a replica does with a target, without the replica; it can be broken and it can be deaf."""

    name: str
    broken: Exception | None = None
    deaf_to: set[Phase] = field(default_factory=set)
    slow: int = 0
    epoch: int = OLD.epoch
    serving: int = OLD.version.number
    buffer: int | None = None
    staged: str | None = None
    failed: str | None = None
    was_staged: bool = False

    def report(self) -> Report:
        error = self.broken if self.failed else None
        return Report(self.name, 1, self.epoch, staged=self.staged, failed=self.failed, error=error)

    def follow(self, target: Target) -> bool:
        """Do what is missing, as far as it can; whether it has moved."""
        before = replace(self)
        if self.slow:
            self.slow -= 1
            return True
        if target.committed.epoch > self.epoch:
            self.commit(target.committed)
        if target.staging is None:
            self.unstage()
        elif target.staging.swap not in (self.staged, self.failed):
            self.stage(target.staging)
        return self != before

    def commit(self, committed: Committed) -> None:
        if Phase.COMMITTING not in self.deaf_to:
            self.epoch, self.serving = committed.epoch, committed.version.number
            self.buffer = self.staged = None

    def stage(self, staging: Staging) -> None:
        if Phase.STAGING in self.deaf_to:
            return
        if self.broken is not None:
            self.failed = staging.swap
        else:
            self.staged, self.buffer, self.was_staged = staging.swap, staging.version.number, True

    def unstage(self) -> None:
        if Phase.ABORTING not in self.deaf_to:
            self.staged = self.buffer = None


class Cluster:
    """Members in memory. Time is up when nobody moves any more, so no test waits for a clock.

    `on_turn` is called before each turn, with the target, and may do to the cluster what the world does.
    """

    def __init__(self, *members: Member) -> None:
        self.members = {member.name: member for member in members}
        self.expelled: dict[str, Member] = {}
        self.target = Target(revision=1, committed=OLD)
        self.durable = OLD
        self.commit_error: Exception | None = None
        self.on_turn: Callable[[Target], None] = lambda target: None

    @property
    def reports(self) -> list[Report]:
        return [member.report() for member in self.members.values()]

    def join(self, member: Member) -> None:
        """A newcomer holds what is committed before it is a member, as in `Membership.join`."""
        member.epoch, member.serving = self.target.committed.epoch, self.target.committed.version.number
        self.members[member.name] = member

    def publish(self, *, staging: Staging | None, committed: Committed | None = None) -> None:
        revision = self.target.revision + 1
        self.target = replace(
            self.target, revision=revision, staging=staging, committed=committed or self.target.committed
        )

    async def until(self, enough: Callable[[list[Report]], bool], timeout: float) -> list[Report]:
        while True:
            self.on_turn(self.target)
            await asyncio.sleep(0)  # where a cancellation arrives
            if enough(self.reports):
                break
            moved = [member.follow(self.target) for member in self.members.values()]
            if not any(moved):
                break
            for member in self.members.values():
                assert member.serving in (OLD.version.number, self.durable.version.number), "ahead of the commit point"
        return self.reports

    async def expel(self, members: list[str]) -> None:
        for name in members:
            self.expelled[name] = self.members.pop(name)

    def commit(self) -> Committed:
        if self.commit_error is not None:
            raise self.commit_error
        self.durable = NEW
        return NEW

    def swap(self) -> Swap:
        return Swap(NEW_VERSION, self, self.commit)

    def serving(self) -> set[int]:
        return {member.serving for member in self.members.values()}

    def holds_nothing_staged(self) -> bool:
        return all(member.staged is None and member.buffer is None for member in self.members.values())


def trio(**third: object) -> Cluster:
    return Cluster(Member("a"), Member("b"), replace(Member("c"), **third))  # type: ignore[arg-type]


async def everything_has_ended() -> None:
    """A cancelled swap is finished by a task of its own."""
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


async def cancelled(cluster: Cluster, when: Callable[[Target], bool], times: int = 1) -> None:
    """Run a swap that is cancelled at the first `times` turns for which `when` holds."""
    task = asyncio.create_task(cluster.swap().run())
    left = times

    def cancel(target: Target) -> None:
        nonlocal left
        if left and when(target):
            left -= 1
            task.cancel()

    cluster.on_turn = cancel
    with pytest.raises(asyncio.CancelledError):
        await task
    await everything_has_ended()
    assert left == 0


async def test_all_members_change_when_all_are_good() -> None:
    cluster = trio(slow=3)
    assert await cluster.swap().run() == NEW
    assert (cluster.durable, cluster.target.committed, cluster.target.staging) == (NEW, NEW, None)
    assert {member.epoch for member in cluster.members.values()} == {NEW.epoch}
    assert (cluster.serving(), cluster.expelled) == ({8}, {})


async def test_nobody_commits_before_everybody_has_staged() -> None:
    cluster = trio(slow=5)
    staged_at_commit: list[bool] = []
    commit = cluster.commit

    def watched() -> Committed:
        staged_at_commit.extend(member.was_staged for member in cluster.members.values())
        return commit()

    await Swap(NEW_VERSION, cluster, watched).run()
    assert staged_at_commit == [True, True, True]


async def test_a_cluster_without_members_commits() -> None:
    cluster = Cluster()
    assert await cluster.swap().run() == NEW


async def test_one_that_cannot_stage_stops_the_swap_and_is_named() -> None:
    cause = UnknownTensor(name="w")
    cluster = trio(broken=cause)
    with pytest.raises(StageFailed) as caught:
        await cluster.swap().run()
    assert caught.value.facts == {"replica": "c", "version": 8, "cause": cause}
    assert caught.value.http_status == 400
    assert (cluster.durable, cluster.serving()) == (OLD, {7})
    assert [cluster.members[name].was_staged for name in "ab"] == [True, True]
    assert cluster.holds_nothing_staged()


async def test_one_that_never_answers_is_late() -> None:
    cluster = trio(deaf_to={Phase.STAGING})
    with pytest.raises(StageFailed, match=r"replica c .*no answer within 300 s"):
        await cluster.swap().run()
    assert (cluster.durable, cluster.serving()) == (OLD, {7})
    assert cluster.holds_nothing_staged()


async def test_one_that_failed_an_earlier_swap_is_not_taken_for_failing_this_one() -> None:
    cluster = trio(failed="an earlier swap")
    assert await cluster.swap().run() == NEW
    assert cluster.serving() == {8}


async def test_one_that_still_holds_an_earlier_swap_stages_this_one() -> None:
    cluster = trio(staged="an earlier swap", buffer=3)
    assert await cluster.swap().run() == NEW
    assert cluster.serving() == {8}


async def test_one_that_holds_only_an_earlier_swap_has_not_staged_this_one() -> None:
    cluster = trio(staged="an earlier swap", buffer=3, deaf_to={Phase.STAGING})
    with pytest.raises(StageFailed, match="replica c"):
        await cluster.swap().run()
    assert cluster.serving() == {7}


async def test_an_earlier_failure_is_not_the_cause_of_this_one() -> None:
    cluster = trio(failed="an earlier swap", broken=UnknownTensor(name="w"), deaf_to={Phase.STAGING})
    with pytest.raises(StageFailed, match="no answer"):
        await cluster.swap().run()


async def test_a_commit_that_cannot_be_written_aborts_everywhere() -> None:
    cluster = trio()
    cluster.commit_error = StoreFailed(path="/s", detail="No space left on device")
    with pytest.raises(StoreFailed):
        await cluster.swap().run()
    assert (cluster.durable, cluster.serving()) == (OLD, {7})
    assert all(member.was_staged for member in cluster.members.values())
    assert cluster.holds_nothing_staged()


async def test_one_that_does_not_free_its_buffer_does_not_hold_up_the_others() -> None:
    cluster = trio(deaf_to={Phase.ABORTING})
    cluster.commit_error = StoreFailed(path="/s", detail="full")
    with pytest.raises(StoreFailed):
        await cluster.swap().run()
    assert [member.staged for member in cluster.members.values()][:2] == [None, None]


async def test_one_that_does_not_follow_the_commit_is_expelled() -> None:
    cluster = trio(deaf_to={Phase.COMMITTING})
    assert await cluster.swap().run() == NEW
    assert (list(cluster.members), list(cluster.expelled), cluster.serving()) == (["a", "b"], ["c"], {8})


async def test_a_newcomer_during_the_staging_has_to_stage_too() -> None:
    cluster = trio(slow=2)
    newcomer = Member("new", slow=2)
    cluster.on_turn = lambda target: None if "new" in cluster.members else cluster.join(newcomer)
    assert await cluster.swap().run() == NEW
    assert newcomer.was_staged
    assert cluster.serving() == {8}


async def test_a_newcomer_that_cannot_stage_stops_the_swap() -> None:
    cluster = trio(slow=2)
    newcomer = Member("new", broken=UnknownTensor(name="w"))
    cluster.on_turn = lambda target: None if "new" in cluster.members else cluster.join(newcomer)
    with pytest.raises(StageFailed, match="replica new"):
        await cluster.swap().run()
    assert (cluster.durable, cluster.serving()) == (OLD, {7})
    assert cluster.holds_nothing_staged()


async def test_one_that_dies_while_it_stages_is_not_waited_for() -> None:
    cluster = trio(slow=1_000_000)
    turns = itertools.count()

    def die(_: Target) -> None:
        if next(turns) == 3:
            del cluster.members["c"]

    cluster.on_turn = die
    assert await cluster.swap().run() == NEW
    assert cluster.serving() == {8}


async def test_a_cancellation_before_the_commit_point_aborts() -> None:
    cluster = trio(slow=5)
    await cancelled(cluster, lambda target: cluster.members["a"].staged is not None)
    assert (cluster.durable, cluster.serving(), cluster.target.staging) == (OLD, {7}, None)
    assert cluster.members["a"].was_staged
    assert cluster.holds_nothing_staged()


async def test_a_second_cancellation_does_not_stop_the_abort() -> None:
    cluster = trio(slow=5)
    await cancelled(cluster, lambda target: cluster.members["a"].was_staged, times=2)
    assert (cluster.durable, cluster.serving()) == (OLD, {7})
    assert cluster.holds_nothing_staged()


async def test_a_cancellation_after_the_commit_point_rolls_forward() -> None:
    cluster = trio()
    await cancelled(cluster, lambda target: target.committed == NEW)
    assert (cluster.durable, cluster.serving()) == (NEW, {8})


async def test_a_cancellation_after_the_commit_point_still_expels_who_does_not_follow() -> None:
    cluster = trio(deaf_to={Phase.COMMITTING})
    await cancelled(cluster, lambda target: target.committed == NEW)
    assert (list(cluster.expelled), cluster.serving()) == (["c"], {8})


async def test_progress_is_counted_by_the_phase_under_way() -> None:
    cluster = trio(slow=2)
    swap = cluster.swap()
    seen: list[tuple[str, int]] = []
    cluster.on_turn = lambda target: seen.append((swap.phase, sum(swap.done(report) for report in cluster.reports)))
    await swap.run()
    assert [entry for number, entry in enumerate(seen) if entry not in seen[:number]] == [
        ("staging", 0),
        ("staging", 2),
        ("staging", 3),
        ("committing", 0),
        ("committing", 3),
    ]


async def test_progress_of_an_abort_counts_who_holds_nothing() -> None:
    cluster = trio(broken=UnknownTensor(name="w"))
    swap = cluster.swap()
    seen: list[tuple[str, int]] = []
    cluster.on_turn = lambda target: seen.append((swap.phase, sum(swap.done(report) for report in cluster.reports)))
    with pytest.raises(StageFailed):
        await swap.run()
    assert ("aborting", 1) in seen
    assert seen[-1] == ("aborting", 3)


MEMBERS = st.builds(
    Member,
    name=st.uuids().map(str),
    broken=st.none() | st.just(UnknownTensor(name="w")) | st.just(RuntimeError("out of memory")),
    deaf_to=st.sets(st.sampled_from(list(Phase)), max_size=2),
    slow=st.integers(0, 3),
)
GOOD_MEMBERS = st.builds(Member, name=st.uuids().map(str), slow=st.integers(0, 3))


@settings(deadline=None, max_examples=300)
@given(
    members=st.lists(GOOD_MEMBERS | MEMBERS, max_size=5),
    newcomer=st.none() | GOOD_MEMBERS | MEMBERS,
    commit_fails=st.booleans(),
    joins_at=st.integers(0, 8),
    dies_at=st.none() | st.integers(0, 8),
    cancelled_at=st.none() | st.integers(0, 8),
)
def test_whatever_fails_wherever_all_are_new_or_all_are_old(
    members: list[Member],
    newcomer: Member | None,
    commit_fails: bool,
    joins_at: int,
    dies_at: int | None,
    cancelled_at: int | None,
) -> None:
    async def scenario() -> None:
        cluster, turn = Cluster(*(replace(member) for member in members)), 0
        cluster.commit_error = StoreFailed(path="/s", detail="full") if commit_fails else None
        task = asyncio.create_task(cluster.swap().run())

        def world(target: Target) -> None:
            nonlocal turn
            if turn == joins_at and newcomer is not None:
                cluster.join(replace(newcomer))
            if turn == dies_at and members:
                cluster.members.pop(members[0].name, None)
            if turn == cancelled_at:
                task.cancel()
            turn += 1

        cluster.on_turn = world
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        await everything_has_ended()
        assert outcome == NEW or isinstance(outcome, AotiServeError | asyncio.CancelledError)
        assert cluster.serving() <= {cluster.durable.version.number}
        assert cluster.target.committed == cluster.durable
        assert cluster.target.staging is None
        if outcome == NEW:
            assert cluster.durable == NEW
        elif isinstance(outcome, AotiServeError):
            assert cluster.durable == OLD
        for member in cluster.members.values():
            assert member.staged is None or Phase.ABORTING in member.deaf_to

    asyncio.run(scenario())
