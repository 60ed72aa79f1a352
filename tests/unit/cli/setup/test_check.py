"""`aoti-serve check`: all problems at once, and nothing is started or made."""

from __future__ import annotations

import json
import os
import shutil
import socket
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from aoti_serve.cli import app
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.weights.store.store import Store
from tests.unit.gateway.listener.test_tls import made
from tests.unit.launcher.configuration.test_config_file import application, package

WEIGHT = ConstantSpec(name="w", dtype="float32", shape=(2,), stride=(1,))
MODEL = "{name: a, package: m.pt2, weights: w.safetensors}"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    package(tmp_path / "m.pt2", WEIGHT, apart=True)
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "w.safetensors")
    return tmp_path


def checked(args: str, *options: str) -> Result:
    Path("serve.yaml").write_text("applications:\n" + application(args))
    return CliRunner().invoke(app, ["check", "serve.yaml", "--metrics-port", "0", *options])


def problems(args: str, *options: str) -> list[str]:
    found = json.loads(checked(args, "--json", *options).stdout)
    assert found["ready"] == (not found["problems"])
    return [problem["error"] for problem in found["problems"]]


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port: int = probe.getsockname()[1]
        return port


def gateway(**more: object) -> str:
    return json.dumps({"http_port": free_port(), "grpc_port": None} | more)


def test_what_would_start_is_ready_and_nothing_is_made(here: Path) -> None:
    before = sorted(here.iterdir())
    result = checked(f"{{gateway: {gateway()}, models: [{{name: a, package: m.pt2, weights: w.safetensors}}]}}")
    assert result.exit_code == 0, result.output
    assert "model 'a': m.pt2, for cpu, 1 constant\n" in result.stdout
    assert "serve.yaml: ready to start" in result.stdout
    assert [path for path in sorted(here.iterdir()) if path not in before] == [here / "serve.yaml"]


def test_all_problems_are_told_at_once(here: Path) -> None:
    (here / "store").write_text("a file")
    with closing(socket.create_server(("127.0.0.1", 0))) as holder:
        port = holder.getsockname()[1]
        one = "{name: a, package: gone.pt2}"
        two = "{name: b, package: m.pt2, weights: gone.safetensors}"
        three = "{name: c, package: m.pt2, weights: w.safetensors, store: store/deep}"
        four = "{name: d, package: m.pt2, weights: w.safetensors, store: d, replicas: 100000}"
        models = f"[{one}, {two}, {three}, {four}]"
        result = checked(f"{{gateway: {gateway(http_port=port)}, models: {models}}}")
    assert result.exit_code == 1
    assert "no file" in result.stderr
    for part in (
        "gone.pt2",
        "gone.safetensors",
        f"port {port} is taken",
        "serve.yaml: the models take",
        "100000 CPU cores ('d' 100000), and Ray has",
        "is no folder",
    ):
        assert part in result.stderr, result.stderr


def test_each_wrong_key_is_a_problem_with_the_key_that_may_be_meant() -> None:
    assert problems("{gatway: {}, models: [{name: a, package: m.pt2, replica: 2, batching: {max_batch_size: 0}}]}") == [
        "serve.yaml: application 'default', args: models.0.batching.max_batch_size: 0 is too small: "
        "more than 0 is needed",
        "serve.yaml: application 'default', args: models.0.replica: there is no such key; there is `replicas`",
        "serve.yaml: application 'default', args: gatway: there is no such key; there is `gateway`",
    ]


def test_a_byte_of_a_package_that_has_changed_is_found(here: Path) -> None:
    with zipfile.ZipFile(here / "m.pt2", "a") as archive:
        archive.writestr("m/data/weights.bin", b"x" * 1000)
    content = (here / "m.pt2").read_bytes()
    (here / "m.pt2").write_bytes(content.replace(b"x" * 1000, b"x" * 999 + b"y"))
    (found,) = problems(f"{{gateway: {gateway()}, models: [{{name: a, package: m.pt2, weights: w.safetensors}}]}}")
    assert "a damaged one: Bad CRC-32 for file 'm/data/weights.bin'" in found


def test_a_certificate_that_is_none_is_told(here: Path) -> None:
    (here / "c.pem").write_text("no certificate")
    section = gateway(tls={"certificate": "c.pem", "key": "c.pem"})
    (found,) = problems(f"{{gateway: {section}, models: [{{name: a, package: m.pt2, weights: w.safetensors}}]}}")
    assert found.startswith("cannot serve TLS with certificate")


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False), (0o600, False)])
def test_a_key_that_others_may_read_is_warned_of(here: Path, mode: int, warned: bool) -> None:
    made(here).key.chmod(mode)
    section = gateway(tls={"certificate": "cert.pem", "key": "key.pem"})
    found = json.loads(checked(f"{{gateway: {section}, models: [{MODEL}]}}", "--json").stdout)
    assert found["ready"], found
    said = f"gateway.tls.key: other users of this machine may read {here / 'key.pem'}: chmod o= it"
    assert found["warnings"] == [said] * warned


