"""What is done with what a place shows: newest wins, nothing twice, nothing that still changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.errors import (
    AotiServeError,
    CandidateOut,
    CandidateWithdrawn,
    NotEnoughMemory,
    NotSettled,
    SourceRefused,
    StageFailed,
    StoreFailed,
    SwapInProgress,
    TryAgain,
    UnknownTensor,
    UnreadableWeights,
)
from aoti_serve.weights.audit import AttemptOutcome
from aoti_serve.weights.sources.follow import Follow, Tried, may_pass, pause
from aoti_serve.weights.sources.found import FoundVersion, PlaceFile, natural, versions_in


def file(path: str, fingerprint: str = "f", modified: float = 0.0) -> PlaceFile:
    return PlaceFile(path, f"/place/{path}", 80, modified, fingerprint)


def version(name: str, fingerprint: str = "f", modified: float = 0.0) -> FoundVersion:
    return FoundVersion(name, file(f"{name}/model.safetensors", fingerprint, modified))


def names(versions: list[FoundVersion]) -> list[str]:
    return [version.name for version in versions]


def seen_twice(follow: Follow, *versions: FoundVersion) -> list[str]:
    follow.see(versions)
    return names(follow.see(versions))


def test_a_version_counts_when_it_is_the_same_at_two_polls() -> None:
    follow = Follow("p", None)
    assert follow.see([version("a", "half")]) == []
    assert follow.see([version("a", "whole")]) == []
    assert names(follow.see([version("a", "whole")])) == ["a"]


def test_the_newest_by_time_comes_first_and_of_one_time_the_last_by_number() -> None:
    assert seen_twice(Follow("p", None), version("a", modified=2), version("b", modified=1)) == ["a", "b"]
    steps = [version(f"step-{number}") for number in (10, 9, 100)]
    assert seen_twice(Follow("p", None), *steps) == ["step-100", "step-10", "step-9"]


def test_while_the_newest_is_being_written_the_one_before_it_is_tried() -> None:
    follow = Follow("p", None)
    follow.see([version("a", modified=1), version("b", "half", 2)])
    assert names(follow.see([version("a", modified=1), version("b", "more", 3)])) == ["a"]


def test_what_is_older_than_what_was_tried_is_never_tried_whatever_came_of_that() -> None:
    for outcome in (AttemptOutcome.COMMITTED, AttemptOutcome.FAILED, AttemptOutcome.UNCHANGED):
        follow = Follow("p", None)
        follow.ended(version("b", modified=2), outcome)
        assert seen_twice(follow, version("a", modified=1), version("b", modified=2)) == []
        assert seen_twice(follow, version("a", modified=1)) == [], "the newest was removed"
        assert seen_twice(follow, version("a", "touched", 3)) == ["a"]


def test_what_failed_is_tried_again_when_it_has_changed_and_not_before() -> None:
    follow = Follow("p", None)
    follow.ended(version("a", "bad"), AttemptOutcome.FAILED, "no")
    assert seen_twice(follow, version("a", "bad")) == []
    assert seen_twice(follow, version("a", "good")) == ["a"]


def test_a_file_that_goes_back_to_an_older_one_is_followed() -> None:
    """As an alias of a registry, or a branch of a repository, does."""
    follow = Follow("p", None)
    follow.ended(version("a", "3", modified=3), AttemptOutcome.COMMITTED)
    assert seen_twice(follow, version("a", "2", modified=2)) == ["a"]


def test_what_is_no_whole_file_is_passed_over_until_it_changes() -> None:
    follow = Follow("p", None)
    follow.note_broken(version("b", "cut", 2))
    assert seen_twice(follow, version("a", modified=1), version("b", "cut", 2)) == ["a"]
    assert seen_twice(follow, version("b", "whole", 3)) == ["b"]


def test_what_was_broken_is_forgotten_when_it_goes() -> None:
    follow, broken = Follow("p", None), version("a", "cut")
    assert seen_twice(follow, broken) == ["a"]
    follow.note_broken(broken)
    assert seen_twice(follow, broken) == []
    follow.see([])
    assert seen_twice(follow, broken) == ["a"]


def test_the_next_coordinator_goes_on_where_the_last_one_was() -> None:
    tried = Follow("p", None).ended(version("a"), AttemptOutcome.COMMITTED)
    stored = Tried.model_validate_json(tried.model_dump_json())
    assert seen_twice(Follow("p", stored), version("a")) == []
    assert seen_twice(Follow("another place", stored), version("a")) == ["a"]


def test_a_try_that_ended_the_coordinator_is_made_once_more_and_no_more() -> None:
    first = Follow("p", None).begun(version("a"), 4)
    second = Follow("p", first)
    assert seen_twice(second, version("a")) == ["a"]
    third = Follow("p", second.begun(version("a"), 5))
    assert seen_twice(third, version("a")) == []
    assert seen_twice(third, version("a", "changed")) == ["a"]


@pytest.mark.parametrize(
    ("before", "on_trial", "current", "after"),
    [
        pytest.param("candidate", 4, 3, None, id="still out"),
        pytest.param("candidate", 4, 4, None, id="promoted, and watched"),
        pytest.param("candidate", None, 4, "committed", id="promoted"),
        pytest.param("candidate", None, 3, "failed", id="withdrawn"),
        pytest.param("candidate", 5, 3, "failed", id="withdrawn, and another one is out"),
        pytest.param("begun", 4, 3, "candidate", id="left out by an earlier coordinator"),
        pytest.param("begun", None, 4, "committed", id="promoted before it was remembered"),
        pytest.param("begun", None, 3, None, id="not survived"),
        pytest.param("committed", None, 3, None, id="rolled back by hand"),
    ],
)
def test_what_becomes_of_a_candidate_is_noted_and_it_is_not_tried_again(
    before: str, on_trial: int | None, current: int, after: str | None
) -> None:
    follow = Follow("p", Follow("p", None).ended(version("a"), AttemptOutcome(before), number=4))
    tried = follow.decided(on_trial, current, "it is slow")
    assert (tried.outcome if tried else None) == after
    assert (tried.error if tried else None) == ("it is slow" if after == "failed" else None)
    assert follow.decided(on_trial, current) is None
    assert tried in (None, follow.tried)
    assert seen_twice(follow, version("a")) == (["a"] if (before, after) == ("begun", None) else [])


def test_what_was_tried_before_there_were_candidates_has_no_number_and_stays() -> None:
    follow = Follow("p", Follow("p", None).ended(version("a"), AttemptOutcome.BEGUN))
    assert follow.decided(None, 3) is None


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=3)))
def test_whatever_is_seen_only_steady_and_new_versions_are_tried_and_none_twice_in_a_row(
    polls: list[dict[str, tuple[int, int]]],
) -> None:
    follow, before, last = Follow("p", None), dict[str, str](), None
    for poll in polls:
        versions = [version(name, str(print_), at) for name, (print_, at) in poll.items()]
        for tried in follow.see(versions)[:1]:
            path = tried.file.path
            assert before.get(path) == tried.file.fingerprint
            assert last is None or tried.order > last.order or (path == last.file.path and not tried.is_in([last]))
            follow.ended(tried, AttemptOutcome.FAILED)
            last = tried
        before = {found.file.path: found.file.fingerprint for found in versions}


def test_versions_are_folders_with_the_file_and_files_of_safetensors() -> None:
    paths = ["step-9/model.safetensors", "step-9/optimizer.pt", "tuned.safetensors", "model.safetensors", "notes.txt"]
    paths += ["logs/events", ".cache/model.safetensors", "tmp-step-10/model.safetensors", "_x.safetensors"]
    paths += ["model-00001-of-00002.safetensors", "deep/er/model.safetensors", "step-9/extra.safetensors"]
    assert names(versions_in([file(path) for path in paths], "run")) == ["step-9", "tuned", "run"]
    assert names(versions_in([file("")], "the-file")) == ["the-file"]


def test_a_folder_of_shards_is_a_version_that_changes_with_any_of_them() -> None:
    shards = [file(f"step-9/model-0000{number}-of-00002.safetensors", modified=number) for number in (1, 2)]
    index = file("step-9/model.safetensors.index.json", modified=1)
    [found] = versions_in([index, *shards], "run")
    assert (found.name, found.file.uri, found.file.modified) == ("step-9", index.uri, 2)
    assert found.shards == tuple(shards)
    for changed in ([index, shards[0]], [index, shards[0], file(shards[1].path, "written", 2)]):
        assert not found.is_in(versions_in(changed, "run"))
    assert found.is_in(versions_in([*reversed(shards), index], "run"))


def test_beside_all_in_one_file_shards_do_not_count_and_at_the_top_the_place_is_the_version() -> None:
    both = [file("step-9/model.safetensors"), file("step-9/model.safetensors.index.json")]
    assert [found.file for found in versions_in(both, "run")] == both[:1]
    assert names(versions_in([file("model.safetensors.index.json")], "run")) == ["run"]


@pytest.mark.parametrize("marker", ["_SUCCESS", "COMPLETE"])
def test_where_one_folder_is_marked_as_complete_the_others_must_be(marker: str) -> None:
    files = [file(f"step-{number}/model.safetensors") for number in (8, 9)]
    assert names(versions_in(files, "run")) == ["step-8", "step-9"]
    files.append(file(f"step-8/{marker}"))
    assert names(versions_in([*files, file("top.safetensors")], "run")) == ["step-8", "top"]


def test_a_label_has_nothing_that_no_label_may_have() -> None:
    assert version("a\x1bb\x7f").label == "a?b?"
    assert len(version("x" * 300).label) == 256


def test_numbers_in_names_count_as_numbers() -> None:
    assert sorted(["v10", "v9", "v", "9", "a1b2", "a1b10", "a٣"], key=natural)[0] in ("9", "a1b2", "v")
    assert sorted(["step-10", "step-9"], key=natural) == ["step-9", "step-10"]


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (SwapInProgress(model="m", phase="staging"), True),
        (TryAgain(detail="no live replica"), True),
        (UnreadableWeights(detail="the place is cut off"), True),
        (StoreFailed(path="store", detail="full"), True),
        (UnknownTensor(name="w"), False),
        (SourceRefused(uri="/x", reason="no"), False),
        (StageFailed(replica="r", version=3, cause=TryAgain(detail="gone")), False),
        (StageFailed(replica="r", version=3, cause=NotEnoughMemory(place="r", needed=1, spare=0, available=0)), False),
        (CandidateOut(model="m", version=3), True),
        (CandidateWithdrawn(version=3, reason="a replica has gone"), False),
        (NotSettled(model="m", version=3, reason="committed"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_an_error_of_the_weights_is_final_and_one_of_the_moment_is_not(
    error: AotiServeError | Exception, passes: bool
) -> None:
    assert may_pass(error) is passes


def test_pauses_grow_to_ten_periods() -> None:
    assert [pause(3, failures) for failures in (0, 1, 2, 3, 4, 99)] == [3, 6, 12, 24, 30, 30]
