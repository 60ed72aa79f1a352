"""The coordinator's books, event by event, and a member's side of the conversation."""

from __future__ import annotations

import pytest

from aoti_serve.address import Address
from aoti_serve.weights.swap.coordination import Coordination
from aoti_serve.weights.swap.members import ENDED_S, KILL_AGAIN_S, MemberTable
from aoti_serve.weights.swap.states import State
from aoti_serve.weights.swap.target import Report, Staging
from aoti_serve.weights.swap.timeouts import (
    MEMBER_SILENCE_S,
    MOST,
    TICK_S,
    UNHEARD_S,
    LagDetector,
    SwapDeadlines,
    TimeAllowance,
)
from aoti_serve.weights.version import Committed, Version
from tests.unit.weights.swap.simulated_memory import receipt

VERSION = Version(number=2, digest="sha of 2")
OTHER = Version(number=1, digest="sha of 1")
COMMITTED = Committed(epoch=5, version=VERSION)
LOOKS = 3  # that a member with a patience of one second gets


def address(name: str) -> Address:
    return Address(name, "node", "/a/path", runners=1, key=b"")


def table_of(*reports: Report) -> MemberTable:
    table = MemberTable(7, COMMITTED)
    for report in reports:
        table.connect(report.member)
        table.hear(report)
    return table


def test_what_may_answer_already_is_a_member_of_which_nothing_is_known() -> None:
    """A coordinator that has just started must not commit behind the back of those it has not heard of."""
    table = table_of()
    table.expect(["r1"])
    assert [(report.member, report.joining) for report in table.reports] == [("r1", False)]
    assert (table.behind, table.heard, table.away) == ({"r1"}, set(), {"r1"})
    table.connect("r1")
    table.hear(Report("r1", turn=1, epoch=5))
    table.expect(["r1"])
    assert (table.behind, table.heard, table.away) == (set(), {"r1"}, set())


def test_one_that_loads_is_not_waited_for_once_it_has_said_so() -> None:
    table, lag = table_of(Report("r1", epoch=5)), LagDetector(0.0)
    table.expect(["new"])
    assert table.hear(Report("new", joining=True))
    assert (table.behind, lag.late_members(table)) == (set(), [])
    assert not table.hear(Report("new", joining=True)), "it says so again and again"


def test_a_report_that_was_held_up_replaces_no_later_one() -> None:
    table = table_of(Report("r1", turn=2, epoch=5))
    assert not table.hear(Report("r1", turn=1, epoch=4))
    assert not table.hear(Report("r1", turn=3, epoch=5)), "it says nothing new"
    assert table.hear(Report("r1", turn=4, epoch=6))
    assert [report.epoch for report in table.reports] == [6]


def test_addresses_are_those_of_replicas_that_have_joined() -> None:
    joining = Report("r1", address=address("r1"), turn=1, joining=True, epoch=5)
    table = table_of(joining)
    assert (table.addresses, table.rerouted) == ({}, set())
    table.hear(Report("r1", address=address("r1"), turn=2, epoch=5))
    table.hear(joining)
    assert (table.addresses, table.rerouted) == ({"r1": address("r1")}, {"r1"})
    table.remove("r1")
    assert table.addresses == {}


def test_replicas_hear_whether_there_are_members_on_other_nodes() -> None:
    table = table_of(Report("r1", node="one"))
    assert not table.target.spread
    table.hear(Report("g1", node="two"))
    assert table.target.spread
    table.remove("g1")
    assert not table.target.spread


def test_a_target_keeps_what_is_not_published_anew_but_for_what_is_staged() -> None:
    table = table_of()
    table.publish(staging=Staging("s", VERSION), settled_epoch=5)
    table.publish()
    assert (table.target.staging, table.target.settled_epoch, table.target.committed) == (None, 5, COMMITTED)


