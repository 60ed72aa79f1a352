"""The judge of the chaos lab: which answers may be given while weights change, and while a candidate is out."""

from __future__ import annotations

from typing import Any

from chaoslab.judge import Answer, Asked, Judge


def status(epoch: int, number: int, value: int, candidate: tuple[int, int] | None = None) -> dict[str, Any]:
    out = candidate and {"version": {"number": candidate[0], "label": str(candidate[1])}}
    return {"epoch": epoch, "current": {"number": number, "label": str(value)}, "candidate": out}


def judging(epoch: int = 1, number: int = 1, value: int = 10) -> Judge:
    judge = Judge()
    judge.heard(status(epoch, number, value))
    return judge


def answer(judge: Judge, version: int, *values: float, asked: Asked | None = None, client: int = 0) -> None:
    judge.answered(Answer(client, asked or judge.asked(), version, frozenset(values)), 1.0)


def lost(judge: Judge) -> dict[str, int]:
    judge.decide()
    counts = vars(judge.counts)
    return {name: counts[name] for name in ("failed", "mixed", "stale", "uncommitted", "moved") if counts[name]}


def test_the_committed_version_may_answer_with_its_own_weights() -> None:
    judge = judging()
    answer(judge, 1, 10.0)
    assert lost(judge) == {}
    answer(judge, 1, 11.0)
    answer(judge, 1, 10.0, 11.0)
    assert lost(judge) == {"mixed": 2}


def test_a_candidate_may_answer_before_anybody_has_said_its_number() -> None:
    judge = judging()
    judge.offered(20)
    answer(judge, 2, 20.0)
    judge.heard(status(1, 1, 10, candidate=(2, 20)))
    assert (lost(judge), judge.number_of(20)) == ({}, 2)


def test_a_candidate_that_answers_under_another_number_is_mixed_up() -> None:
    judge = judging()
    judge.offered(20)
    answer(judge, 1, 20.0)
    answer(judge, 2, 20.0)
    judge.heard(status(1, 1, 10, candidate=(3, 30)))
    answer(judge, 3, 20.0)
    assert lost(judge) == {"mixed": 2}


def test_weights_that_nobody_has_offered_may_not_answer() -> None:
    judge = judging()
    answer(judge, 2, 20.0)
    assert lost(judge) == {"uncommitted": 1}


def test_a_withdrawn_candidate_may_answer_only_what_was_asked_before() -> None:
    judge = judging()
    judge.offered(20)
    before = judge.asked()
    judge.withdrawn(20)
    answer(judge, 2, 20.0, asked=before)
    assert lost(judge) == {}
    answer(judge, 2, 20.0)
    assert lost(judge) == {"uncommitted": 1}


def test_the_withdrawal_of_one_candidate_is_none_of_the_next() -> None:
    judge = judging()
    judge.offered(20)
    judge.withdrawn(20)
    judge.offered(30)
    answer(judge, 3, 30.0)
    assert lost(judge) == {}


def test_another_commit_ends_a_candidate_whose_withdrawal_was_not_heard_of() -> None:
    judge = judging()
    judge.offered(20)
    before = judge.asked()
    judge.heard(status(2, 3, 30))
    answer(judge, 2, 20.0, asked=before)
    assert lost(judge) == {}
    answer(judge, 2, 20.0)
    assert lost(judge) == {"uncommitted": 1}


def test_a_promoted_candidate_is_a_version_as_any_other() -> None:
    judge = judging()
    judge.offered(20)
    before = judge.asked()
    judge.heard(status(2, 2, 20))
    answer(judge, 2, 20.0)
    answer(judge, 1, 10.0, asked=before)
    assert lost(judge) == {}
    answer(judge, 1, 10.0)
    assert lost(judge) == {"stale": 1}
    judge.heard(status(3, 1, 10))  # rolled back
    answer(judge, 2, 20.0)
    assert lost(judge) == {"stale": 2}


def test_a_client_keeps_its_version_while_a_share_stands() -> None:
    judge = judging()
    judge.offered(20)
    with judge.standing("half"):
        answer(judge, 2, 20.0, client=1)
        answer(judge, 1, 10.0, client=2)
        before = judge.asked()
    answer(judge, 1, 10.0, client=1)  # between the times anything may happen
    with judge.standing("half"):
        answer(judge, 1, 10.0, asked=before, client=1)
        answer(judge, 2, 20.0, client=1)
        assert lost(judge) == {}
        answer(judge, 2, 20.0, client=2)
    assert lost(judge) == {"moved": 1}
    with judge.standing("another"):
        answer(judge, 1, 10.0, client=1)
    assert lost(judge) == {"moved": 1}
