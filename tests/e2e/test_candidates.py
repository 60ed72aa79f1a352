"""Two versions at once on a real server: pinned, canary, shadow, promoted, withdrawn, rolled out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.e2e.checked_traffic import CheckedTraffic, checked_traffic
from tests.e2e.served import Eager, Server, binary_request, json_request, logits_of
from tests.e2e.wire import until

Images = NDArray[np.float32]
WEIGHTS = "/v2/models/digits/weights"


def asking(server: Server, eager: Eager, images: Images, v1: int) -> AbstractContextManager[CheckedTraffic]:
    """Sixteen clients; version `v1` answers as the file v1 does, the one after it as v2."""
    known = {v1: partial(eager.logits, "v1"), v1 + 1: partial(eager.logits, "v2")}
    return checked_traffic(server.url, "digits", "image", [images[:2]] * 16, known)


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


def answered(server: Server, key: str, images: Images) -> tuple[int, Images]:
    body, headers = binary_request(images)
    return logits_of(server.post_infer(body, headers | {"X-Routing-Key": key}))


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
    assert f"holds no version {number}: version {v1} answers" in response.json()["error"]


def test_a_canary_keeps_its_clients_and_a_shadow_answers_nobody(
    server: Server, eager: Eager, images: Images, v1: int
) -> None:
    with asking(server, eager, images, v1) as clients:
        status = server.swap(eager.files["v2"], candidate=True, shadow="50%").json()
        number = status["candidate"]["version"]["number"]
        assert number == v1 + 1
        until(lambda: (server.status()["trial"] or {}).get("shadow", {}).get("pairs", 0) > 20)
        assert set(clients.since(0)) == {v1}

        admin(server, "candidate", share="50%", shadow=0)
        mark = len(clients.answers)
        until(lambda: number in clients.since(mark))
        mark = len(clients.answers)
        until(lambda: len(clients.since(mark)) > 300)
        by_key = clients.versions_by_key(mark)
        assert all(len(versions) == 1 for versions in by_key.values()), "a client changed its version"
        assert Counter(version for versions in by_key.values() for version in versions).keys() == {v1, number}

        admin(server, "withdraw")
        mark = len(clients.answers)
        until(lambda: len(clients.since(mark)) > 100)
        assert set(clients.since(mark + 16)) == {v1}
    trial = status["trial"] or {}
    assert trial.get("shadow", {}).get("failed", 0) == 0


def test_a_good_version_is_rolled_out_and_watched(server: Server, eager: Eager, images: Images, v1: int) -> None:
    """Whatever a client sends to it: a NaN would come back from both versions."""
    plan = {"canary": ["50%", "60%"], "each": "3s", "watch": "3s", "min_requests": 20, "abort_if": {"p99": None}}
    with asking(server, eager, images, v1) as traffic:
        until(lambda: len(traffic.answers) > 100, 60)  # without a NaN
        response = server.swap(eager.files["v2"], rollout=json.dumps(plan))
        assert response.status_code == 200, response.text
        until(lambda: server.status()["candidate"]["share"] == 0.5, 60)
        key = next(key for key in map(str, range(100)) if answered(server, key, images[:1])[0] == v1 + 1)
        spoilt = np.where(np.arange(64).reshape(1, 1, 8, 8) == 27, np.nan, images[:1])
        assert not np.isfinite(answered(server, key, spoilt)[1]).any()
        until(lambda: server.status()["rollout"]["outcome"] is not None, 120)
    assert server.status()["rollout"]["outcome"] == "promoted", server.status()["rollout"]
    status = server.status()
    assert (status["current"]["number"], status["trial"]) == (v1 + 1, None)
