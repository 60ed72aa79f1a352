"""Statistics and metrics of a real server: they rise as Triton's rules say, over both protocols."""

from __future__ import annotations

import re
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from aoti_serve.cluster.metrics.definitions import COORDINATOR_METRICS, GATEWAY_METRICS, REPLICA_METRICS, MetricKind
from tests.e2e.served import START_S, Eager, Server, json_request
from tests.e2e.wire import until

Images = NDArray[np.float32]


def row_of(server: Server, version: int) -> dict[str, Any]:
    (row,) = server.http.get(f"/v2/models/digits/versions/{version}/stats").json()["model_stats"]
    found: dict[str, Any] = row
    return found


def risen(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    names = ("success", "fail", "queue", "compute_infer")
    counts = {
        name: after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"] for name in names
    }
    return counts | {name: after[name] - before[name] for name in ("inference_count", "execution_count")}


def test_statistics_rise_with_every_request_over_both_protocols(
    server: Server, grpc_port: int, eager: Eager, images: Images
) -> None:
    version = server.swap(eager.files["v2"]).json()["current"]["number"]
    before = row_of(server, version)
    assert server.post_infer(*json_request(images[:3])).status_code == 200
    assert server.post_infer(*json_request(images[:5])).status_code == 200
    assert server.post_infer(b"{}", {}).status_code == 400
    given = triton.InferInput("image", [2, 1, 8, 8], "FP32")
    given.set_data_from_numpy(images[:2])
    with triton.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        client.infer("digits", [given])
        (over_grpc,) = client.get_inference_statistics("digits", str(version), as_json=True)["model_stats"]
    after = row_of(server, version)
    assert risen(before, after) == {
        "success": 3,
        "fail": 1,
        "queue": 3,
        "compute_infer": 3,
        "inference_count": 10,
        "execution_count": 3,
    }
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert over_grpc["inference_stats"]["success"]["count"] == str(after["inference_stats"]["success"]["count"])
    assert after["last_inference"] > 0


def test_rows_of_older_versions_stay(server: Server, eager: Eager, images: Images) -> None:
    versions = [server.swap(eager.files[name]).json()["current"]["number"] for name in ("v1", "v2")]
    assert server.post_infer(*json_request(images[:1])).status_code == 200
    rows = server.http.get("/v2/models/stats").json()["model_stats"]
    assert {row["name"] for row in rows} == set(server.http.get("/v2/models").json()["models"])
    assert str(versions[1]) in [row["version"] for row in rows if row["name"] == "digits"]
    assert server.http.get("/v2/models/digits/versions/99999/stats").status_code == 404
    assert server.http.get("/v2/models/letters/stats").status_code == 404
    assert "statistics" in server.http.get("/v2").json()["extensions"]


def test_prometheus_finds_every_metric_at_the_port_that_was_asked_for(server: Server, images: Images) -> None:
    (url,) = re.findall(r"metrics for Prometheus: (\S+)", server.launched.output)
    assert url.endswith(f":{server.metrics_port}/metrics")
    assert server.post_infer(*json_request(images[:4])).status_code == 200
    assert server.post_infer(b"{}", {}).status_code == 400
    wanted = set[str]()
    for definition in (*GATEWAY_METRICS, *REPLICA_METRICS, *COORDINATOR_METRICS):
        histogram = definition.kind is MetricKind.HISTOGRAM
        wanted |= (
            {f"{definition.exported}{end}" for end in ("_bucket", "_sum", "_count")}
            if histogram
            else {definition.exported}
        )

    def missing() -> set[str]:
        text = httpx.get(url, trust_env=False).text
        return wanted - set(re.findall(r"^(\w+)\{", text, re.M))

    until(lambda: not missing(), START_S)


def test_requests_for_no_model_make_no_series_of_their_own(server: Server) -> None:
    assert server.http.post("/v2/models/made-up/infer", content=b"{}").status_code == 404
    (url,) = re.findall(r"metrics for Prometheus: (\S+)", server.launched.output)

    def counted() -> list[str]:
        lines = httpx.get(url, trust_env=False).text.splitlines()
        return [line for line in lines if "inference_request_failure" in line and 'model=""' in line]

    until(lambda: bool(counted()), START_S)
    assert "made-up" not in httpx.get(url, trust_env=False).text
