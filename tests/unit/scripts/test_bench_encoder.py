"""scripts/bench http --model encoder: what is asked, and what counts as the right answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from encoder import WIDTH
from httpbench.encoder.answers import vectors_of
from httpbench.encoder.texts import LONGEST, SHORTEST, plain, script, sentences, v2


def test_lengths_are_mixed_and_the_same_in_every_run() -> None:
    lengths = [len(sentence.split()) for sentence in sentences()]
    assert min(lengths) in range(SHORTEST, 10)
    assert max(lengths) in range(100, LONGEST + 1)
    assert 15 < np.median(lengths) < 35
    assert sentences() == sentences()


def test_a_script_has_one_request_for_each_sentence(tmp_path: Path) -> None:
    assert str(tmp_path / "bodies") in script(plain, tmp_path)
    bodies = [json.loads(line) for line in (tmp_path / "bodies").read_text().splitlines()]
    assert [body["sentences"] for body in bodies] == [[sentence] for sentence in sentences()]


def test_ours_is_asked_in_the_protocols_words() -> None:
    [tensor] = v2(["a", "b"])["inputs"]
    assert tensor == {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}


def test_vectors_are_read_out_of_either_kind_of_answer() -> None:
    vectors = np.arange(2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)
    ours = {"outputs": [{"name": "embedding", "shape": [2, WIDTH], "data": vectors.ravel().tolist()}]}
    assert np.array_equal(vectors_of(ours), vectors)
    assert np.array_equal(vectors_of(vectors.tolist()), vectors)
