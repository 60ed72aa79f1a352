"""A package is replaced by another one while clients ask."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from aoti_serve.cluster.ray_private import resources_here
from aoti_serve.demo.digits import DigitsNet
from aoti_serve.model.export import export_package
from tests.e2e.checked_traffic import checked_traffic
from tests.e2e.served import PROGRAM, ROOT, START_S, Eager, Server, serving, write_config
from tests.e2e.wire import until
from tests.package_cache import PackageCache
from tests.pages import commands_of

CLIENTS = 4


class DigitsNetWithClass(DigitsNet):
    """It says which digit it takes the image for, too: `digit`, INT64 [batch]."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = super().forward(image)["logits"]
        return {"logits": logits, "digit": logits.argmax(1)}


def make_package(folder: Path) -> None:
    module: nn.Module = DigitsNetWithClass().eval()
    shapes = {"image": {0: torch.export.Dim("batch", min=1, max=1024)}}
    export_package(module, {"image": torch.zeros(2, 1, 8, 8)}, folder / "digits.pt2", dynamic_shapes=shapes)


@pytest.fixture
def successor(package_cache: PackageCache) -> Path:
    """A folder with a package that takes the same weights and has one more output."""
    return package_cache.entry("classified", make_package, Path(__file__)) / "digits.pt2"


def test_a_package_is_upgraded_and_its_successor_is_there_before_it_leaves(
    digits_dir: Path, successor: Path, eager: Eager, images: NDArray[np.float32], tmp_path: Path
) -> None:
    """What answers after the upgrade is what was committed before it."""
    config = write_config(tmp_path, digits_dir, replicas=1)
    surging = {"deployments": [{"name": "digits-replica", "max_surge_percent": 100}]}
    rewrite(config, surging)
    known = {number: (lambda x, name=name: eager.logits(name, x)) for number, name in ((1, "v1"), (2, "v2"))}
    with serving(config) as server:
        asked = [images[number : number + 2] for number in range(CLIENTS)]
        with checked_traffic(server.url, "digits", "image", asked, known) as traffic:
            assert server.swap(eager.files["v2"]).status_code == 200
            (old,) = replicas(server)
            rewrite(config, surging, package=str(successor))
            with ThreadPoolExecutor(1) as pool:
                upgraded = pool.submit(upgrade, server, config)
                until(lambda: len(replicas(server)) == 2, START_S)
                upgraded.result()
            until(lambda: old not in replicas(server) and outputs(server) == ["logits", "digit"], START_S)
            mark = len(traffic.answers)
            until(lambda: len(traffic.answers) > mark + CLIENTS)
        assert set(traffic.since(mark)) == {2}
        assert server.status()["current"]["number"] == 2


def test_an_upgrade_that_waits_for_cores_is_told_and_goes_on_without_a_surge(
    digits_dir: Path, successor: Path, tmp_path: Path
) -> None:
    """By the commands and the words of docs/guides/upgrading.md."""
    config = write_config(tmp_path, digits_dir, replicas=1)
    replica = {"name": "digits-replica", "ray_actor_options": {"num_cpus": 0.6 * resources_here()["CPU"]}}
    rewrite(config, {"deployments": [replica | {"max_surge_percent": 100}]})
    with serving(config) as server:
        rewrite(config, {}, package=str(successor))
        deploy(server, config)
        server.launched.wait_for("has 1 replicas that have taken more than 30s to be scheduled")
        assert outputs(server) == ["logits"]
        rewrite(config, {"deployments": [replica]})
        deploy(server, config)
        until(lambda: outputs(server) == ["logits", "digit"], START_S)


def deploy(server: Server, config: Path) -> None:
    """By the page's command, on this server's cluster: others run here, too."""
    content = yaml.safe_load(config.read_text())
    content["applications"][0]["args"]["gateway"]["http_port"] = server.port
    config.write_text(yaml.safe_dump(content))
    (written,) = commands_of("docs/guides/upgrading.md")
    (dashboard,) = re.findall(r"^Ray's dashboard: (\S+)", server.launched.output, re.MULTILINE)
    assert "http://127.0.0.1:8265" in written
    command = written.replace("127.0.0.1:8265", dashboard).replace("configs/model.yaml", str(config))
    path = {"PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}"}
    subprocess.run(command, shell=True, cwd=ROOT, check=True, capture_output=True, env=os.environ | path)


def rewrite(config: Path, rest: dict[str, Any], **model: str) -> None:
    content = yaml.safe_load(config.read_text())
    content["applications"][0] |= rest
    content["applications"][0]["args"]["models"][0] |= model
    config.write_text(yaml.safe_dump(content))


def upgrade(server: Server, config: Path) -> None:
    """Put what the file says now in the place of what runs."""
    (address,) = set(re.findall(r"RAY_ADDRESS=(\S+)", server.launched.output))
    command = [PROGRAM, "up", str(config), "--address", address, "--port", str(server.port)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def replicas(server: Server) -> set[int]:
    """The processes that are replicas."""
    found = set()
    for process in server.launched.family():
        with suppress(psutil.Error):  # it has ended meanwhile
            if "digits-replica" in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


def outputs(server: Server) -> list[str]:
    with suppress(httpx.TransportError):
        return [output["name"] for output in server.http.get("/v2/models/digits").json()["outputs"]]
    return []
