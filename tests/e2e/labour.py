"""A model whose runs take as long, and whose answers are as large, as a request asks for; and its configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from aoti_serve.model.export import export_package
from tests.e2e.served import Server
from tests.e2e.toil import NOTES, toil
from tests.e2e.wire import head

COPIES = 4
INFER = "/v2/models/labour/infer"


class Labour(nn.Module):
    """After `seconds` of labour: `doubled` = 2x, and `copies`, four of them side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: torch.Tensor, seconds: torch.Tensor) -> dict[str, torch.Tensor]:
        doubled = toil(x, seconds) * self.factor
        return {"doubled": doubled, "copies": torch.cat([doubled] * COPIES, 1)}


def make_package(folder: Path) -> None:
    """labour.pt2 in the folder, its weights beside it."""
    batch, width = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("width", min=1, max=2**24)
    examples = {"x": torch.zeros(2, 8), "seconds": torch.zeros(2, 1)}
    shapes = {"x": {0: batch, 1: width}, "seconds": {0: batch}}
    export_package(Labour().eval(), examples, folder / "labour.pt2", dynamic_shapes=shapes)


def write_config(package: Path, folder: Path, gateway: dict[str, Any], **model: Any) -> Path:
    """A configuration for the package in the one folder, with a store of its own in the other."""
    entry = {
        "name": "labour",
        "package": str(package / "labour.pt2"),
        "weights": str(package / "labour.safetensors"),
        "store": str(folder / "versions"),
        "operators": ["toil"],
    } | model
    args = {"models": [entry], "gateway": {"grpc_port": None} | gateway}
    application = {"name": "default", "route_prefix": "/", "import_path": "aoti_serve.app:build"}
    path = folder / "labour.yaml"
    path.write_text(yaml.safe_dump({"applications": [application | {"args": args}]}))
    return path


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Servers that are started inside find the operator, and note in the folder what they run."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv(NOTES, str(folder / NOTES))
        yield


def ask(x: NDArray[np.float32], seconds: float = 0.0, *outputs: str, **request: Any) -> tuple[bytes, dict[str, str]]:
    """A binary request for these outputs (`doubled` if none is named): its body and headers."""
    labours = np.full((len(x), 1), seconds, np.float32)
    inputs = [
        {"name": name, "datatype": "FP32", "shape": array.shape, "parameters": {"binary_data_size": array.nbytes}}
        for name, array in (("x", x), ("seconds", labours))
    ]
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs or ("doubled",)]
    header = json.dumps({"inputs": inputs, "outputs": wanted} | request).encode()
    return header + x.tobytes() + labours.tobytes(), {"Inference-Header-Content-Length": str(len(header))}


def row(tag: float, width: int = 8) -> NDArray[np.float32]:
    """One row that can be told from others."""
    return np.full((1, width), tag, np.float32)


def outputs_of(content: bytes, header_length: str) -> dict[str, NDArray[np.float32]]:
    """The arrays of a binary answer."""
    start = int(header_length)
    arrays = {}
    for output in json.loads(content[:start])["outputs"]:
        end = start + output["parameters"]["binary_data_size"]
        arrays[output["name"]] = np.frombuffer(content[start:end], np.float32).reshape(output["shape"])
        start = end
    assert start == len(content)
    return arrays


def infer(server: Server, tag: float, seconds: float = 0.0, headers: dict[str, str] | None = None) -> httpx.Response:
    body, fields = ask(row(tag), seconds)
    return server.http.post(INFER, content=body, headers=fields | (headers or {}))


def assert_doubled(response: httpx.Response, tag: float) -> None:
    assert response.status_code == 200, response.text
    found = outputs_of(response.content, response.headers["Inference-Header-Content-Length"])
    np.testing.assert_array_equal(found["doubled"], 2 * row(tag))


def asked(tag: float, seconds: float = 0.0) -> bytes:
    """A whole request, as bytes."""
    body, fields = ask(row(tag), seconds)
    return posted(body, fields) + body


def posted(body: bytes, fields: dict[str, str], **more: object) -> bytes:
    return head("POST", INFER, {"Content-Length": len(body)} | fields | more)


def noted(server: Server) -> list[float]:
    """The tags of the rows that were run."""
    path = server.store.parent / NOTES
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []
