"""What an operator sees: readiness that follows what replicas can do, logs, traces."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from aoti_serve.protocol.grpc.messages import decode_message
from tests.e2e import labour
from tests.e2e.labour import assert_doubled, infer
from tests.e2e.served import START_S, Server, json_request, serving
from tests.e2e.toil import BROKEN
from tests.e2e.wire import until

READY = "/v2/health/ready"
PERIOD_S = 2.0
WEIGHTS = "/v2/models/labour/weights"


@pytest.fixture(scope="module")
def served(labour_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One replica, probed each second; a line of JSON for each request; traces."""
    folder = tmp_path_factory.mktemp("readiness")
    config = labour.write_config(labour_dir, folder, {"probe_period_s": PERIOD_S, "access_log": True})
    serves_own = {"logging_config": {"encoding": "JSON"}, "tracing_config": {"enabled": True}}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | serves_own))
    with labour.at_work(folder), serving(config) as server:
        yield server


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_replicas_that_are_stopped_are_passed_over_and_the_last_one_turns_readiness_off(
    server: Server, grpc_port: int, images: NDArray[np.float32]
) -> None:
    one, two = (receipt["pid"] for receipt in server.status()["replicas"])
    with stopped(one):
        for _ in range(20):
            server.infer(images[:1])
        assert server.http.get(READY).status_code == 200
        with stopped(two):
            until(lambda: server.http.get(READY).status_code == 503)
            assert server.http.get(READY).json()["reason"].startswith("model 'digits': no")
            model = server.http.get("/v2/models/digits/ready")
            assert (model.status_code, model.json()["ready"]) == (503, False)
            assert model.json()["reason"].startswith("model 'digits': no")
            assert server.http.get("/v2/health/live").json() == {"live": True}
            assert health_of(grpc_port) == "NOT_SERVING"
            refused = server.post_infer(*json_request(images[:1]))
            assert (refused.status_code, int(refused.headers["Retry-After"]) >= 1) == (503, True)
            assert "model 'digits': no replica of it lives" in refused.json()["error"]
        until(lambda: server.http.get(READY).status_code == 200)
    until(lambda: health_of(grpc_port) == "SERVING")
    server.infer(images[:1])


def health_of(port: int) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        return str(decode_message("HealthCheckResponse", check(b"", timeout=30))["status"])


def test_a_replica_all_of_whose_runs_fail_turns_readiness_off_and_is_replaced(served: Server) -> None:
    assert_doubled(infer(served, 1.0), 1.0)
    (broken,) = pids(served)
    sign = served.store.parent / BROKEN
    sign.touch()
    try:
        until(lambda: served.http.get(READY).status_code == 503)
        assert "its runs fail" in served.http.get(READY).json()["reason"]
        until(lambda: broken not in pids(served), START_S)
    finally:
        sign.unlink()
    until(lambda: served.http.get(READY).status_code == 200, START_S)
    assert_doubled(infer(served, 2.0), 2.0)


def pids(server: Server) -> list[int]:
    """The processes of its replicas."""
    status = server.http.get(WEIGHTS, headers=server.admin).json()
    return [receipt["pid"] for receipt in status["replicas"]]


def test_every_request_has_one_line_of_json_and_refusals_have_no_traceback(served: Server) -> None:
    bad, good = 100, 20
    for number in range(bad):
        assert refused(served, f"bad-{number}") == 400
    for number in range(good):
        assert infer(served, 1.0, headers={"X-Request-ID": f"good-{number}"}).status_code == 200
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(b"NONSENSE\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    wanted = {f"bad-{number}" for number in range(bad)} | {f"good-{number}" for number in range(good)}
    until(lambda: len(named(served)) >= len(wanted))  # a line is written when its answer has left
    facts = named(served)
    assert sorted(entry["request_id"] for entry in facts) == sorted(wanted)
    assert {(entry["status"], entry["error"]) for entry in facts} == {(400, "MissingInput"), (200, "")}
    assert {entry["weights_version"] for entry in facts} == {None, 1}
    assert all(entry["model"] and entry["client"] and entry["duration_ms"] > 0 for entry in facts)
    assert all(bool(entry["ran_on"]) == (entry["status"] == 200) for entry in facts)
    assert any(entry["status"] == 400 and not entry["request_id"] for entry in requests(served)), "that was no request"
    assert all("exc_text" not in entry for entry in requests(served))
    assert max(len(line) for line in gateway_lines(served) if "request_log.py" in line) < 1200


def named(server: Server) -> list[dict[str, Any]]:
    """The lines of this test's own requests."""
    return [entry for entry in requests(server) if entry["request_id"].startswith(("bad-", "good-"))]


def requests(server: Server) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in gateway_lines(server))
    return [entry for entry in lines if entry["filename"] == "request_log.py"]


def refused(server: Server, identity: str) -> int:
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]})
    return server.http.post(labour.INFER, content=body, headers={"X-Request-ID": identity}).status_code


def gateway_lines(server: Server) -> list[str]:
    (path,) = logs_of(server).glob("replica_default_gateway_*.log")
    return path.read_text().splitlines()


def logs_of(server: Server) -> Path:
    """Where `up` says that they are."""
    (said,) = (line for line in server.launched.lines if line.startswith("logs, on each node: "))
    return Path(said.rpartition(": ")[2].strip())


def test_a_swap_leaves_a_line_and_so_does_one_that_fails(served: Server, labour_dir: Path) -> None:
    weights = (labour_dir / "labour.safetensors").read_bytes()
    headers: dict[str, Any] = served.admin | {"Content-Type": "application/octet-stream"}
    assert served.http.post(f"{WEIGHTS}?label=again", content=weights, headers=headers).status_code == 200
    assert served.http.post(WEIGHTS, content=b"rubbish", headers=headers).status_code == 400
    logs = logs_of(served).glob("replica_default_labour-coordinator_*.log")
    lines = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    outcomes = [entry["outcome"] for entry in lines if "outcome" in entry]
    assert outcomes == ["unchanged", "failed"]


def test_a_client_finds_the_time_in_the_queue_and_in_the_run_in_its_trace(served: Server) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    assert_doubled(infer(served, 1.0, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}), 1.0)
    (path,) = (logs_of(served) / "spans").glob("*gateway*")
    until(lambda: path.read_text().count(trace) == 2)
    assert all(f'"name": "{name}"' in path.read_text() for name in ("queue", "run"))
