from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from numpy.typing import NDArray
from served import ROOT, Eager, Launched, Server, free_port, serving, write_config

BIN = Path(sys.executable).parent


def listening(pids: set[int] | None = None) -> set[int]:
    """The ports that these processes, or any, listen on."""
    found = [entry for entry in psutil.net_connections("tcp") if entry.status == psutil.CONN_LISTEN]
    return {int(getattr(entry.laddr, "port", 0)) for entry in found if pids is None or entry.pid in pids}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_scripts_serve_leaves_no_process_and_no_port(number: int) -> None:
    port, others = free_port(), listening()
    launched = Launched([str(ROOT / "scripts" / "serve"), "--port", str(port)], ROOT, {})
    try:
        launched.wait_for("aoti-serve status")
        assert f"curl -s http://127.0.0.1:{port}/v2/models/digits/infer" in launched.output
        family = launched.family()
        ports = listening({process.pid for process in family})
        names = {process.name() for process in family}
        assert port in ports
        assert {"raylet", "haproxy"} <= names
        assert launched.process.poll() is None
        launched.process.send_signal(number)
        assert launched.process.wait(60) == 0, launched.output
        assert psutil.wait_procs(family, timeout=5)[1] == []
        assert not (ports - others) & listening()
        assert "Traceback" not in launched.output
    finally:
        launched.stop()


def test_up_lists_what_listens_and_haproxy_shows_its_pages_to_this_machine_only(server: Server) -> None:
    server.launched.wait_for("aoti-serve status")
    for process in server.launched.family():
        if process.name() in ("haproxy", "gcs_server", "raylet"):
            for entry in process.net_connections("tcp"):
                if entry.status == psutil.CONN_LISTEN:
                    assert str(getattr(entry.laddr, "port", 0)) in server.launched.output
                    assert process.name() != "haproxy" or getattr(entry.laddr, "ip", "") == "127.0.0.1"
    assert "everywhere" in server.launched.output
    assert "to other machines: for calls" in server.launched.output


