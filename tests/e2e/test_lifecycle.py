from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from numpy.typing import NDArray

from aoti_serve.weights.store.store import Store
from tests.e2e.served import LAST_LINE, ROOT, START_S, Eager, Launched, Server, free_port, serving, write_config
from tests.e2e.wire import until
from tests.pages import commands_of

BIN = Path(sys.executable).parent


def test_up_lists_what_listens_and_prints_commands_that_work(server: Server) -> None:
    server.launched.wait_for(LAST_LINE)
    for process in server.launched.family():
        if process.name() in ("gcs_server", "raylet"):
            for entry in process.net_connections("tcp"):
                if entry.status == psutil.CONN_LISTEN:
                    assert str(getattr(entry.laddr, "port", 0)) in server.launched.output
    assert "everywhere" in server.launched.output
    assert "to other machines: for calls, which ask for Ray's token" in server.launched.output
    infer, swap, status = [line.strip() for line in server.launched.lines if line.startswith("  ")][:3]
    assert [word in line for word, line in zip(("curl", "swap", "status"), (infer, swap, status), strict=True)]
    for command in (infer, swap, status):
        subprocess.run(command, shell=True, cwd=ROOT, check=True, capture_output=True)
    assert server.rollback().status_code == 200


def test_a_cluster_that_is_not_there_is_told_at_once(digits_dir: Path, tmp_path: Path) -> None:
    config, nobody = write_config(tmp_path, digits_dir), f"127.0.0.1:{free_port()}"
    for command in (["up", str(config)], ["down"]):
        done = ended(*command, "--address", nobody)
        assert (done.returncode, done.stderr) == (1, f"error: nothing listens at {nobody}\n")


