"""Files of a processor ride with the weights: every answer is made by the files and the weights of one version."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from tests.e2e.served import ROOT, Eager, Server, serving, write_config
from tests.e2e.wire import until

PATH, WEIGHTS = "/v2/models/digits/infer", "/v2/models/digits/weights"
MARKS: dict[str, dict[str, Any]] = {"v1": {"scale": 1.0, "mark": "first"}, "v2": {"scale": 0.5, "mark": "second"}}


def content_of(name: str) -> bytes:
    return json.dumps(MARKS[name]).encode()


@pytest.fixture(scope="module")
def marked(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Version 1 are the weights `v1` with their marks."""
    folder = tmp_path_factory.mktemp("marked")
    (folder / "marks.json").write_bytes(content_of("v1"))
    processor = {
        "class": "tests.processors:Marked",
        "assets": {"marks": str(folder / "marks.json")},
        "replicas": 2,
        "timeout_ms": 20_000,
        "max_queue_wait_ms": 60_000,
    }
    config = write_config(folder, digits_dir, replicas=1, processor=processor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'examples' / 'processors'}")
        with serving(config) as running:
            yield running


def offer(server: Server, content: bytes) -> str:
    headers = server.admin | {"Content-Type": "application/octet-stream"}
    answer = server.http.post(f"{WEIGHTS}/assets", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["digest"])


def swap(server: Server, eager: Eager, name: str, content: bytes | None = None, **options: Any) -> httpx.Response:
    """To the weights of that name and the content of their marks, or without any."""
    if content is not None:
        options["assets"] = json.dumps({"marks.json": offer(server, content)})
    return server.swap(eager.files[name], **options)


class Traffic:
    """Asks again and again, and keeps what does not agree with the version that an answer names."""

    def __init__(self, server: Server, eager: Eager, image: NDArray[np.float32], names: dict[int, str]) -> None:
        self._server, self._image, self._names = server, image, names
        self._expected = {name: eager.logits(name, (image * MARKS[name]["scale"]).astype(np.float32)) for name in MARKS}
        self.seen: set[int] = set()
        self.wrong: list[Any] = []
        self._done = threading.Event()

    def ask(self, client: httpx.Client) -> None:
        tensor = {"name": "image", "datatype": "FP32", "shape": list(self._image.shape)}
        body = {"inputs": [tensor | {"data": self._image.ravel().tolist()}], "parameters": {"routing_key": uuid4().hex}}
        answer = client.post(PATH, json=body)
        if answer.status_code != 200:
            self.wrong.append(answer.text)
            return
        found = answer.json()
        logits, mark = (output["data"] for output in found["outputs"])
        version = int(found["model_version"])
        self.seen.add(version)
        name = self._names[version]
        right = mark == [MARKS[name]["mark"]] * len(self._image)
        if not right or not np.allclose(np.reshape(logits, (-1, 10)), self._expected[name], atol=1e-4):
            self.wrong.append((version, mark))

    def run(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=90, trust_env=False) as client:
            while not self._done.is_set():
                self.ask(client)

    @contextmanager
    def flowing(self, clients: int = 3) -> Iterator[None]:
        threads = [threading.Thread(target=self.run) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: bool(self.seen))
            yield
        finally:
            self._done.set()
            for thread in threads:
                thread.join()


def meets(traffic: Traffic, version: int) -> None:
    traffic.seen.discard(version)
    until(lambda: version in traffic.seen)


def processors(server: Server) -> list[psutil.Process]:
    return [each for each in server.launched.family() if "digits-processor" in titled(each)]


def titled(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def test_every_answer_agrees_with_its_version_through_swaps_and_a_rollback(
    marked: Server, eager: Eager, images: NDArray[np.float32]
) -> None:
    names = {number: "v2" if number % 2 == 0 else "v1" for number in range(1, 20)}
    traffic = Traffic(marked, eager, images[:2], names)
    with traffic.flowing():
        assert marked.status()["assets"] == ["marks.json"]
        second = swap(marked, eager, "v2", content_of("v2"))
        assert second.status_code == 200, second.text
        current = second.json()["current"]
        assert [asset["name"] for asset in current["assets"]["files"]] == ["marks.json"]
        assert current["assets"]["files"][0]["digest"] == hashlib.sha256(content_of("v2")).hexdigest()
        meets(traffic, 2)
        assert marked.rollback(version=1).status_code == 200
        meets(traffic, 1)

        refused = swap(marked, eager, "v2", b"no json")
        assert refused.status_code == 400
        assert "its processor cannot be made with the assets of version 3 (JSONDecodeError)" in refused.json()["error"]
        other = {"assets": json.dumps({"other.json": offer(marked, b"x")})}
        unknown = marked.swap(eager.files["v2"], **other)
        assert "reads no 'other.json'; it reads marks.json" in unknown.json()["error"]
        assert marked.status()["current"]["number"] == 1

        victim = processors(marked)[0].pid
        os.kill(victim, signal.SIGKILL)
        until(lambda: len({each.pid for each in processors(marked)} - {victim}) == 2)
        meets(traffic, 1)
    assert traffic.wrong == []


def test_files_over_which_processors_end_are_refused(marked: Server, eager: Eager, images: NDArray[np.float32]) -> None:
    before = marked.status()["current"]["number"]
    dying = swap(marked, eager, "v2", json.dumps({"word": "die"}).encode())
    assert (dying.status_code, "could not stage" in dying.json()["error"]) == (503, True)
    assert marked.status()["current"]["number"] == before
    until(lambda: marked.http.get("/v2/health/ready").status_code == 200)
    traffic = Traffic(marked, eager, images[:2], {before: "v1"})
    traffic.ask(marked.http)
    assert (traffic.wrong, traffic.seen) == ([], {before})


def test_requests_for_a_candidate_go_through_its_files(
    marked: Server, eager: Eager, images: NDArray[np.float32]
) -> None:
    before = marked.status()["current"]["number"]
    held = swap(marked, eager, "v2", content_of("v2"), candidate=True, share="50%", shadow="50%")
    assert held.status_code == 200, held.text
    number = held.json()["candidate"]["version"]["number"]
    traffic = Traffic(marked, eager, images[:2], {before: "v1", number: "v2"})
    with traffic.flowing():
        meets(traffic, before)
        meets(traffic, number)
        assert marked.http.post(f"{WEIGHTS}/promote", json={}, headers=marked.admin).status_code == 200
        meets(traffic, number)
    assert traffic.wrong == []
    kept = swap(marked, eager, "v2")
    assert kept.json()["current"]["assets"] == held.json()["candidate"]["version"]["assets"]
