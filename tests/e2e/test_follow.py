"""A real server that follows a folder: what a trainer puts there answers, without anybody asking for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from tests.e2e.served import Eager, Server, json_request, serving, write_config
from tests.e2e.wire import until

ROLLOUT = {
    "canary": ["50%"],
    "each": "2s",
    "shadow": "50%",
    "min_requests": 20,
    "extend": 30,
    "watch": "3s",
    "abort_if": {"top1_agreement": "below 0.7", "p99": None},
}


def put(place: Path, name: str, content: bytes) -> None:
    """As a careful trainer does: written elsewhere, renamed into place."""
    aside = place.parent / name
    aside.mkdir()
    (aside / "model.safetensors").write_bytes(content)
    aside.replace(place / name)


def test_what_is_put_into_a_followed_folder_answers_and_what_does_not_fit_changes_nothing(
    digits_dir: Path, eager: Eager, tmp_path: Path
) -> None:
    place = tmp_path / "runs"
    place.mkdir()
    config = write_config(tmp_path, digits_dir, follow={"uri": str(place), "every": "1s"})
    with serving(config) as server:
        put(place, "step-9", eager.files["v2"])
        until(lambda: server.status()["current"]["label"] == "step-9")
        put(place, "step-10", b"no weights")
        until(lambda: server.status()["follow"]["last_seen"] == "step-10")
        put(place, "step-11", eager.files["v1"])
        until(lambda: server.status()["current"]["label"] == "step-11")
        found = server.status()["follow"]
        assert (found["uri"], found["last_tried"], found["outcome"]) == (str(place), "step-11", "committed")
        assert server.rollback().json()["current"]["label"] == "step-9"
    with serving(config) as server:
        until(lambda: (server.status()["follow"] or {}).get("last_seen") == "step-11")
        assert server.status()["current"]["label"] == "step-9", "what was tried is not tried again"


def classifying(content: bytes, change: Callable[[Tensor], Tensor]) -> bytes:
    """The weights, with others in the last layer."""
    tensors = load(content)
    for name in ("classify.weight", "classify.bias"):
        tensors[name] = change(tensors[name]).contiguous()
    return save(tensors)


def decided(server: Server, name: str) -> Any:
    """The status when it is known what has become of this version of the place."""

    def is_known() -> bool:
        follow = server.status()["follow"] or {}
        return follow.get("last_tried") == name and follow.get("outcome") in ("committed", "failed")

    until(is_known, 200)
    return server.status()


@contextmanager
def asked_all_the_time(server: Server, images: NDArray[np.float32]) -> Iterator[list[str]]:
    """Each request under a key of its own; the texts of the answers that were none."""
    failed: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            for number in count():
                if ended.is_set():
                    return
                body, _ = json_request(images[number % 256 : number % 256 + 1])
                headers = {"X-Routing-Key": str(number)}
                response = client.post("/v2/models/digits/infer", content=body, headers=headers)
                if response.status_code != 200:
                    failed.append(response.text)
                ended.wait(0.005)  # the servers need the cores

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield failed
    finally:
        ended.set()
        asking.join()


def test_what_is_followed_is_rolled_out_and_a_version_that_its_rollout_gives_up_is_not_tried_again(
    digits_dir: Path, eager: Eager, images: NDArray[np.float32], tmp_path: Path
) -> None:
    place = tmp_path / "runs"
    place.mkdir()
    config = write_config(tmp_path, digits_dir, follow={"uri": str(place), "every": "1s"}, rollout=ROLLOUT)
    with serving(config) as server, asked_all_the_time(server, images) as failed:
        put(place, "step-9", classifying(eager.files["v1"], lambda rows: rows.roll(1, 0)))  # the labels are shuffled
        status = decided(server, "step-9")
        assert (status["follow"]["outcome"], status["current"]["number"]) == ("failed", 1)
        assert status["rollout"]["outcome"] == "aborted"
        assert f"was withdrawn: {status['rollout']['reason']}" in status["follow"]["error"]
        assert "top1_agreement" in status["follow"]["error"]
        put(place, "step-10", classifying(eager.files["v1"], lambda rows: 1.01 * rows))
        status = decided(server, "step-10")
        assert (status["follow"]["outcome"], status["current"]["label"]) == ("committed", "step-10"), status["rollout"]
        assert (status["rollout"]["outcome"], status["trial"]) == ("promoted", None)
        lines = [json.loads(line) for line in (server.store / "audit.jsonl").read_text().splitlines()]
        begun = [line["label"] for line in lines if (line["action"], line["outcome"]) == ("swap", "begun")]
        assert begun == ["step-9", "step-10"]
    assert failed == []
