"""The coordinator's books, event by event, and a member's side of the conversation."""

from __future__ import annotations

import pytest

from aoti_serve.address import Address
from aoti_serve.errors import RuntimeFailed
from aoti_serve.weights.swap.members import POLL_S, TICK_S, UNHEARD_S, LagDetector, MemberTable, TimeAllowance
from aoti_serve.weights.swap.session import MemberSession
from aoti_serve.weights.swap.target import Report, Staging, Target, TargetRevision
from aoti_serve.weights.version import Committed, Version
from tests.unit.weights.swap.simulated_cluster import receipt

VERSION = Version(number=2, digest="sha of 2")
OTHER = Version(number=1, digest="sha of 1")
BYTES = VERSION.model_copy(update={"digest": "x"})
COMMITTED = Committed(epoch=5, version=VERSION)


def address(name: str) -> Address:
    return Address(name, "node", "/a/path", runners=1, key=b"")


def table_of(*reports: Report) -> MemberTable:
    table = MemberTable(7, COMMITTED)
    for report in reports:
        table.hear(report)
    return table


def test_what_may_answer_already_is_a_member_of_which_nothing_is_known() -> None:
    """A coordinator that has just started must not commit behind the back of those it has not heard of."""
    table = table_of()
    table.expect(["r1"])
    assert [(report.member, report.joining) for report in table.reports] == [("r1", False)]
    assert (table.behind, table.heard) == ({"r1"}, set())
    table.hear(Report("r1", turn=1, epoch=5))
    table.expect(["r1"])
    assert (table.behind, table.heard) == (set(), {"r1"})


def test_one_that_loads_is_not_waited_for_once_it_has_said_so() -> None:
    table, laggards = table_of(Report("r1", epoch=5)), LagDetector(0.0, period=100.0)
    table.expect(["new"])
    assert table.hear(Report("new", joining=True))
    assert (table.behind, laggards.look(table)) == (set(), [])
    assert not table.hear(Report("new", joining=True)), "it says so again and again"


def test_a_report_that_was_held_up_replaces_no_later_one() -> None:
    table = table_of(Report("r1", turn=2, epoch=5))
    assert not table.hear(Report("r1", turn=1, epoch=4))
    assert not table.hear(Report("r1", turn=3, epoch=5)), "it says nothing new"
    assert table.hear(Report("r1", turn=4, epoch=6))
    assert [report.epoch for report in table.reports] == [6]


def test_gateways_hear_of_replicas_that_have_joined() -> None:
    joining = Report("r1", address=address("r1"), turn=1, joining=True, epoch=5)
    table = table_of(joining)
    assert not table.target.addresses
    table.hear(Report("r1", address=address("r1"), turn=2, epoch=5))
    table.hear(joining)
    assert table.target.addresses == (address("r1"),)
    table.remove(["r1"])
    assert not table.target.addresses


def test_replicas_hear_that_there_are_members_on_other_nodes() -> None:
    table = table_of(Report("r1", node="one"))
    assert not table.target.spread
    table.hear(Report("g1", node="two"))
    assert table.target.spread


def test_a_member_is_answered_at_once_if_there_is_news_for_it() -> None:
    table = table_of()
    newest = TargetRevision(7, table.target.revision)
    assert not table.has_news(newest)
    assert table.has_news(None)
    assert table.has_news(TargetRevision(6, 1000)), "what an earlier coordinator has counted means nothing"
    table.publish(staging=Staging("s", VERSION))
    assert table.has_news(newest)


def test_a_target_keeps_what_is_not_published_anew_but_for_what_is_staged() -> None:
    table = table_of()
    table.publish(staging=Staging("s", VERSION), settled=5)
    table.publish()
    assert (table.target.staging, table.target.settled, table.target.committed) == (None, 5, COMMITTED)


def test_the_dead_are_forgotten_and_newcomers_are_not() -> None:
    table = table_of(*(Report(name, address=address(name)) for name in ("r1", "dead", "new")))
    assert table.keep(alive={"r1"}, known={"r1", "dead"})
    assert not table.keep(alive={"r1"}, known={"r1", "dead"})
    assert [report.member for report in table.reports] == ["r1", "new"]
    assert table.target.addresses == (address("r1"), address("new"))
    assert table.heard == {"r1", "new"}


