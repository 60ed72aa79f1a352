"""Rules rename and drop tensors, within bounds, whatever their patterns are."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from aoti_serve.errors import WrongNameRule
from aoti_serve.signature.name_rules import MAX_RULE, MAX_RULES, NameRules
from aoti_serve.weights.files import naming
from aoti_serve.weights.files.naming import check_rules, renamed

NAMES = {"bert.encoder.weight": 1, "bert.norm.gamma": 2, "bert.pooler.bias": 3, "cls.bias": 4}


def rules(*rename: str, drop: tuple[str, ...] = ()) -> NameRules:
    return NameRules(rename=rename, drop=drop)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        pytest.param(rules(), NAMES, id="none"),
        pytest.param(
            rules(r"bert\.=", drop=("pooler.*", r"cls\..*")), {"encoder.weight": 1, "norm.gamma": 2}, id="cut-and-drop"
        ),
        pytest.param(rules("=model."), {f"model.{name}": number for name, number in NAMES.items()}, id="add"),
        pytest.param(
            rules(r"bert\.=text.", r"(.*)\.gamma=\1.weight", drop=("cls.*", ".*bias")),
            {"text.encoder.weight": 1, "text.norm.weight": 2},
            id="in-turn-with-groups",
        ),
        pytest.param(rules("encoder=", "ert="), NAMES, id="only-at-the-beginning"),
        pytest.param(rules(drop=("bert", "pooler.*")), NAMES, id="only-whole-names"),
        pytest.param(rules("(?=bert)=a.", drop=("a.*",)), {"cls.bias": 4}, id="a-pattern-with-an-equals-sign"),
        pytest.param(rules(drop=("(?i)CLS.*", "b.*")), {}, id="all-dropped"),
    ],
)
def test_tensors_come_under_the_names_that_the_rules_give(given: NameRules, names: dict[str, int]) -> None:
    assert renamed(NAMES, given) == names


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param(rules("(bert=x"), r"'\(bert=x'.*unterminated", id="no-pattern"),
        pytest.param(rules(r"bert=\3"), "invalid group reference", id="no-such-group"),
        pytest.param(rules(drop=("[",)), "unterminated character set", id="no-pattern-to-drop"),
        pytest.param(rules(drop=("a{99999999999999999999}",)), "cannot be followed", id="too-many-times"),
    ],
)
def test_a_rule_that_is_none_is_refused_before_there_are_names(given: NameRules, said: str) -> None:
    with pytest.raises(WrongNameRule, match=said):
        check_rules(given)


def test_two_tensors_never_get_one_name() -> None:
    with pytest.raises(WrongNameRule, match=r"'a\.x' and 'b\.x' both become 'c\.x'"):
        renamed({"a.x": 1, "b.x": 2}, rules("[ab]=c"))


@pytest.mark.parametrize("new", [r"\1" * 40, ""])
def test_a_name_stays_as_long_as_one_may_be(new: str) -> None:
    with pytest.raises(WrongNameRule, match=r"characters of 'a{100}'; 1 to 1024 are allowed"):
        renamed({"a" * 100: 1}, rules(f"(a+)={new}"))


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a*)*(a*)*b", "((((){9999}){9999}){9999})"])
def test_a_pattern_that_would_take_for_ever_is_ended(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "RULES_CPU_S", 1)
    with pytest.raises(WrongNameRule, match="repetitions in repetitions"):
        renamed({"a" * 200: 1}, rules(f"{pattern}="))


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"rename": ["bert"]}, id="no-equals-sign"),
        pytest.param({"rename": ["a=" + "b" * MAX_RULE]}, id="long"),
        pytest.param({"drop": ["a"] * (MAX_RULES + 1)}, id="many"),
        pytest.param({"drop": [""]}, id="empty"),
        pytest.param({"drop": [1]}, id="no-text"),
    ],
)
def test_rules_are_bounded(asked: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NameRules.model_validate(asked)


@pytest.mark.parametrize(
    ("written", "drop"),
    [
        pytest.param("pooler.*", ("pooler.*",), id="one"),
        pytest.param('["a", "b"]', ("a", "b"), id="json"),
        pytest.param("[0-9]", ("[0-9]",), id="a-set"),
        pytest.param("[0]", ("[0]",), id="a-set-that-is-json"),
        pytest.param("7", ("7",), id="a-number"),
    ],
)
def test_in_a_query_rules_are_text(written: str, drop: tuple[str, ...]) -> None:
    assert NameRules.model_validate({"drop": written}).drop == drop
