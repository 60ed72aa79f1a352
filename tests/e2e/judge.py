"""A classifier whose weights decide what it answers and how long it takes; and clients that check every answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from aoti_serve.model.export import export_package
from tests.e2e.served import logits_of
from tests.e2e.toil import toil

NAME, CLASSES, WIDTH = "judge", 5, 8
INFER, WEIGHTS = f"/v2/models/{NAME}/infer", f"/v2/models/{NAME}/weights"
QUICK_S, SLOW_S = 0.002, 1.5
Arrays = NDArray[np.float32]


class Judge(nn.Module):
    """`logits` of `x`, after as many seconds as its weights say."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(CLASSES, WIDTH, generator=generator))
        self.seconds = nn.Parameter(torch.tensor([[QUICK_S]]))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": toil(x @ self.weight.T, self.seconds)}


def make_package(folder: Path) -> None:
    """judge.pt2 in the folder, its weights beside it."""
    batch = torch.export.Dim("batch", min=1, max=64)
    export_package(Judge().eval(), {"x": torch.zeros(2, WIDTH)}, folder / "judge.pt2", dynamic_shapes={"x": {0: batch}})


def weights_of(*, scale: float = 1.0, shift: int = 0, seconds: float = QUICK_S, spoilt: bool = False) -> bytes:
    """Of `Judge`: scaled, with its classes shifted, slow, or with a NaN."""
    weight = Judge().weight.detach().roll(shift, 0) * scale
    if spoilt:
        weight[0, 0] = torch.nan
    return save({"weight": weight.contiguous(), "seconds": torch.tensor([[seconds]])})


def logits_for(x: Arrays, *, scale: float = 1.0, shift: int = 0) -> Arrays:
    """What those weights answer."""
    weight = Judge().weight.detach().roll(shift, 0) * scale
    found: Arrays = (torch.from_numpy(x) @ weight.T).numpy()
    return found


class Clients:
    """Ask all the time, each with a routing key and an input of its own; every answer is checked.

    `known` has what each version must answer; `answers` are the versions, in order of their arrival.
    """

    def __init__(self, url: str) -> None:
        self.known: dict[int, dict[str, Any]] = {}
        self.answers: list[int] = []
        self.wrong: list[str] = []
        self._url = url
        self._done = threading.Event()

    def ask(self, number: int) -> None:
        x = np.random.default_rng(number).normal(size=(1, WIDTH)).astype(np.float32)
        tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as client:
            while not self._done.is_set():
                response = client.post(INFER, json={"inputs": [tensor], "parameters": {"routing_key": f"c{number}"}})
                if response.status_code != 200:
                    self.wrong.append(response.text)
                    continue
                version, logits = logits_of(response)
                if not np.allclose(logits, logits_for(x, **self.known[version]), atol=1e-4):
                    self.wrong.append(f"version {version} did not answer that")
                self.answers.append(version)

    def stop(self) -> None:
        self._done.set()


@contextmanager
def asking(url: str, count: int = 16) -> Iterator[Clients]:
    clients = Clients(url)
    threads = [threading.Thread(target=clients.ask, args=(number,)) for number in range(count)]
    clients.known[1] = {}
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        clients.stop()
        for thread in threads:
            thread.join()
