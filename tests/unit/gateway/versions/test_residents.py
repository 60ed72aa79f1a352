"""Which versions can be asked for, and by which names."""

from __future__ import annotations

import pytest

from aoti_serve.errors import UnknownVersion
from aoti_serve.gateway.versions.residents import Residents
from aoti_serve.weights.swap.target import Exposure, Staging, Target
from aoti_serve.weights.version import Committed, Version

COMMITTED = Committed(epoch=3, version=Version(number=7), previous=Version(number=5))


def residents(staging: Staging | None = None, *, keeps_previous: bool = True) -> Residents:
    made = Residents("m", keeps_previous=keeps_previous)
    made.follow(Target(term=1, revision=1, committed=COMMITTED, staging=staging))
    return made


def test_what_is_resident_can_be_asked_for_by_number_and_by_name() -> None:
    found = residents()
    assert [found.asked(name) for name in (None, "7", "active", "5", "previous")] == [None, 7, 7, 5, 5]
    assert found.numbers == [5, 7]


def test_a_candidate_has_the_memory_of_the_previous_version() -> None:
    found = residents(Staging("s", Version(number=8), Exposure()))
    assert [found.asked(name) for name in ("8", "candidate", "7")] == [8, 8, 7]
    with pytest.raises(UnknownVersion):
        found.asked("previous")


def test_a_version_that_is_only_staged_answers_nobody() -> None:
    found = residents(Staging("s", Version(number=8)))
    assert found.numbers == [7]
    with pytest.raises(UnknownVersion, match=r"model 'm' answers with version 7, not 8$"):
        found.asked("8")


def test_without_a_previous_version_in_memory_there_is_none() -> None:
    assert residents(keeps_previous=False).numbers == [7]


@pytest.mark.parametrize("asked", ["07", "7 ", "-7", "", "9", "latest", "\N{SUPERSCRIPT TWO}", "x" * 3000])
def test_anything_else_is_refused_and_the_error_says_what_there_is(asked: str) -> None:
    with pytest.raises(UnknownVersion) as refused:
        residents().asked(asked)
    assert str(refused.value).endswith("; who asks for it gets 5 (previous)")
