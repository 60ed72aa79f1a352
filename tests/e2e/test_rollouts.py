"""Versions that are tried before they are trusted: one that is broken, stupid, slow, and one that is good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from tests.e2e import judge, labour, toil
from tests.e2e.checked_traffic import CheckedTraffic, checked_traffic
from tests.e2e.judge import BALLAST_MB, MB, WEIGHTS, WIDTH, logits_for, weights_of
from tests.e2e.memory import memory_growth
from tests.e2e.served import TOKEN, Server, serving
from tests.e2e.wire import until
from tests.package_cache import PackageCache

ADMIN = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/octet-stream"}
CANARY = {
    "canary": ["50%", "60%"],
    "each": "4s",
    "shadow": "30%",
    "min_requests": 50,
    "watch": "4s",
    "abort_if": {"top1_agreement": "below 0.9", "p99": None},
}
WATCHED = {
    "canary": [],
    "each": "10s",
    "shadow": "10%",
    "min_requests": 1000,
    "extend": 20,
    "watch": "60s",
    "abort_if": {"p99": "2x"},
}


@pytest.fixture(scope="module")
def judge_dir(package_cache: PackageCache) -> Path:
    return package_cache.entry("judge", judge.make_package, Path(judge.__file__), Path(toil.__file__))


@pytest.fixture(scope="module")
def served(judge_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two replicas that answer with version 1, and roll out all that comes."""
    folder = tmp_path_factory.mktemp("judge")
    model = {
        "name": judge.NAME,
        "package": str(judge_dir / "judge.pt2"),
        "weights": str(judge_dir / "judge.safetensors"),
        "store": str(folder / "versions"),
        "operators": ["toil"],
        "replicas": 2,
        "rollout": CANARY,
    }
    application = {"name": "default", "route_prefix": "/", "import_path": "aoti_serve.app:build"}
    config = folder / "judge.yaml"
    args = {"models": [model], "gateway": {"grpc_port": None}}
    config.write_text(yaml.safe_dump({"applications": [application | {"args": args}]}))
    with labour.at_work(folder), serving(config) as running:
        yield running


def swap(server: Server, content: bytes, **params: Any) -> httpx.Response:
    return server.http.post(WEIGHTS, content=content, headers=ADMIN, params=params)


def status(server: Server) -> Any:
    return server.http.get(WEIGHTS, headers=ADMIN).json()


def asking(server: Server) -> AbstractContextManager[CheckedTraffic]:
    """Sixteen clients, each with an input of its own."""
    inputs = [np.random.default_rng(number).normal(size=(1, WIDTH)).astype(np.float32) for number in range(16)]
    return checked_traffic(server.url, judge.NAME, "x", inputs, {1: logits_for})


def rolled_out(server: Server, clients: CheckedTraffic, content: bytes, *, plan: Any = None, **facts: Any) -> Any:
    """Swap by a rollout, and wait for its end; the rollout's last status. `facts` are of the weights."""
    number = next_number(server)
    clients.known[number] = partial(logits_for, **facts)
    response = swap(server, content, **({"rollout": json.dumps(plan)} if plan else {}))
    assert response.status_code == 200, response.text
    assert response.json()["candidate"]["version"]["number"] == number
    until(lambda: status(server)["rollout"]["outcome"] is not None, 180)
    return status(server)["rollout"]


def next_number(server: Server) -> int:
    """The number that the next version will have: a failed one leaves a gap."""
    return max(int(path.name) for path in (server.store / "versions").iterdir()) + 1


def test_four_versions_come_and_only_the_good_one_stays(served: Server) -> None:
    server = Server(served.launched, served.port, served.store, served.metrics_port)
    replicas = [row["pid"] for row in status(server)["replicas"]]
    with asking(server) as clients, memory_growth(replicas) as growth:
        broken = swap(server, weights_of(spoilt=True))
        assert broken.status_code == 400
        assert "'weight'" in broken.json()["error"]

        stupid = rolled_out(server, clients, weights_of(shift=1), shift=1)
        assert (stupid["outcome"], stupid["step"]) == ("aborted", 1)
        assert "top1_agreement" in stupid["reason"]
        until(lambda: status(server)["candidate"] is None)
        assert status(server)["current"]["number"] == 1
        until(lambda: set(clients.since(-20)) == {1})

        slow = rolled_out(server, clients, weights_of(scale=1.01, seconds=judge.SLOW_S), plan=WATCHED, scale=1.01)
        assert slow["outcome"] == "rolled back", slow
        assert "p99" in slow["reason"]
        until(lambda: status(server)["current"]["number"] == 1)

        good = rolled_out(server, clients, weights_of(scale=1.02), scale=1.02)
        assert good["outcome"] == "promoted", good
        current = status(server)["current"]["number"]
        until(lambda: set(clients.since(-20)) == {current})
    assert status(server)["trial"] is None
    assert [row["pid"] for row in status(server)["replicas"]] == replicas
    # One copy was there before, one came with the candidates: the block behind the one that answers. Never a third.
    assert len(growth.bytes) == 2
    assert all(0.5 * BALLAST_MB * MB < grown < 1.5 * BALLAST_MB * MB for grown in growth.bytes), growth.bytes