def test_a_connection_that_ends_after_the_kill_is_the_end_of_the_process() -> None:
    table = table_of(Report("r1", turn=1, epoch=4), Report("r2", turn=1, epoch=4))
    table.expel(["r1", "r2"], now=0.0)
    table.disconnect("r1")
    table.killed(["r1", "r2"], now=0.0)
    assert set(table.ending) == {"r1", "r2"}, "the connection of the first may have ended for any reason"
    table.disconnect("r2")
    assert table.living == set(table.ending) == {"r1"}
    table.expire(ENDED_S - 1)
    assert set(table.ending) == {"r1"}
    table.expire(ENDED_S)
    assert not table.ending


def test_a_connection_that_was_cut_says_nothing_of_the_process() -> None:
    table = table_of(Report("r1", turn=1, epoch=4), Report("r2", turn=1, epoch=5))
    table.expel(["r1"], now=0.0)
    table.killed(["r1"], now=0.0)
    table.disconnect("r1", cut=True)
    assert set(table.ending) == {"r1"}
    table.disconnect("r2", cut=True)
    table.lose("r2", 0.0, unreachable=True)
    assert set(table.ending) == {"r1", "r2"}


def test_an_order_to_end_a_process_is_given_again_until_it_was_carried_out() -> None:
    table = table_of(Report("r1", turn=1, epoch=4))
    table.expel(["r1"], now=0.0)
    assert [table.overdue(now) for now in (1.0, KILL_AGAIN_S, KILL_AGAIN_S + 1)] == [(), ("r1",), ()]
    table.expire(10 * ENDED_S)
    assert set(table.ending) == {"r1"}, "it was never killed"
    table.killed(["r1"], now=7.0)
    assert table.overdue(100.0) == ()
    assert (table.killed_before(6.0), table.killed_before(7.0)) == (set(), {"r1"})


def test_one_that_was_expelled_and_speaks_is_a_member_again() -> None:
    table = table_of(Report("r1", turn=1, epoch=4))
    table.expel(["r1"], now=0.0)
    table.hear(Report("r1", turn=2, epoch=5))
    assert (list(table.ending), [report.member for report in table.reports]) == ([], ["r1"])


@pytest.mark.parametrize(
    ("heard", "ended", "unreachable", "certain"),
    [
        pytest.param(True, True, True, True, id="its connection has ended"),
        pytest.param(True, False, True, False, id="its node is cut off"),
        pytest.param(False, False, True, False, id="its node was cut off from the start"),
        pytest.param(True, False, False, True, id="its node says so"),
        pytest.param(False, False, False, True, id="its node says so of one that was never heard"),
    ],
)
def test_the_end_of_a_process_is_certain_or_not(heard: bool, ended: bool, unreachable: bool, certain: bool) -> None:
    table = table_of(*[Report("r1", turn=1, epoch=5)] * heard)
    table.expect(["r1"])
    if ended:
        table.disconnect("r1")
    assert table.lose("r1", 0.0, unreachable=unreachable)
    assert bool(table.ending) is not certain
    assert table.living == (set() if certain else {"r1"})
    assert not table.reports


DIVERGED = [
    pytest.param(Report("r1", epoch=4), id="behind"),
    pytest.param(Report("r1", epoch=5, receipt=receipt("r1", 5, OTHER)), id="another version"),
    pytest.param(
        Report("r1", epoch=5, receipt=receipt("r1", 5, VERSION.model_copy(update={"digest": "x"}))), id="bytes"
    ),
]


@pytest.mark.parametrize("report", DIVERGED)
def test_one_that_has_diverged_is_late_after_so_many_looks(report: Report) -> None:
    table, lag = table_of(report, Report("r2", epoch=5)), LagDetector(patience=1.0)
    assert [lag.late_members(table) for _ in range(LOOKS)] == [[], [], ["r1"]]
    lag.forgive()
    assert not lag.late_members(table)


def test_one_that_catches_up_is_not_late() -> None:
    table, lag = table_of(Report("r1", turn=1, epoch=4)), LagDetector(patience=1.0)
    lag.late_members(table)
    lag.late_members(table)
    table.hear(Report("r1", turn=2, epoch=5))
    lag.late_members(table)
    table.publish(committed=Committed(epoch=6, version=OTHER))
    assert table.behind == {"r1"}
    assert not lag.late_members(table)


