"""The rules of labels that can be moved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aoti_serve.errors import LabelMoved, TooManyLabels
from aoti_serve.weights.labels import MAX_LABELS, LabelChange, VersionLabels, expectation

NAMES = st.sampled_from(["stable", "canary", "a", "v1.2_x-y"])
VERSIONS = st.integers(0, 5)
CHANGES = st.builds(
    LabelChange,
    name=NAMES,
    version=st.none() | VERSIONS,
    expected=st.none() | VERSIONS | st.just("any"),
)


@pytest.mark.parametrize("name", ["stable", "a", "7a", "2026-11-29", "x" * 64, "Blue_Green.2"])
def test_a_name_is_of_letters_digits_and_three_signs(name: str) -> None:
    assert LabelChange(name=name, version=1).name == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "1 to 64"),
        ("x" * 65, "1 to 64"),
        ("a b", "1 to 64"),
        ("a\n", "1 to 64"),
        ("..", "a letter or a digit first"),
        ("-x", "a letter or a digit first"),
        ("ä", "1 to 64"),
        ("٣", "1 to 64"),
        ("12", "taken for a version's number"),
        ("active", "choose another name"),
        ("previous", "choose another name"),
        ("candidate", "choose another name"),
    ],
)
def test_a_name_that_is_none_is_refused_in_words(name: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        LabelChange(name=name, version=1)


@given(st.lists(CHANGES))
def test_a_change_is_made_if_what_stands_is_what_was_expected_and_else_nothing_changes(
    changes: list[LabelChange],
) -> None:
    labels, model = VersionLabels(), dict[str, int]()
    for change in changes:
        now = model.get(change.name)
        if now != change.version and change.expected not in ("any", now):
            with pytest.raises(LabelMoved) as caught:
                labels.changed(change, "m")
            assert caught.value.facts == {
                "model": "m",
                "label": change.name,
                "version": now,
                "expected": change.expected,
            }
            continue
        labels = labels.changed(change, "m")
        model.pop(change.name, None)
        if change.version is not None:
            model[change.name] = change.version
        assert labels.root == model
        assert labels.changed(change, "m") == labels, "a repeat is no error"
        assert VersionLabels.model_validate_json(labels.model_dump_json()) == labels


def test_there_are_so_many_labels_at_most_and_those_can_still_be_moved() -> None:
    labels = VersionLabels({f"l{count}": 1 for count in range(MAX_LABELS)})
    with pytest.raises(TooManyLabels, match="it has 64 labels"):
        labels.changed(LabelChange(name="more", version=1), "m")
    assert labels.changed(LabelChange(name="l3", version=2), "m").root["l3"] == 2


def test_a_label_is_lost_with_its_version_and_version_0_always_is_there() -> None:
    assert VersionLabels({"a": 0, "b": 3, "c": 4}).lost([4, 5]) == {"b": 3}


@pytest.mark.parametrize(("text", "means"), [("none", None), ("7", 7), ("any", "any"), ("x", "x"), ("٣", "٣")])
def test_an_expectation_in_words(text: str, means: int | str | None) -> None:
    assert expectation(text) == means
