"""Digits from PNG files through a processor, over HTTP and gRPC; what breaks the processor costs its own requests."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from pictures import HEADER, NAMES, SIGNATURE, SIZE

from tests.e2e.served import ROOT, Eager, Server, free_port, serving, write_config
from tests.e2e.wire import until

PATH = "/v2/models/digits/infer"
PROCESSOR = {
    "class": "tests.processors:FragilePictures",
    "replicas": 2,
    "timeout_ms": 1000,
    "max_queue_wait_ms": 20_000,
}


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def pictures(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory, grpc_port: int) -> Iterator[Server]:
    """Digits with a processor."""
    config = write_config(tmp_path_factory.mktemp("pictures"), digits_dir, replicas=1, processor=PROCESSOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'examples' / 'processors'}")
        with serving(config, "--grpc-port", str(grpc_port)) as running:
            yield running


def png(grey: NDArray[np.uint8]) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in grey)
    chunks = ((b"IHDR", HEADER), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def grey_of(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (images.reshape(-1, SIZE, SIZE) * 255).round().astype(np.uint8)


def expected(eager: Eager, images: NDArray[np.float32]) -> list[int]:
    return [int(digit) for digit in eager.logits("v1", as_read(images)).argmax(axis=1)]


def as_read(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the processor makes them."""
    return grey_of(images)[:, None].astype(np.float32) / np.float32(255)


def files_of(images: NDArray[np.float32]) -> NDArray[Any]:
    return np.array([png(grey) for grey in grey_of(images)], object)


def tritons(client: Any, files: NDArray[Any]) -> tuple[list[int], list[bytes]]:
    """As Triton's client asks, in binary data."""
    kind = tritonclient.http if isinstance(client, tritonclient.http.InferenceServerClient) else tritonclient.grpc
    tensor = kind.InferInput("png", list(files.shape), "BYTES")
    tensor.set_data_from_numpy(files)
    answer = client.infer("digits", [tensor])
    return answer.as_numpy("digit").tolist(), answer.as_numpy("name").tolist()


def test_pictures_go_and_digits_come_back_over_http_and_grpc(
    pictures: Server, eager: Eager, images: NDArray[np.float32], grpc_port: int
) -> None:
    digits, files = expected(eager, images[:90]), files_of(images[:90])
    names = [NAMES[digit].encode() for digit in digits]
    http = tritonclient.http.InferenceServerClient(f"127.0.0.1:{pictures.port}")
    grpc = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}")
    assert tritons(http, files) == (digits, names)
    assert tritons(grpc, files) == (digits, names)
    metadata = pictures.http.get("/v2/models/digits").json()
    rows = {"dim_0": "batch", "dim_0_min": 0}
    assert metadata["inputs"] == [{"name": "png", "datatype": "BYTES", "shape": [-1], "parameters": rows}]
    assert http.get_model_config("digits")["input"][0]["data_type"] == "TYPE_STRING"


def ask(server: Server, words: list[str], **rest: Any) -> httpx.Response:
    """In JSON, whose strings are text."""
    tensor = {"name": "png", "datatype": "BYTES", "shape": [len(words)], "data": words}
    return server.http.post(PATH, json={"inputs": [tensor]} | rest)


def test_what_cannot_be_read_is_refused_in_words(pictures: Server) -> None:
    response = ask(pictures, ["no picture"])
    assert response.status_code == 400
    assert "input 'png': no PNG of 8 x 8 grey pixels: it does not begin as one" in response.json()["error"]
    wrong = pictures.http.post(
        PATH, json={"inputs": [{"name": "png", "datatype": "FP32", "shape": [1], "data": [1.0]}]}
    )
    assert wrong.json() == {
        "error": "input 'png': datatype FP32, the model takes BYTES",
        "type": "WrongInputDtype",
    }


def test_what_breaks_the_processor_costs_its_own_requests(
    pictures: Server, eager: Eager, images: NDArray[np.float32]
) -> None:
    digits, files, wrong, done = expected(eager, images[:8]), files_of(images[:8]), [], threading.Event()

    def others() -> None:
        client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{pictures.port}", network_timeout=60)
        while not done.is_set():
            wrong.append(tritons(client, files)[0] != digits)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        found = {word: ask(pictures, [word]) for word in ("hang", "raise", "die")}
    finally:
        done.set()
        thread.join()
    assert {word: response.status_code for word, response in found.items()} == {"hang": 504, "raise": 500, "die": 503}
    assert "its processor has not returned from `before` within 1000 ms" in found["hang"].json()["error"]
    assert "its processor died twice over this request" in found["die"].json()["error"]
    assert wrong
    assert not any(wrong)
    until(lambda: pictures.http.get("/v2/health/ready").status_code == 200)


def test_a_swap_changes_the_answers_of_a_model_with_a_processor(
    pictures: Server, eager: Eager, images: NDArray[np.float32]
) -> None:
    version = pictures.swap(eager.files["v2"]).json()["current"]["number"]
    files = files_of(images[:20])
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{pictures.port}")
    assert tritons(client, files)[0] == eager.logits("v2", as_read(images[:20])).argmax(axis=1).tolist()
    assert version > 1


def test_a_class_that_is_not_there_is_said_before_anything_starts(digits_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, digits_dir, processor={"class": "pictures:Pixels"})
    with serving(config, wait=False) as running:
        running.launched.wait_for("class pictures:Pixels cannot be imported", timeout=120)
        assert running.launched.process.wait(60) == 1