def test_a_haproxy_that_was_left_behind_is_explained_also_when_it_holds_another_port(
    digits_dir: Path, tmp_path: Path
) -> None:
    """Everything but HAProxy is killed; then the next start is asked for the same port, and for another one."""
    with serving(write_config(tmp_path, digits_dir)) as server:
        family = server.launched.family()
        (haproxy,) = [process for process in family if process.name() == "haproxy"]
        for process in family:
            if process != haproxy:
                process.kill()
        try:
            command = [str(BIN / "aoti-serve"), "up", str(tmp_path / "model.yaml"), "--no-fast", "--port"]
            done = subprocess.run([*command, str(server.port)], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 1
            assert f"port {server.port} is taken: haproxy (pid {haproxy.pid}) was left behind" in done.stderr
            assert f"kill {haproxy.pid}" in done.stderr
            another = Launched([*command, str(free_port())], ROOT, {})
            try:
                another.wait_for(f"note: haproxy (pid {haproxy.pid}) was left behind")
            finally:
                assert another.stop() == 0
        finally:
            haproxy.kill()


def test_a_signal_to_the_whole_process_group_leaves_nothing_either(digits_dir: Path, tmp_path: Path) -> None:
    """What supervisors and `timeout` send: Ray's head dies at the same moment as we are told to stop."""
    command = [str(BIN / "aoti-serve"), "up", str(write_config(tmp_path, digits_dir)), "--port", str(free_port())]
    launched = Launched(command, ROOT, {}, start_new_session=True)
    try:
        launched.wait_for("aoti-serve status")
        family = launched.family()
        os.killpg(launched.process.pid, signal.SIGTERM)
        launched.process.wait(40)
        assert psutil.wait_procs(family, timeout=5)[1] == []
    finally:
        launched.stop()


def test_two_servers_on_one_machine_keep_apart(
    digits_dir: Path, tmp_path_factory: pytest.TempPathFactory, server: Server, images: NDArray[np.float32]
) -> None:
    """Without a gateway a server answers nothing, rather than what the other one would."""
    config = write_config(tmp_path_factory.mktemp("other"), digits_dir, name="other", replicas=1)
    with serving(config) as other:
        assert other.http.get("/v2/models/other").status_code == 200
        (gateway,) = [process for process in other.launched.family() if "default:gateway" in "".join(process.cmdline())]
        gateway.kill()
        while True:
            with suppress(httpx.TransportError):
                response = other.http.get("/v2/models")
                if response.status_code == 200:
                    assert response.json() == {"models": ["other"]}
                    break
        assert server.http.get("/v2/models").json() == {"models": ["digits"]}


def test_a_stop_on_the_way_up_leaves_nothing_either(digits_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, digits_dir)
    launched = Launched([str(BIN / "aoti-serve"), "up", str(config), "--port", str(free_port())], ROOT, {})
    try:
        while not any(process.name() == "raylet" for process in launched.family()):
            assert launched.process.poll() is None, launched.output
        family = launched.family()
        launched.process.send_signal(signal.SIGTERM)
        launched.process.wait(60)
        assert psutil.wait_procs(family, timeout=5)[1] == []
    finally:
        launched.stop()


def test_a_taken_port_is_named(digits_dir: Path, tmp_path: Path) -> None:
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        command = [str(BIN / "aoti-serve"), "up", str(write_config(tmp_path, digits_dir)), "--port", str(port)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"port {port} is taken by" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"package": "nowhere.pt2"}, "nowhere.pt2", id="no package"),
        pytest.param({"num_runner": 2}, "num_runner", id="misspelt key"),
        pytest.param({"replicas": 0}, "replicas", id="bad value"),
        pytest.param({"device": "cuda"}, "compiled for cpu", id="device"),
        pytest.param({"weights": None}, "carries no weights", id="no weights"),
    ],
)
def test_a_wrong_configuration_is_named(digits_dir: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    config = write_config(tmp_path, digits_dir, **change)
    command = [str(BIN / "aoti-serve"), "up", str(config), "--port", str(free_port()), "--no-fast"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert says in done.stderr


def test_what_was_committed_survives_the_whole_cluster(
    digits_dir: Path, tmp_path: Path, eager: Eager, images: NDArray[np.float32]
) -> None:
    """Every process killed at once, between a swap and the next start; here with the plain ingress."""
    config = write_config(tmp_path, digits_dir)
    with serving(config, "--no-fast") as server:
        assert server.infer(images[:4])[0] == 1
        assert server.swap(eager.files["v2"], label="survivor").status_code == 200
        for process in server.launched.family():
            process.kill()
    with serving(config, "--no-fast") as server:
        version, logits = server.infer(images[:4])
        assert version == 2
        np.testing.assert_allclose(logits, eager.logits("v2", images[:4]), atol=1e-4)
        status = server.status()
        assert status["current"]["label"] == "survivor"
        assert status["previous"]["number"] == 1
        assert server.rollback().json()["current"]["number"] == 1
        np.testing.assert_allclose(server.infer(images[:4])[1], eager.logits("v1", images[:4]), atol=1e-4)


TRAINER = """
import pathlib, sys, numpy, ray
from safetensors.torch import load_file
from aoti_serve import AsyncWeightsClient, WeightsClient
from aoti_serve.errors import MissingTensor, UnreadableWeights, WrongBase

@ray.remote
def train(path):
    return WeightsClient("digits").swap(load_file(path), label="from a task").current.label

@ray.remote
class Trainer:
    async def changed(self, path):
        client = AsyncWeightsClient("digits")
        base = (await client.status()).current.number
        tensors = {"classify.bias": load_file(path)["classify.bias"]}
        try:
            await client.swap(tensors, partial=True, base_version=base + 1)
        except WrongBase:
            return (await client.swap(tensors, "part", partial=True, base_version=base)).current.parent == base

ray.init(sys.argv[1])
client = WeightsClient("digits")
try:
    client.swap({})
except MissingTensor as error:
    print(error)
print(client.swap(load_file(sys.argv[2]), label="from the driver").current.label)
print(ray.get(train.remote(sys.argv[2])), client.rollback().current.label, len(client.versions()))
path = pathlib.Path(sys.argv[2])
content = numpy.frombuffer(path.read_bytes(), numpy.uint8)
halves = [ray.put(half) for half in (content[:1000], content[1000:])]
print(client.swap(path, "a path").current.label, client.swap(halves, "objects").current.label)
try:
    client.swap(load_file)
except UnreadableWeights as error:
    print(error)
print(ray.get(Trainer.remote().changed.remote(sys.argv[2])))
"""


def test_replicas_of_a_joined_cluster_are_pinned_to_different_gpus_and_a_trainer_swaps_them(
    digits_dir: Path, tmp_path: Path
) -> None:
    """Logical GPUs: Ray hands out ids on any machine. `deployments:` is Serve's own section."""
    config = write_config(tmp_path, digits_dir, previous="release")
    content = yaml.safe_load(config.read_text())
    gpu = {"ray_actor_options": {"num_gpus": 1, "num_cpus": 1}}
    content["applications"][0]["deployments"] = [{"name": "digits-replica", **gpu}]
    config.write_text(yaml.safe_dump(content))
    with ray_cluster("--num-gpus=2", "--num-cpus=3") as address, serving(config, "--address", address) as server:
        assert server.launched.process.wait(30) == 0
        receipts = server.status()["replicas"]
        assert sorted(receipt["gpu_ids"] for receipt in receipts) == [["0"], ["1"]]
        command = [sys.executable, "-c", TRAINER, address, str(digits_dir / "v2.safetensors")]
        trained = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        assert trained[0].startswith("tensor '")
        assert trained[1:4] == ["from the driver", "from a task from the driver 3", "a path objects"]
        assert "not a state dict" in trained[4]
        assert trained[5] == "True"
        assert {receipt["previous"] for receipt in server.status()["replicas"]} == {None}, "released"
        subprocess.run([str(BIN / "aoti-serve"), "down", "--address", address], check=True, capture_output=True)
        with pytest.raises(httpx.HTTPError):
            server.http.get("/v2").raise_for_status()


def wait_ready(server: Server) -> None:
    while server.launched.process.poll() is None:
        with suppress(httpx.TransportError):
            if server.http.get("/v2/health/ready").status_code == 200:
                return
    raise AssertionError(server.launched.output)


@contextmanager
def ray_cluster(*options: str) -> Iterator[str]:
    """A Ray cluster that somebody else has started, with a folder of its own; its address."""
    port, folder = free_port(), tempfile.mkdtemp(prefix="ray")  # a short path: Ray puts sockets into it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        command = ["start", "--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false", *options]
        head = Launched([str(BIN / "ray"), *command, "--block"], ROOT, {})
        try:
            head.wait_for("--block")
            yield f"127.0.0.1:{port}"
        finally:
            head.stop()
            shutil.rmtree(folder)


def test_plain_serve_run_takes_the_same_configuration(tmp_path: Path, images: NDArray[np.float32]) -> None:
    """configs/model.yaml as it stands, but for a free port and a store of its own."""
    content = yaml.safe_load((ROOT / "configs" / "model.yaml").read_text())
    port = free_port()
    content["http_options"] = {"port": port}
    content["applications"][0]["args"]["models"][0]["store"] = str(tmp_path / "versions")
    config = tmp_path / "model.yaml"
    config.write_text(yaml.safe_dump(content))
    launched = Launched([str(BIN / "serve"), "run", str(config)], ROOT, {"RAY_ADDRESS": "local"})
    try:
        server = Server(launched, port)
        with server.http:
            wait_ready(server)
            assert server.infer(images[:2])[0] == 1
            swapped = server.swap((ROOT / "var" / "digits" / "v2.safetensors").read_bytes())
            assert swapped.json()["current"]["number"] == 2
            assert json.loads(server.http.get("/v2").content)["name"] == "aoti-serve"
    finally:
        with suppress(subprocess.TimeoutExpired):  # Ray's command now and then does not end, and is killed
            launched.stop(signal.SIGINT)
