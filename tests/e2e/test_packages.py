"""Packages of other kinds behind the same server: indices that would kill it, code that plain torch has packed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import torch
import yaml
from safetensors.torch import save
from torch import nn

from aoti_serve.model.export import export_package
from tests.e2e import doubling
from tests.e2e.served import Server, serving
from tests.package_cache import PackageCache

WORDS = 50


class Words(nn.Module):
    """A table of words: an index beyond it aborts what the compiler alone makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.table(ids).sum(1)
        return result


class Doubled(nn.Module):
    """A layer and a custom operator."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = doubling.doubled(self.layer(x))
        return result


@pytest.fixture(scope="module")
def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"words": Words().eval(), "doubled": Doubled().eval()}


@pytest.fixture(scope="module")
def both(
    modules: dict[str, nn.Module], package_cache: PackageCache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """`words`, exported here, and `doubled`, packaged by plain torch with its weights inside."""
    sources = [Path(__file__), Path(doubling.__file__)]
    packages = package_cache.entry("packages", partial(compile_to, modules), *sources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        with serving(written(packages, tmp_path_factory.mktemp("packages"))) as server:
            yield server


def compile_to(modules: dict[str, nn.Module], folder: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    ids = torch.zeros(2, 3, dtype=torch.int64)
    export_package(modules["words"], {"ids": ids}, folder / "words.pt2", dynamic_shapes={"ids": {0: batch}})
    program = torch.export.export(modules["doubled"], (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    keep = {"always_keep_tensor_constants": True, "cpp.dynamic_threads": True}
    torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "doubled.pt2"), inductor_configs=keep)


def written(packages: Path, folder: Path) -> Path:
    signature = {
        "inputs": [{"name": "x", "dtype": "FP32", "shape": ["batch=1..64", 3]}],
        "outputs": [{"name": "y", "dtype": "FP32", "shape": ["batch=1..64", 2]}],
    }
    models: list[dict[str, Any]] = [
        {"name": "words", "package": str(packages / "words.pt2"), "weights": str(packages / "words.safetensors")},
        {
            "name": "doubled",
            "package": str(packages / "doubled.pt2"),
            "signature": signature,
            "operators": ["doubling"],
        },
    ]
    for model in models:
        model["store"] = str(folder / f"{model['name']}-versions")
    application = {"name": "default", "route_prefix": "/", "import_path": "aoti_serve.app:build"}
    path = folder / "both.yaml"
    path.write_text(
        yaml.safe_dump({"applications": [application | {"args": {"models": models, "gateway": {"grpc_port": None}}}]})
    )
    return path


def ask(server: Server, model: str, name: str, values: torch.Tensor) -> httpx.Response:
    datatype = "INT64" if values.dtype == torch.int64 else "FP32"
    tensor = {"name": name, "datatype": datatype, "shape": list(values.shape), "data": values.flatten().tolist()}
    return server.http.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})


def answer(response: httpx.Response) -> tuple[int, torch.Tensor]:
    assert response.status_code == 200, response.text
    message: dict[str, Any] = response.json()
    (output,) = message["outputs"]
    return int(message["model_version"]), torch.tensor(output["data"]).reshape(output["shape"])


def replica_pid(server: Server, model: str) -> int:
    status = server.http.get(f"/v2/models/{model}/weights", headers=server.admin).json()
    (receipt,) = status["replicas"]
    return int(receipt["pid"])


def test_an_index_beyond_the_table_is_the_senders_error_and_nobody_elses(
    both: Server, modules: dict[str, nn.Module]
) -> None:
    """8 good clients beside a bad one: its requests get 400, theirs their answers, and the replica lives on."""
    before = replica_pid(both, "words")
    good = torch.arange(6).reshape(2, 3)
    want = modules["words"](good)
    wrong: list[object] = []

    def insist() -> None:
        for _ in range(30):
            _, found = answer(ask(both, "words", "ids", good))
            if not torch.allclose(found, want, atol=1e-5):
                wrong.append(found)

    clients = [Thread(target=insist) for _ in range(8)]
    for client in clients:
        client.start()
    for index in (WORDS, -1, 2**62) * 5:
        refused = ask(both, "words", "ids", torch.tensor([[0, 1, index]]))
        assert refused.status_code == 400, refused.text
        assert "input 'ids'" in refused.json()["error"]
        assert f"0..{WORDS - 1}" in refused.json()["error"]
    for client in clients:
        client.join()
    assert not wrong
    assert replica_pid(both, "words") == before


def test_a_package_of_plain_torch_with_a_custom_operator_is_served_and_swapped(
    both: Server, modules: dict[str, nn.Module]
) -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    want = modules["doubled"](x).detach()
    assert_answers(both, x, 0, want)
    twice = {name: tensor.detach() * 2 for name, tensor in modules["doubled"].state_dict().items()}
    swap(both, twice)
    assert_answers(both, x, 1, want * 2)
    assert both.http.post("/v2/models/doubled/weights/rollback", json={}, headers=both.admin).status_code == 200
    assert_answers(both, x, 0, want)
    swap(both, {"layer.bias": modules["doubled"].state_dict()["layer.bias"] + 1}, partial="true", base_version="0")
    assert_answers(both, x, 2, want + doubling.doubled(torch.ones(2)))


def swap(server: Server, tensors: dict[str, torch.Tensor], **params: str) -> None:
    headers = server.admin | {"Content-Type": "application/octet-stream"}
    swapped = server.http.post("/v2/models/doubled/weights", content=save(tensors), headers=headers, params=params)
    assert swapped.status_code == 200, swapped.text


def assert_answers(server: Server, x: torch.Tensor, version: int, want: torch.Tensor) -> None:
    named, found = answer(ask(server, "doubled", "x", x))
    assert named == version
    torch.testing.assert_close(found, want)
    assert torch.equal(answer(ask(server, "doubled", "INPUT__0", x))[1], found)
