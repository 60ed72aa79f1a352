"""What is said of names that are not the package's, and which rules would make them fit."""

from __future__ import annotations

import pytest

from aoti_serve.signature.name_pattern import NamePattern, name_pattern

BERT = [f"encoder.layer.{layer}.dense.{kind}" for layer in range(3) for kind in ("bias", "weight")]
PACKAGE = ["embeddings.word.weight", *BERT]
INSIDE = [f"bert.{name}" for name in PACKAGE]


@pytest.mark.parametrize(
    ("found", "known", "seen", "options"),
    [
        pytest.param(PACKAGE, INSIDE, "all 7 names lack the prefix 'bert.'", "--rename =bert.", id="lacking"),
        pytest.param(
            INSIDE,
            PACKAGE,
            "all 7 names have the prefix 'bert.', which the package has not",
            r"--rename 'bert\.='",
            id="too-much",
        ),
        pytest.param(
            [name.replace("bert.", "model.text.") for name in INSIDE],
            INSIDE,
            "all 7 names have the prefix 'model.text.' where the package has 'bert.'",
            r"--rename 'model\.text\.=bert.'",
            id="another",
        ),
        pytest.param(
            [*INSIDE, "bert.pooler.dense.bias", "bert.pooler.dense.weight", "cls.bias"],
            PACKAGE,
            "7 of the 10 names have the prefix 'bert.', which the package has not, and it has nothing for "
            "'bert.pooler.dense.bias', 'bert.pooler.dense.weight', 'cls.bias'",
            r"--rename 'bert\.=' --drop 'cls\..*' --drop 'pooler\..*'",
            id="too-much-and-others",
        ),
        pytest.param([*PACKAGE, "pooler.weight", "pooler.bias"], PACKAGE, "", r"--drop 'pooler\..*'", id="others"),
        pytest.param(
            [*PACKAGE, "pooler.dense.bias", "pooler.dense.weight"],
            INSIDE,
            "7 of the 9 names lack the prefix 'bert.', and it has nothing for 'pooler.dense.bias', "
            "'pooler.dense.weight'",
            r"--rename =bert. --drop 'bert\.pooler\..*'",
            id="lacking-and-others",
        ),
        pytest.param(
            [*PACKAGE, "embeddings.position_ids"], PACKAGE, "", r"--drop 'embeddings\.position_ids'", id="a-buffer"
        ),
        pytest.param(
            [*INSIDE, *(f"{letter}.{letter}" for letter in "wxyz")],
            PACKAGE,
            "7 of the 11 names have the prefix 'bert.', which the package has not, and it has nothing for 'w.w', "
            "'x.x', 'y.y' and 1 more",
            "",
            id="too-many-others",
        ),
        pytest.param([f"{letter}.{letter}" for letter in "wxyz"], PACKAGE, "", "", id="something-else"),
        pytest.param(["c.weight"], ["a.weight", "b.weight"], "", r"--drop 'c\..*'", id="two-would-do"),
        pytest.param(
            ["a.bias", "c.weight"],
            ["a.bias", "a.weight"],
            "1 of the 2 names have the prefix 'c.' where the package has 'a.'",
            r"--rename 'c\.=a.'",
            id="one-of-two",
        ),
    ],
)
def test_the_pattern(found: list[str], known: list[str], seen: str, options: str) -> None:
    assert name_pattern(found, known) == NamePattern(seen, options)


def test_many_names_take_no_long_time() -> None:
    """100 000 is the most that a file may have; quadratic work would take minutes."""
    known = [f"model.layers.{layer}.block.weight" for layer in range(20_000)]
    found = [name.removeprefix("model.") for name in known]
    assert name_pattern(found, known).options == "--rename =model."
    assert name_pattern(["x." * 500 + str(at) for at in range(2_000)], known).options == r"--drop 'x\..*'"
