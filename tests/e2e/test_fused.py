"""A fused model keeps the same promises: the tests of swaps and of inference again, each replica its own ingress."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from served import ROOT, Eager, Server, free_port, serving, write_config
from test_inference import (
    test_all_images_get_the_eager_models_classes_through_swap_and_rollback,
    test_more_rows_than_the_model_takes_come_back_in_order,
)
from test_weights import (
    test_a_file_that_does_not_fit_changes_nothing,
    test_a_killed_coordinator_comes_back_with_what_was_committed,
    test_fifty_swaps_under_traffic_lose_nothing_and_mix_nothing,
)

__all__ = [
    "test_a_file_that_does_not_fit_changes_nothing",
    "test_a_killed_coordinator_comes_back_with_what_was_committed",
    "test_all_images_get_the_eager_models_classes_through_swap_and_rollback",
    "test_fifty_swaps_under_traffic_lose_nothing_and_mix_nothing",
    "test_more_rows_than_the_model_takes_come_back_in_order",
]

Images = NDArray[np.float32]


@pytest.fixture(scope="module")
def server(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The fast ingress, two replicas that are their own gateways, version 1 = v1."""
    config = write_config(tmp_path_factory.mktemp("fused"), digits_dir, placement="fused")
    with serving(config) as running:
        yield running


def test_there_are_no_other_gateways(server: Server) -> None:
    titles = {process.cmdline()[0] for process in server.launched.family() if process.cmdline()}
    serving_ = {title.split(":")[4] for title in titles if title.startswith("ray::ServeReplica:default:")}
    assert serving_ == {"digits-replica", "digits-coordinator"}
    assert len(server.status()["replicas"]) == 2


def test_a_killed_replica_costs_the_connections_it_held_and_its_successor_is_current(
    server: Server, eager: Eager, images: Images
) -> None:
    """The price of being fused: who held the connection can answer it no more."""
    assert server.swap(eager.files["v2"]).status_code == 200
    current = server.status()["current"]["number"]
    killed = server.status()["replicas"][0]
    os.kill(killed["pid"], signal.SIGKILL)
    want = eager.logits("v2", images[:4])
    while True:
        with suppress(httpx.TransportError, AssertionError):
            replicas = server.status()["replicas"]
            if len(replicas) == 2 and killed["replica"] not in {receipt["replica"] for receipt in replicas}:
                break
        with suppress(httpx.TransportError):
            response = server.http.get("/v2/models/digits")
            assert response.status_code != 200 or response.json()["versions"] == [str(current)]
    assert {receipt["version"] for receipt in replicas} == {current}
    version, logits = server.infer(images[:4])
    assert version == current
    np.testing.assert_allclose(logits, want, atol=1e-4)


def test_two_fused_models_in_one_application_are_refused(digits_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, digits_dir, placement="fused")
    content = yaml.safe_load(config.read_text())
    models = content["applications"][0]["args"]["models"]
    models.append(models[0] | {"name": "other", "store": str(tmp_path / "other")})
    config.write_text(yaml.safe_dump(content))
    command = [str(Path(sys.executable).parent / "aoti-serve"), "up", str(config), "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "['digits', 'other'] are fused" in done.stderr
