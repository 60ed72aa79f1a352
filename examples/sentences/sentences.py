"""Sentences for an encoder: `processor: {class: "sentences:Sentences", args: {tokenizer: /models/tokenizer.json}}`.

Needs the `tokenizers` library where processors run. The model takes `input_ids` and `attention_mask`, INT64, and gives
what clients get, as `before` has no `after` beside it. docs/guides/sentences.md serves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer


class Sentences:
    """Text in. `longest` is in tokens; what is longer is cut, as the model was trained with."""

    inputs = ({"name": "text", "dtype": "BYTES", "shape": ["batch"]},)

    def __init__(
        self, tokenizer: str, longest: int = 256, names: Sequence[str] = ("input_ids", "attention_mask")
    ) -> None:
        self._tokenizer = Tokenizer.from_file(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(longest)
        self._names = names

    def before(self, requests: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, NDArray[Any]]]:
        """The tokens of each request, padded to its own longest sentence: its answer does not depend on others."""
        texts = [text.decode() for request in requests for text in request["text"]]
        found = iter(self._tokenizer.encode_batch(texts))
        return [self._padded([next(found).ids for _ in request["text"]]) for request in requests]

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
        tokens = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
        mask = np.zeros_like(tokens)
        for place, ids in enumerate(rows):
            tokens[place, : len(ids)] = ids
            mask[place, : len(ids)] = 1
        return dict(zip(self._names, (tokens, mask), strict=True))