def test_one_that_was_never_heard_has_longer_and_one_that_joins_has_all_the_time() -> None:
    table, lag = table_of(Report("r1", epoch=5), Report("new", joining=True)), LagDetector(0.0)
    table.expect(["silent"])
    looks = [lag.late_members(table) for _ in range(int(UNHEARD_S / TICK_S) + 1)]
    assert looks == [[]] * int(UNHEARD_S / TICK_S) + [["silent"]]


def test_a_coordinator_that_has_heard_no_member_finds_none_late() -> None:
    table, lag = table_of(), LagDetector(0.0)
    table.expect(["r1"])
    assert not any(lag.late_members(table) for _ in range(100))


def test_what_all_members_hold_is_settled_between_swaps() -> None:
    """A coordinator may have died after the commit point: its successor completes what it began."""
    table = table_of(Report("r1", turn=1, epoch=4))
    assert not table.settle()
    table.hear(Report("r1", turn=2, epoch=5))
    assert table.settle()
    assert table.target.settled_epoch == 5
    assert not table.settle()


def test_time_counts_only_while_a_member_is_heard_and_this_process_runs() -> None:
    allowance = TimeAllowance(1.0)
    assert not allowance.spend(0.3, silence=0.0)
    assert allowance.left == pytest.approx(0.7)
    allowance.spend(0.3, silence=MEMBER_SILENCE_S)
    assert allowance.left == pytest.approx(0.7), "no member was heard"
    allowance = TimeAllowance(10.0)
    allowance.spend(3600.0, silence=0.0)
    assert allowance.left == 10.0 - 2 * TICK_S, "this process was stopped"
    assert TimeAllowance(0.5).spend(0.5, silence=0.0)
    allowance = TimeAllowance(1.0)
    assert [allowance.spend(1.0, silence=1e6) for _ in range(MOST)] == [False] * (MOST - 1) + [True], "not for ever"


def test_labels_are_told_when_they_change_and_stay_through_every_other_change() -> None:
    table = table_of(Report("r1", turn=1, epoch=5))
    table.relabel({"stable": 2})
    told = table.target
    table.relabel({"stable": 2})
    assert table.target is told, "nothing new"
    table.publish(staging=Staging("s", OTHER))
    table.publish(committed=Committed(epoch=6, version=OTHER))
    table.settle()
    assert (table.target.labels, table.target.revision > told.revision) == ({"stable": 2}, True)
    table.relabel({})
    assert table.target.labels == {}


def test_a_version_is_tried_by_a_processor_where_the_model_has_some() -> None:
    for wanted, found in ((False, ""), (True, "processor")):
        table = MemberTable(7, COMMITTED, processors=wanted)
        assert table.lacks == "replica"
        table.hear(Report("r1", runners=1, epoch=5))
        table.hear(Report("p1", processor=True, joining=True))
        assert table.lacks == found
        table.hear(Report("p1", turn=1, processor=True, epoch=5))
        assert table.lacks == ""
        assert {report.member for report in table.live_stagers} == {"r1", "p1"}
        assert not any(report.is_gateway for report in table.reports)


def test_a_processor_that_ends_while_it_stages_fails_the_swap() -> None:
    rules = Coordination(7, COMMITTED, SwapDeadlines(), lambda: 0.0, processors=True)
    for member in (Report("r1", runners=1, epoch=5), Report("p1", processor=True, epoch=5)):
        rules.connect(member.member)
        rules.hear(member)
    swap = rules.begin(Version(number=3, digest="sha of 3"))
    rules.hear(Report("r1", turn=1, runners=1, epoch=5, staged=swap.id))
    assert (swap.state, swap.waiting) == (State.STAGING, {"p1"})
    rules.disconnect("p1")
    rules.remove_ended({"r1"}, {"p1"})
    assert swap.state is State.ABORTING
    assert "p1 could not stage version 3" in str(swap.error)
