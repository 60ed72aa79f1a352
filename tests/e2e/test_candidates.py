"""Two versions at once on a real server: pinned, canary, shadow, promoted, withdrawn, rolled out."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.e2e.served import Eager, Server, json_request, logits_of
from tests.e2e.wire import until

Images = NDArray[np.float32]
WEIGHTS = "/v2/models/digits/weights"


class Traffic:
    """Clients that ask all the time, each under a routing key of its own; what they were answered."""

    def __init__(self, server: Server, eager: Eager, images: Images) -> None:
        self.answers: list[tuple[str, int, bool]] = []  # key, version, whether the numbers are that version's
        self.failures: list[str] = []
        self.files: dict[int, str] = {}  # by version
        self._server = server
        self._eager = eager
        self._images = images[:2]
        self._body, _ = json_request(self._images)
        self._done = threading.Event()

    def run(self, key: str) -> None:
        with httpx.Client(base_url=self._server.url, timeout=60, trust_env=False) as client:
            while not self._done.is_set():
                response = client.post("/v2/models/digits/infer", content=self._body, headers={"X-Routing-Key": key})
                if response.status_code != 200:
                    self.failures.append(response.text)
                    continue
                version, logits = logits_of(response)
                expected = self._eager.logits(self.files[version], self._images)
                self.answers.append((key, version, bool(np.allclose(logits, expected, atol=1e-4))))

    def stop(self) -> None:
        self._done.set()

    def versions_by_key(self, mark: int) -> dict[str, set[int]]:
        """Since then; without each client's first answer, which may have been on its way before."""
        found: dict[str, list[int]] = {}
        for key, version, _ in self.since(mark):
            found.setdefault(key, []).append(version)
        return {key: set(versions[1:]) for key, versions in found.items() if len(versions) > 1}

    def since(self, mark: int) -> list[tuple[str, int, bool]]:
        return self.answers[mark:]


@contextmanager
def traffic(server: Server, eager: Eager, images: Images, clients: int = 16) -> Iterator[Traffic]:
    asking = Traffic(server, eager, images)
    asking.files[server.status()["current"]["number"]] = "v1"
    threads = [threading.Thread(target=asking.run, args=(f"client {number}",)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield asking
    finally:
        asking.stop()
        for thread in threads:
            thread.join()
    assert asking.failures == []
    assert all(right for _, _, right in asking.answers), "an answer is not of the version that it names"


@pytest.fixture
def v1(server: Server, eager: Eager) -> Iterator[int]:
    """Version 1's weights answer, and no candidate is out; nor is one afterwards."""
    response = server.swap(eager.files["v1"])
    assert response.status_code == 200, response.text
    yield int(response.json()["current"]["number"])
    if server.status()["candidate"]:
        admin(server, "withdraw")


def admin(server: Server, path: str, **body: Any) -> Any:
    response = server.http.post(f"{WEIGHTS}/{path}", json=body, headers=server.admin)
    assert response.status_code == 200, response.text
    return response.json()


def pinned(server: Server, images: Images, version: int | str) -> tuple[int, Images]:
    body, headers = json_request(images)
    response = server.http.post(f"/v2/models/digits/versions/{version}/infer", content=body, headers=headers)
    assert response.status_code == 200, response.text
    return logits_of(response)


def test_a_candidate_answers_who_asks_for_it_and_is_promoted(
    server: Server, eager: Eager, images: Images, v1: int
) -> None:
    status = server.swap(eager.files["v2"], candidate=True).json()
    number = status["candidate"]["version"]["number"]
    assert (status["current"]["number"], status["last"]["outcome"]) == (v1, "candidate")
    for name in (number, "candidate"):
        version, logits = pinned(server, images[:4], name)
        assert version == number
        np.testing.assert_allclose(logits, eager.logits("v2", images[:4]), atol=1e-4)
    version, logits = server.infer(images[:4])
    assert version == v1
    np.testing.assert_allclose(logits, eager.logits("v1", images[:4]), atol=1e-4)
    assert {row["previous"] for row in status["replicas"]} != {number}

    assert server.swap(eager.files["v2"]).status_code == 409
    assert server.rollback().status_code == 409
    status = admin(server, "promote")
    assert (status["current"]["number"], status["candidate"]) == (number, None)
    assert server.infer(images[:4])[0] == number
    assert pinned(server, images[:4], "previous")[0] == v1
    np.testing.assert_allclose(pinned(server, images[:4], v1)[1], eager.logits("v1", images[:4]), atol=1e-4)


def test_a_withdrawn_candidate_answers_nobody(server: Server, eager: Eager, images: Images, v1: int) -> None:
    number = server.swap(eager.files["v2"], candidate=True, share="50%").json()["candidate"]["version"]["number"]
    status = admin(server, "withdraw")
    assert (status["current"]["number"], status["candidate"]) == (v1, None)
    body, headers = json_request(images[:1])
    response = server.http.post(f"/v2/models/digits/versions/{number}/infer", content=body, headers=headers)
    assert response.status_code == 404
    assert f"answers with version {v1}, not {number}" in response.json()["error"]


def test_a_canary_keeps_its_clients_and_a_shadow_answers_nobody(
    server: Server, eager: Eager, images: Images, v1: int
) -> None:
    with traffic(server, eager, images) as asking:
        asking.files[v1] = "v1"
        asking.files[v1 + 1] = "v2"
        status = server.swap(eager.files["v2"], candidate=True, shadow="50%").json()
        number = status["candidate"]["version"]["number"]
        assert number == v1 + 1
        until(lambda: (server.status()["trial"] or {}).get("shadow", {}).get("pairs", 0) > 20)
        assert {version for _, version, _ in asking.answers} == {v1}

        admin(server, "candidate", share="50%", shadow=0)
        mark = len(asking.answers)
        until(lambda: number in {version for _, version, _ in asking.since(mark)})
        mark = len(asking.answers)
        until(lambda: len(asking.since(mark)) > 300)
        by_key = asking.versions_by_key(mark)
        assert all(len(versions) == 1 for versions in by_key.values()), "a client changed its version"
        assert Counter(version for versions in by_key.values() for version in versions).keys() == {v1, number}

        admin(server, "withdraw")
        mark = len(asking.answers)
        until(lambda: len(asking.since(mark)) > 100)
        assert {version for _, version, _ in asking.since(mark + 16)} == {v1}
    trial = status["trial"] or {}
    assert trial.get("shadow", {}).get("failed", 0) == 0


def test_a_good_version_is_rolled_out_and_watched(server: Server, eager: Eager, images: Images, v1: int) -> None:
    plan = {"canary": ["50%", "60%"], "each": "3s", "watch": "3s", "min_requests": 20, "abort_if": {"p99": None}}
    with traffic(server, eager, images) as asking:
        asking.files[v1], asking.files[v1 + 1] = "v1", "v2"
        response = server.swap(eager.files["v2"], rollout=json.dumps(plan))
        assert response.status_code == 200, response.text
        until(lambda: server.status()["rollout"]["outcome"] is not None, 120)
    assert server.status()["rollout"]["outcome"] == "promoted", server.status()["rollout"]
    status = server.status()
    assert (status["current"]["number"], status["trial"]) == (v1 + 1, None)