@pytest.fixture(scope="module")
def two(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Servers `a` and `b`, started at once. `b` leads a process group, as under a supervisor."""
    configs = [write_config(tmp_path_factory.mktemp(name), digits_dir, name=name, replicas=1) for name in ("a", "b")]
    with serving(configs[0], wait=False) as a, serving(configs[1], wait=False, start_new_session=True) as b:
        for server in (a, b):
            server.launched.wait_for(LAST_LINE, timeout=280)  # they share the cores
        yield a, b


def test_two_servers_that_start_at_once_keep_apart(two: tuple[Server, Server]) -> None:
    for server, name in zip(two, ("a", "b"), strict=True):
        assert server.http.get("/v2/models").json() == {"models": [name]}


def test_a_replica_that_dies_is_told_in_its_own_terminal_and_so_is_its_successor(two: tuple[Server, Server]) -> None:
    launched = two[1].launched
    (replica,) = [process for process in launched.family() if "default:b-replica" in "".join(process.cmdline())]
    replica.kill()
    launched.wait_for("gone; 0 of 1 run")
    launched.wait_for("b-replica: 1 of 1 run again")


def test_down_ends_the_server_that_is_meant(two: tuple[Server, Server]) -> None:
    a, b = two
    assert "Ray clusters run on this machine" in ended("down").stderr
    address = re.findall(r"RAY_ADDRESS=(\S+)", a.launched.output)[0]

    def down() -> None:
        done = ended("down", "--address", address)
        assert (done.returncode, done.stderr) == (0, "")

    a.launched.assert_leaves_nothing(down)
    assert b.http.get("/v2/models").json() == {"models": ["b"]}


def test_a_signal_to_the_whole_process_group_leaves_nothing_either(two: tuple[Server, Server]) -> None:
    """What supervisors and `timeout` send: Ray's head dies at the same moment as we are told to stop."""
    launched = two[1].launched
    family = launched.family()
    os.killpg(launched.process.pid, signal.SIGTERM)
    launched.process.wait(40)
    assert psutil.wait_procs(family, timeout=5)[1] == []


def test_ctrl_c_on_the_way_up_is_answered_at_once_and_leaves_nothing(digits_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, digits_dir)
    launched = Launched(
        [str(BIN / "aoti-serve"), "up", str(config), "--port", str(free_port()), "--metrics-port", "0"], ROOT, {}
    )
    try:
        until(lambda: starts_ray(launched), START_S)
        interrupt = partial(launched.process.send_signal, signal.SIGINT)
        launched.assert_leaves_nothing(interrupt, 128 + signal.SIGINT, timeout=20)
        assert "stopping, before it was ready" in launched.output
    finally:
        launched.stop()


def starts_ray(launched: Launched) -> bool:
    assert launched.process.poll() is None, launched.output
    return any(process.name() == "raylet" for process in launched.family())


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_taken_port_is_named(digits_dir: Path, tmp_path: Path, option: str) -> None:
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        ports = {"--port": str(free_port()), "--metrics-port": "0"} | {option: str(port)}
        done = ended("up", str(write_config(tmp_path, digits_dir)), *(word for pair in ports.items() for word in pair))
    assert done.returncode == 1
    assert f"port {port} is taken by" in done.stderr
    assert option in done.stderr
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
    done = ended("up", str(config), "--port", str(free_port()))
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_could_never_be_placed_is_not_waited_for(digits_dir: Path, tmp_path: Path) -> None:
    done = ended("up", str(write_config(tmp_path, digits_dir, num_runners=9999)), "--port", str(free_port()))
    assert done.returncode == 1
    assert re.search(r"error: .*the models take 19998 CPU cores \(.*\), and Ray has \d+ .* never start\n$", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_damaged_version_is_told_once_by_check_and_by_up(digits_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, digits_dir, replicas=1)
    store = Store(tmp_path / "versions", "digits", 4)
    version = store.add(digits_dir / "v1.safetensors", "v1")
    store.commit(version, 1, None)
    with (tmp_path / "versions/versions/1/weights.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    ports = ("--port", str(free_port()), "--metrics-port", "0")
    for command in ("check", "up"):
        done = ended(command, str(config), *ports)
        assert done.returncode == 1
        assert done.stderr.count("versions/1/weights.safetensors is damaged: its sha256 is") == 1, done.stderr
        assert "Traceback" not in done.stderr


def test_what_was_committed_survives_the_whole_cluster(
    digits_dir: Path, tmp_path: Path, eager: Eager, images: NDArray[np.float32]
) -> None:
    """Every process killed at once, between a swap and the next start, which has no first weights any more."""
    config = write_config(tmp_path, digits_dir)
    with serving(config) as server:
        assert server.infer(images[:4])[0] == 1
        assert server.swap(eager.files["v2"], label="survivor").status_code == 200
        for process in server.launched.family():
            process.kill()
    with serving(write_config(tmp_path, digits_dir, weights=str(tmp_path / "gone.safetensors"))) as server:
        version, logits = server.infer(images[:4])
        assert version == 2
        np.testing.assert_allclose(logits, eager.logits("v2", images[:4]), atol=1e-4)
        status = server.status()
        assert status["current"]["label"] == "survivor"
        assert status["previous"]["number"] == 1
        assert server.rollback().json()["current"]["number"] == 1
        np.testing.assert_allclose(server.infer(images[:4])[1], eager.logits("v1", images[:4]), atol=1e-4)
        server.launched.assert_leaves_nothing(partial(server.launched.process.send_signal, signal.SIGINT))


TRAINER = """
import pathlib, sys, numpy, ray
from safetensors.torch import load_file, save, save_file
from aoti_serve import AsyncWeightsClient, WeightsClient
from aoti_serve.errors import MissingTensor, UnreadableWeights, BaseVersionMismatch

def raised(path, by):
    tensors = load_file(path)
    tensors["classify.bias"] += by
    return tensors

@ray.remote
def train(path):
    return WeightsClient("digits").swap(raised(path, 1), label="from a task").current.label

@ray.remote
class Trainer:
    async def changed(self, path):
        client = AsyncWeightsClient("digits")
        base = (await client.status()).current.number
        tensors = {"classify.bias": load_file(path)["classify.bias"]}
        try:
            await client.swap(tensors, partial=True, base_version=base + 1)
        except BaseVersionMismatch:
            return (await client.swap(tensors, "part", partial=True, base_version=base)).current.parent == base

ray.init(sys.argv[1])
client = WeightsClient("digits")
try:
    client.swap({})
except MissingTensor as error:
    print(error)
swaps = [client.swap(load_file(sys.argv[2]), label=label) for label in ("from the driver", "again")]
print([(status.current.label, status.unchanged) for status in swaps])
print(ray.get(train.remote(sys.argv[2])), client.rollback().current.label, len(client.versions()))
path = pathlib.Path(sys.argv[3])
save_file(raised(sys.argv[2], 2), path)
content = numpy.frombuffer(save(raised(sys.argv[2], 3)), numpy.uint8)
halves = [ray.put(half) for half in (content[:1000], content[1000:])]
print(client.swap(path, "a path").current.label, client.swap(halves, "objects").current.label)
try:
    client.swap(load_file)
except UnreadableWeights as error:
    print(error)
print(ray.get(Trainer.remote().changed.remote(sys.argv[2])))
"""


COWORKER = """
import sys, ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

ray.init(sys.argv[1], log_to_driver=False)
serve.start(proxy_location="HeadOnly", http_options={"port": int(sys.argv[2])})
code = {"env_vars": {"PYTHONPATH": sys.argv[3]}}
application = {"name": "coworker", "route_prefix": "/", "import_path": "plain:app", "runtime_env": code}
_get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}), _blocking=True)
"""
PLAIN = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Hello:
    def __call__(self, request):
        return "hello"

app = Hello.bind()
"""


def test_a_joined_clusters_applications_stay_and_its_replicas_are_pinned_and_a_trainer_swaps_them(
    digits_dir: Path, tmp_path: Path
) -> None:
    """Logical GPUs: Ray hands out ids on any machine. `deployments:` is Serve's own section."""
    config = write_config(tmp_path, digits_dir, previous="release")
    content = yaml.safe_load(config.read_text())
    gpu = {"ray_actor_options": {"num_gpus": 1, "num_cpus": 1}}
    content["applications"][0]["deployments"] = [{"name": "digits-replica", **gpu}]
    del content["applications"][0]["route_prefix"]
    config.write_text(yaml.safe_dump(content))
    (tmp_path / "plain.py").write_text(PLAIN)
    port = free_port()
    with ray_cluster("--num-gpus=2", "--num-cpus=3") as address:
        command = [sys.executable, "-c", COWORKER, address, str(port), str(tmp_path)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"RAY_AUTH_MODE": "token"})
        with serving(config, "--address", address) as server:
            assert server.launched.process.wait(30) == 0
            assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).text == "hello"
            receipts = server.status()["replicas"]
            assert sorted(receipt["gpu_ids"] for receipt in receipts) == [["0"], ["1"]]
            files = [str(digits_dir / "v2.safetensors"), str(tmp_path / "raised.safetensors")]
            command = [sys.executable, "-c", TRAINER, address, *files]
            trained = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            assert trained[0].startswith("tensor '")
            assert trained[1] == "[('from the driver', False), ('from the driver', True)]"
            assert trained[2:4] == ["from a task from the driver 3", "a path objects"]
            assert "not a state dict" in trained[4]
            assert trained[5] == "True"
            assert {receipt["previous"] for receipt in server.status()["replicas"]} == {None}, "released"
            content["applications"][0]["name"] = "coworker"
            config.write_text(yaml.safe_dump(content))
            refused = ended("up", str(config), "--address", address, "--port", str(free_port()))
            assert refused.returncode == 1
            assert "runs an application 'coworker' already, which is plain:app; --replace" in refused.stderr
            absent = ended("down", "--address", address, "--app", "nobody")
            assert "no application 'nobody'" in absent.stderr
            assert ended("down", "--address", address).returncode == 0
            with pytest.raises(httpx.HTTPError):
                server.http.get("/v2").raise_for_status()
            assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).text == "hello"


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`aoti-serve` with these, when it has ended."""
    command = [str(BIN / "aoti-serve"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def is_ready(server: Server) -> bool:
    assert server.launched.process.poll() is None, server.launched.output
    with suppress(httpx.TransportError):
        return server.http.get("/v2/health/ready").status_code == 200
    return False


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
            head.stop(signal.SIGKILL)  # it would take half a minute to end by itself
            shutil.rmtree(folder)


def test_plain_serve_run_takes_the_same_configuration(
    digits_dir: Path, tmp_path: Path, images: NDArray[np.float32]
) -> None:
    """configs/model.yaml as it stands, but for a free port, a store of its own, and where the demo lies."""
    content = yaml.safe_load((ROOT / "configs" / "model.yaml").read_text())
    port = free_port()
    content["applications"][0]["args"]["gateway"] |= {"http_port": port, "grpc_port": free_port()}
    files = {"package": "digits.pt2", "weights": "v1.safetensors"}
    own = {key: str(digits_dir / name) for key, name in files.items()}
    content["applications"][0]["args"]["models"][0] |= own | {"store": str(tmp_path / "versions")}
    config = tmp_path / "model.yaml"
    config.write_text(yaml.safe_dump(content))
    command = commands_of("docs/guides/serving.md")[0]
    assert command == "serve run configs/model.yaml"
    launched = Launched([*command.split()[:2], str(config)], ROOT, {"RAY_ADDRESS": "local"})
    try:
        server = Server(launched, port)
        with server.http:
            until(lambda: is_ready(server), START_S)
            assert server.infer(images[:2])[0] == 1
            swapped = server.swap((digits_dir / "v2.safetensors").read_bytes())
            assert swapped.json()["current"]["number"] == 2
            assert json.loads(server.http.get("/v2").content)["name"] == "aoti-serve"
    finally:
        with suppress(subprocess.TimeoutExpired):  # Ray's command now and then does not end, and is killed
            launched.stop(signal.SIGINT, patience=10)