DIVERGED = [
    pytest.param(Report("r1", epoch=4), id="behind"),
    pytest.param(Report("r1", epoch=5, receipt=receipt("r1", 5, OTHER)), id="another version"),
    pytest.param(
        Report("r1", epoch=5, receipt=receipt("r1", 5, VERSION.model_copy(update={"digest": "x"}))), id="bytes"
    ),
]


@pytest.mark.parametrize("report", DIVERGED)
def test_one_that_has_diverged_is_late_after_so_many_looks(report: Report) -> None:
    table, laggards = table_of(report, Report("r2", epoch=5)), LagDetector(patience=1.0, period=0.5)
    assert [laggards.look(table) for _ in range(3)] == [[], [], ["r1"]]
    laggards.forgive()
    assert not laggards.look(table)


def test_one_that_catches_up_is_not_late() -> None:
    table, laggards = table_of(Report("r1", turn=1, epoch=4)), LagDetector(patience=1.0, period=0.5)
    laggards.look(table)
    laggards.look(table)
    table.hear(Report("r1", turn=2, epoch=5))
    laggards.look(table)
    table.publish(committed=Committed(epoch=6, version=OTHER))
    assert not laggards.look(table)


def test_one_that_was_never_heard_has_longer_and_one_that_joins_has_all_the_time() -> None:
    table, laggards = table_of(Report("r1", epoch=5), Report("new", joining=True)), LagDetector(0.0, period=1.0)
    table.expect(["silent"])
    looks = [laggards.look(table) for _ in range(int(UNHEARD_S) + 1)]
    assert looks == [[]] * int(UNHEARD_S) + [["silent"]]


def test_a_coordinator_that_has_heard_no_member_finds_nobody_late() -> None:
    table, laggards = table_of(), LagDetector(0.0, period=100.0)
    table.expect(["r1"])
    assert not laggards.look(table)


def test_what_all_members_hold_is_settled_between_swaps() -> None:
    """A coordinator may have died after the commit point: its successor completes what it began."""
    table = table_of(Report("r1", turn=1, epoch=4))
    assert not table.settle()
    table.hear(Report("r1", turn=2, epoch=5))
    assert table.settle()
    assert table.target.settled == 5
    assert not table.settle()


def test_time_counts_only_while_somebody_is_heard_and_this_process_runs() -> None:
    allowance = TimeAllowance(1.0)
    allowance.spend(0.3, silence=0.0)
    assert allowance.left == pytest.approx(0.7)
    allowance.spend(0.3, silence=POLL_S + TICK_S)
    assert allowance.left == pytest.approx(0.7), "nobody was heard"
    allowance = TimeAllowance(10.0)
    allowance.spend(3600.0, silence=0.0)
    assert allowance.left == 10.0 - 2 * TICK_S, "this process was stopped"


def target(term: int, revision: int = 1) -> Target:
    return Target(term=term, revision=revision, committed=COMMITTED)


def test_a_member_joins_once_it_has_said_so() -> None:
    talk = MemberSession()
    first, held = talk.report(Report("r1")), Report("r1", epoch=5)
    assert (first.joining, first.turn, first.followed) == (True, 1, TargetRevision())
    talk.followed(target(7), held)
    assert not talk.joins()
    second = talk.report(held)
    assert (second.joining, second.turn, second.followed) == (False, 2, TargetRevision(7, 1))
    assert talk.joins()


def test_a_member_does_not_listen_to_an_older_coordinator() -> None:
    talk = MemberSession()
    talk.followed(target(7, 9), Report("r1", epoch=5))
    assert [talk.heeds(target(term, 1)) for term in (6, 7, 8)] == [False, True, True]


def test_a_member_that_cannot_hold_its_target_is_ill() -> None:
    with pytest.raises(RuntimeFailed, match="still not at"):
        MemberSession().followed(target(7), Report("r1", epoch=4))
