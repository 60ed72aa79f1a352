"""A real Prometheus scrapes a real server: the rules are sound, and what docs and dashboard ask for returns data."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from tests.e2e.served import ROOT, START_S, Eager, Server, free_port, json_request
from tests.e2e.wire import until

EXAMPLES = ROOT / "examples" / "prometheus"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Debian's package prometheus is not installed; scripts/nightly does that"
)


def dashboard_queries() -> list[str]:
    panels = json.loads((EXAMPLES / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def documented_queries() -> list[str]:
    return re.findall(r"```promql\n(.*?)\n```", (ROOT / "docs" / "reference" / "metrics.md").read_text(), re.S)


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus with the example's configuration, but for the port of the server under test."""
    folder = tmp_path_factory.mktemp("prometheus")
    (address,) = re.findall(r"metrics for Prometheus: http://([^/]+)", server.launched.output)
    config = yaml.safe_load((EXAMPLES / "prometheus.yaml").read_text())
    config["global"]["scrape_interval"] = "2s"
    config["scrape_configs"][0]["static_configs"] = [{"targets": [address]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(EXAMPLES / "alerts.yaml", folder)
    port = free_port()
    options = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    command = ["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client
        process.terminate()


def query(prometheus: httpx.Client, text: str) -> list[Any]:
    try:
        answer = prometheus.get("/api/v1/query", params={"query": text})
    except httpx.ConnectError:
        return []
    assert answer.status_code in (200, 503), answer.text  # 503 while it starts
    found: list[Any] = answer.json()["data"]["result"] if answer.status_code == 200 else []
    return found


def test_the_example_is_what_prometheus_takes() -> None:
    for what, name in (("rules", "alerts.yaml"), ("config", "prometheus.yaml")):
        subprocess.run(["promtool", "check", what, name], cwd=EXAMPLES, check=True, capture_output=True)


def test_every_query_returns_data(
    prometheus: httpx.Client, server: Server, eager: Eager, images: NDArray[np.float32]
) -> None:
    wanted = {*dashboard_queries(), *documented_queries()}
    assert len(wanted) > 10
    server.swap(eager.files["v2"])

    def missing() -> set[str]:
        for key in range(8):  # some keys fall to the candidate
            body, headers = json_request(images[:8])
            server.post_infer(body, headers | {"X-Routing-Key": str(key)})
        server.post_infer(b"{}", {})
        return {text for text in wanted if not finite(query(prometheus, text))}

    with on_trial(server, eager.files["v1"]):
        until(lambda: not missing(), START_S)


@contextmanager
def on_trial(server: Server, content: bytes) -> Iterator[None]:
    """A rollout has ended, for want of requests, and a candidate is out that runs for every request."""
    plan = {"canary": ["50%"], "each": "500ms", "extend": 0, "min_requests": 10**6}
    server.swap(content, rollout=json.dumps(plan)).raise_for_status()
    until(lambda: server.status()["rollout"]["outcome"] == "undecided" and server.status()["candidate"] is None)
    server.swap(content, candidate=True, share="50%", shadow="100%").raise_for_status()
    try:
        yield
    finally:
        server.http.post("/v2/models/digits/weights/withdraw", headers=server.admin).raise_for_status()


def finite(found: list[Any]) -> bool:
    return any(row["value"][1] != "NaN" for row in found)


def test_alerts_are_evaluated_and_none_says_that_something_is_wrong_with_a_rule(prometheus: httpx.Client) -> None:
    def rules() -> list[Any]:
        groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    until(lambda: bool(rules()) and all(rule["health"] == "ok" for rule in rules()), START_S)
    assert {rule["name"] for rule in rules()} == set(
        re.findall(r"alert: (\w+)", Path(EXAMPLES / "alerts.yaml").read_text())
    )
    assert [rule for rule in rules() if rule["name"] == "NoReplica" and rule["state"] == "firing"] == []
