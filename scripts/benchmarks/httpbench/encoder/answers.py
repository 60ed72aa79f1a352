"""Whether a server's vectors are those of the module with the published weights. Nothing is measured before."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import torch
from encoder import WIDTH, make_model
from numpy.typing import NDArray
from safetensors.torch import load_file
from sentences import Sentences

from httpbench.encoder.field import CHECKPOINT, Contender
from httpbench.servers import Failed

AT_ONCE, TOLERANCE = 16, 1e-5
Vectors = NDArray[np.float32]


def expected(sentences: Sequence[str]) -> Vectors:
    """What the module makes of each, alone."""
    module, _, _ = make_model()
    module.load_state_dict(load_file(CHECKPOINT / "model.safetensors"), strict=False)
    requests = [{"text": np.array([sentence.encode()], object)} for sentence in sentences]
    tokens = Sentences(str(CHECKPOINT / "tokenizer.json")).before(requests)
    with torch.inference_mode():
        rows = [module(**{name: torch.from_numpy(value) for name, value in each.items()}) for each in tokens]
    found: Vectors = torch.cat([row["embedding"] for row in rows]).numpy()
    return found


def check(url: str, contender: Contender, sentences: Sequence[str], wanted: Vectors) -> None:
    """Each sentence in a request of its own, many at once. Raises Failed if a vector is another."""
    with httpx.Client(trust_env=False, timeout=60) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda sentence: _asked(client, url, contender, [sentence]), sentences))
    if not np.allclose(np.concatenate(found), wanted, rtol=0, atol=TOLERANCE):
        raise Failed("its vectors are not those of the published model")


def answers(url: str, contender: Contender) -> bool:
    """It is up."""
    try:
        with httpx.Client(trust_env=False, timeout=60) as client:
            return _asked(client, url, contender, ["Are you there?"]).shape == (1, WIDTH)
    except (httpx.TransportError, Failed):
        return False


def _asked(client: httpx.Client, url: str, contender: Contender, sentences: Sequence[str]) -> Vectors:
    response = client.post(url + contender.path, json=contender.body(sentences))
    if response.status_code != 200:
        raise Failed(f"{response.status_code}: {response.text[:200]}")
    return vectors_of(response.json())


def vectors_of(answer: Any) -> Vectors:
    """In an answer of V2, or in one that is a list of them."""
    data = answer["outputs"][0]["data"] if isinstance(answer, dict) else answer
    return np.array(data, np.float32).reshape(-1, WIDTH)
