"""oneDNN's layouts of matrices, imitated: its own reordering takes memory of its own, and 0.1 ms for each call.

AB16b64a of float32, AB16b32a2b of bfloat16, BA16a64b4a of int8 (dnnl.h has the names), and what other processors have:
blocks of rows, one after another; in each, word by word, that of every row, where a word is four bytes of neighbouring
columns. Rows and columns are filled up with zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

from aoti_serve.model.aoti.transpose import transpose_words

_WORD = 4  # bytes
_ROWS = (64, 32, 48, 16, 24, 8)


class Blocks(NamedTuple):
    """A layout of `rows` in each block and `words` in each row, those included that are filled up."""

    rows: int
    words: int

    def place(self, part: torch.Tensor, first: int, memory: torch.Tensor) -> None:
        """Write rows of a matrix to where they lie in all of it, `memory`; number `first` of them begins a block."""
        columns = self.words * _WORD // part.element_size()
        missing = -len(part) % self.rows, columns - part.shape[1]
        if any(missing):
            part = pad(part, (0, missing[1], 0, missing[0]))
        blocks = part.view(torch.int32).view(-1, self.rows, self.words)
        places = memory.view(torch.int32).view(-1, self.words, self.rows)
        for number, block in enumerate(blocks, first // self.rows):
            transpose_words(block, places[number])


def blocks_of(matrix: torch.Tensor, packed: torch.Tensor) -> Blocks | None:
    """Find the layout whose bytes of `matrix` are `packed`, by trying; None if there is none."""
    for rows in _ROWS:
        words, rest = divmod(len(packed), -(-len(matrix) // rows) * rows * _WORD)
        if not rest and words * _WORD >= matrix[0].nbytes:
            blocks, imitation = Blocks(rows, words), torch.empty_like(packed)
            blocks.place(matrix, 0, imitation)
            if torch.equal(imitation, packed):
                return blocks
    return None
