"""Clients that cannot live in the environment of the tests: programs of their own, against the server of all tests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpbench.environments import installed
from numpy.typing import NDArray

from tests.e2e import perf_analyzer
from tests.e2e.perf_analyzer import PerfAnalyzer, concurrencies
from tests.e2e.served import Eager, Server


@pytest.fixture(scope="session")
def analyzer(request: pytest.FixtureRequest) -> PerfAnalyzer:
    cache = request.config.cache
    assert cache is not None
    return perf_analyzer.installed(cache.mkdir("perf_analyzer"))


@pytest.mark.parametrize("way", [["-i", "http"], ["-i", "grpc"], ["-i", "grpc", "--streaming"]], ids=" ".join)
def test_perf_analyzer_finishes_its_runs(
    analyzer: PerfAnalyzer, server: Server, grpc_port: int, way: list[str], tmp_path: Path
) -> None:
    port = server.port if "http" in way else grpc_port
    where = ["-m", "digits", *way, "-u", f"127.0.0.1:{port}", "--shared-memory", "none"]
    # Each level gets its row, however much the times differ on a busy machine.
    windows = ["--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "1000", "-r", "10"]
    rows = analyzer.measure(*where, *windows, "--concurrency-range", "1:16:5", report=tmp_path / "report.csv")
    assert concurrencies(rows) == [1, 6, 11, 16]
    assert all(float(row["Inferences/Second"]) > 0 for row in rows)
    assert all(float(row["Server Compute Infer"]) > 0 for row in rows)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_kserves_clients_infer_over_rest_and_grpc(
    server: Server, grpc_port: int, eager: Eager, images: NDArray[np.float32], tmp_path: Path
) -> None:
    """Long: its environment is 450 MB, and takes a minute to install."""
    assert server.swap(eager.files["v2"]).status_code == 200
    np.save(tmp_path / "images.npy", images[:3])
    script, wanted = Path(__file__).parent / "kserve_client.py", eager.logits("v2", images[:3])
    command = [
        str(installed("kserve")),
        str(script),
        server.url,
        f"127.0.0.1:{grpc_port}",
        str(tmp_path / "images.npy"),
    ]
    heard = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for protocol, forms in (("REST", {"JSON", "binary"}), ("gRPC", {"typed", "raw"})):
        assert heard[protocol]["states"] == [True, True, True]
        answers: dict[str, Any] = heard[protocol]["answers"]
        assert set(answers) == forms
        for answer in answers.values():
            assert answer["id"] == "seven"
            np.testing.assert_allclose(np.reshape(answer["logits"], wanted.shape), wanted, atol=1e-4)
