"""Which version a request means: by the server's own names, by number, by a label that can be moved."""

from __future__ import annotations

import pytest

from aoti_serve.errors import UnknownVersion
from aoti_serve.gateway.versions.residents import Residents
from aoti_serve.weights.swap.target import Exposure, Staging, Target
from aoti_serve.weights.version import Committed, Version

COMMITTED = Committed(epoch=3, version=Version(number=7), previous=Version(number=5))
CANDIDATE = Staging("swap", Version(number=8), Exposure(share=0.1))
LABELS = {"stable": 7, "old": 5, "next": 8, "lost": 2}


def residents(*, candidate: bool = False, keeps_previous: bool = True) -> Residents:
    found = Residents("m", keeps_previous=keeps_previous)
    found.follow(Target(1, 1, COMMITTED, staging=CANDIDATE if candidate else None, labels=LABELS))
    return found


@pytest.mark.parametrize("asked", ["active", "7", "stable"])
def test_the_version_that_answers_has_three_kinds_of_names(asked: str) -> None:
    assert residents().asked(asked) == residents(candidate=True).asked(asked) == 7


@pytest.mark.parametrize("asked", ["previous", "5", "old"])
def test_so_has_the_version_before_while_it_is_resident(asked: str) -> None:
    assert residents().asked(asked) == 5
    for gone in (residents(candidate=True), residents(keeps_previous=False)):
        with pytest.raises(UnknownVersion):
            gone.asked(asked)


@pytest.mark.parametrize("asked", ["candidate", "8", "next"])
def test_so_has_a_candidate_while_it_is_out(asked: str) -> None:
    assert residents(candidate=True).asked(asked) == 8
    with pytest.raises(UnknownVersion):
        residents().asked(asked)


def test_a_label_whose_version_no_replica_holds_is_told_by_its_name() -> None:
    with pytest.raises(
        UnknownVersion, match=r"holds no version 2, which is labelled 'lost': version 7 answers, .*5 \(previous"
    ):
        residents().asked("lost")


def test_no_label_takes_the_place_of_a_number_or_of_a_name_of_the_servers_own() -> None:
    """No label may be called so; whatever a coordinator of another release says."""
    found = Residents("m", keeps_previous=True)
    found.follow(Target(1, 1, COMMITTED, labels={"7": 5, "active": 5}))
    assert found.asked("7") == found.asked("active") == 7


def test_who_names_no_version_asks_for_none() -> None:
    assert residents().asked(None) is None


def test_a_version_that_is_only_staged_answers_nobody() -> None:
    found = Residents("m", keeps_previous=True)
    found.follow(Target(1, 1, COMMITTED, staging=Staging("swap", Version(number=8))))
    assert found.numbers == [7]
    with pytest.raises(UnknownVersion, match=r"model 'm' holds no version 8: version 7 answers$"):
        found.asked("8")


@pytest.mark.parametrize("asked", ["07", "7 ", "-7", "", "9", "latest", "\N{SUPERSCRIPT TWO}", "x" * 3000])
def test_anything_else_is_refused_and_the_error_says_what_there_is(asked: str) -> None:
    with pytest.raises(UnknownVersion) as refused:
        residents().asked(asked)
    assert str(refused.value).endswith(", and 5 (previous) for those who ask for it")