def test_a_file_of_tokens_that_others_may_read_is_told(here: Path) -> None:
    (here / "t").write_text("0123456789abcdef\n")
    (here / "t").chmod(0o644)
    section = gateway(admin_tokens="t")
    (found,) = problems(f"{{gateway: {section}, models: [{{name: a, package: m.pt2, weights: w.safetensors}}]}}")
    assert "chmod o=" in found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_in_a_folder_that_is_not_ours_to_write_is_told(here: Path) -> None:
    (here / "theirs").mkdir(mode=0o555)
    model = "{name: a, package: m.pt2, weights: w.safetensors, store: theirs/versions}"
    (found,) = problems(f"{{gateway: {gateway()}, models: [{model}]}}")
    assert f"{here / 'theirs'} cannot be written: Permission denied" in found


def test_a_store_where_nobody_may_write_is_told_though_its_mode_allows_it() -> None:
    (found,) = problems(f"{{gateway: {gateway()}, models: [{MODEL[:-1]}, store: /proc/x}}]}}")
    assert "model 'a': store /proc/x: /proc cannot be written" in found


def test_a_file_on_the_way_to_a_store_is_one_problem() -> None:
    (found,) = problems(f"{{gateway: {gateway()}, models: [{MODEL[:-1]}, store: m.pt2/x}}]}}")
    assert "m.pt2 is no folder; set another `store`" in found


def test_the_version_that_answers_is_read_whole(here: Path) -> None:
    committed(here / "m.versions")
    file = here / "m.versions/versions/1/weights.safetensors"
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"x")
    (found,) = problems(f"{{gateway: {gateway()}, models: [{MODEL}]}}")
    assert "versions/1/weights.safetensors is damaged: its sha256 is" in found
    file.write_bytes(b"")
    assert len(problems(f"{{gateway: {gateway()}, models: [{MODEL}]}}")) == 1


@pytest.mark.parametrize("name", ["TERM", "LABELS", "CURRENT"])
def test_so_are_the_records_of_a_store(here: Path, name: str) -> None:
    committed(here / "m.versions")
    (here / "m.versions" / name).write_text("?")
    (found,) = problems(f"{{gateway: {gateway()}, models: [{MODEL}]}}")
    assert f"{name} is damaged" in found


def test_a_version_that_does_not_fit_the_package_any_more_is_told(here: Path) -> None:
    committed(here / "m.versions", np.zeros(3, np.float32))
    (found,) = problems(f"{{gateway: {gateway()}, models: [{MODEL}]}}")
    assert "committed version 1 does not fit the package" in found


def test_first_weights_that_the_disk_has_no_room_for_are_told(here: Path) -> None:
    count = shutil.disk_usage(here).free // 2
    package(here / "m.pt2", ConstantSpec(name="w", dtype="float32", shape=(count,), stride=(1,)), apart=True)
    sparse(here / "w.safetensors", count)
    (found,) = [each for each in problems(f"{{gateway: {gateway()}, models: [{MODEL}]}}") if "disk is full" in each]
    assert f"model 'a': store {here / 'm.versions'}: the disk is full: the start needs" in found


def test_a_disk_without_room_for_another_version_is_a_warning(here: Path) -> None:
    count = shutil.disk_usage(here).free // 2
    package(here / "m.pt2", ConstantSpec(name="w", dtype="float32", shape=(count,), stride=(1,)))
    result = checked(f"{{gateway: {gateway()}, models: [{{name: a, package: m.pt2}}]}}", "--json")
    (found,) = json.loads(result.stdout)["warnings"]
    assert f"a new version needs {4 * count:,} bytes" in found
    assert "disk is full" not in result.stdout


def committed(root: Path, weights: np.ndarray | None = None) -> None:
    save_file({"w": np.zeros(2, np.float32) if weights is None else weights}, "v.safetensors")
    store = Store(root, "a", 4)
    store.commit(store.add(Path("v.safetensors"), "v"), 1, None)


def sparse(path: Path, count: int) -> None:
    """A safetensors file of so many numbers, which take no room on the disk."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + 4 * count)


def test_what_is_not_looked_at_is_named() -> None:
    model = "{name: a, package: m.pt2, weights: w.safetensors, store: 'memory://versions', follow: {uri: /tmp}}"
    result = checked(f"{{gateway: {gateway()}, models: [{model}]}}", "--json")
    found = json.loads(result.stdout)["not_checked"]
    assert [part for part in ("can be written", "it follows") if not any(part in line for line in found)] == []


def test_of_first_weights_that_no_store_has_the_values_are_not_looked_at(tmp_path: Path) -> None:
    model = f"{{name: a, package: m.pt2, weights: w.safetensors, store: {tmp_path / 'store'}}}"
    text = f"{{gateway: {gateway()}, models: [{model}]}}"
    told = "the values of its first weights"
    assert told in checked(text, "--json").stdout
    (tmp_path / "store").mkdir()
    Store(tmp_path / "store", "a", 4)
    assert told not in checked(text, "--json").stdout


def test_a_file_that_cannot_be_read_is_one_problem() -> None:
    result = CliRunner().invoke(app, ["check", "gone.yaml", "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    (problem,) = found["problems"]
    assert problem["type"] == "InvalidConfig"
    assert found["not_checked"] == ["packages, weights, ports, cores, memory, stores: mend this first"]
