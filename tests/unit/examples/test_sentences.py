"""The example that makes tokens of sentences, with a tokenizer of a few words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
from sentences import Sentences


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    words = {"[UNK]": 0, "a": 1, "dog": 2, "barks": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def test_each_request_is_as_wide_as_its_own_longest_sentence(tokenizer: str) -> None:
    texts = [[b"a dog barks", b"dog"], [b"a cat"], []]
    found = Sentences(tokenizer).before([{"text": np.array(each, object)} for each in texts])
    assert [each["input_ids"].tolist() for each in found] == [[[1, 2, 3], [2, 0, 0]], [[1, 0]], []]
    assert [each["attention_mask"].tolist() for each in found] == [[[1, 1, 1], [1, 0, 0]], [[1, 1]], []]


def test_what_is_too_long_is_cut(tokenizer: str) -> None:
    [found] = Sentences(tokenizer, longest=2).before([{"text": np.array([b"a dog barks"], object)}])
    assert found["input_ids"].tolist() == [[1, 2]]
