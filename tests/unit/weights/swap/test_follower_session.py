"""A member's side of the talk with its coordinators."""

from __future__ import annotations

import pytest

from aoti_serve.errors import RuntimeFailed
from aoti_serve.weights.swap.follower import MemberSession
from aoti_serve.weights.swap.target import NOTHING_FOLLOWED, Report, Target, TargetRevision
from aoti_serve.weights.version import Committed, Version

COMMITTED = Committed(epoch=5, version=Version(number=2, digest="sha of 2"))


def target(term: int, revision: int = 1) -> Target:
    return Target(term=term, revision=revision, committed=COMMITTED)


def test_a_member_joins_once_it_has_said_so() -> None:
    session = MemberSession()
    first, held = session.report(Report("r1")), Report("r1", epoch=5)
    assert (first.joining, first.turn, first.followed) == (True, 1, NOTHING_FOLLOWED)
    session.follow(target(7), held)
    assert not session.join()
    second = session.report(held)
    assert (second.joining, second.turn, second.followed) == (False, 2, TargetRevision(7, 1))
    assert session.join()


def test_a_member_listens_to_the_newest_coordinator_that_it_knows() -> None:
    session = MemberSession()
    assert session.take(target(7, 9))
    assert [session.take(target(term)) for term in (6, 7, 8, 7)] == [False, True, True, False]
    assert session.newest == target(8)


def test_a_target_that_was_overtaken_changes_nothing() -> None:
    session = MemberSession()
    session.take(target(7, 9))
    session.take(target(7, 8))
    assert session.newest == target(7, 9)


def test_a_member_that_leaves_says_so_from_then_on() -> None:
    session = MemberSession()
    session.leave()
    assert session.report(Report("r1")).leaving


def test_a_member_that_cannot_hold_its_target_is_ill() -> None:
    with pytest.raises(RuntimeFailed, match="still not at"):
        MemberSession().follow(target(7), Report("r1", epoch=4))
