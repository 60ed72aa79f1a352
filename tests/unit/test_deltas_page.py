"""The code of docs/guides/deltas.md, as it stands there: only Ray and the replicas are left out between the ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

import aoti_serve
from aoti_serve.cluster import client as client_module
from aoti_serve.config import WeightsLimits
from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.weights.files.index import read_index
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.objects.objects import open_stored
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN
from tests.pages import blocks_of

EMBEDDING, POLICY = (block.text for block in blocks_of("docs/guides/deltas.md") if block.language == "python")


class Coordinator:
    """Takes what a client sends, and commits it at once. The first file says what the package takes."""

    def __init__(self, folder: Path) -> None:
        self.store, self.current = Store(folder / "store", "m", 20), BUILT_IN
        self.constants: Constants | None = None
        self.sent: list[int] = []

    async def swap_bytes(self, body: AsyncIterator[np.ndarray], options: SwapOptions, *_: Any) -> SimpleNamespace:
        path = self.store.incoming()
        path.write_bytes(b"".join([piece.tobytes() async for piece in body]))
        self.sent.append(path.stat().st_size)
        self.constants = self.constants or Constants(
            constants=tuple(
                ConstantSpec(name=name, dtype=span.dtype, shape=span.shape, stride=torch.empty(span.shape).stride())
                for name, span in read_index(path).items()
            )
        )
        version = Intake(self.store, "m", self.constants, WeightsLimits(), []).of_file(path, options, self.current)
        self.store.commit(version, self.store.epoch + 1, self.current)
        self.current = version
        return SimpleNamespace(current=version)

    def answers_with(self, state: dict[str, torch.Tensor]) -> bool:
        with open_stored(self.store.file(self.current)) as file:
            stored = load(file.read())
        return stored.keys() == state.keys() and all(torch.equal(stored[name], state[name]) for name in state)


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Coordinator:
    found = Coordinator(tmp_path)

    async def connected(*_: str) -> aoti_serve.AsyncWeightsClient:
        client = object.__new__(aoti_serve.AsyncWeightsClient)
        monkeypatch.setattr(client, "_client", found, raising=False)
        return client

    monkeypatch.setattr(client_module, "join_named_cluster", lambda: None)
    monkeypatch.setattr(client_module, "_connected", connected)
    monkeypatch.setattr(client_module, "_who", lambda: "a trainer")
    return found


def test_rows_of_an_embedding_table(coordinator: Coordinator) -> None:
    names: dict[str, Any] = {}
    exec(EMBEDDING, names)
    assert (coordinator.current.number, coordinator.current.parent) == (2, 1)
    assert coordinator.current.label == "step 20"
    assert coordinator.answers_with(names["module"].state_dict())
    assert coordinator.sent[1] < coordinator.sent[0] / 10


def test_elements_of_a_policy(coordinator: Coordinator) -> None:
    names: dict[str, Any] = {}
    exec(POLICY, names)
    assert coordinator.answers_with(names["served"]())
    assert (coordinator.current.number, coordinator.current.label) == (4, "step 2")
    assert max(coordinator.sent[1:]) < coordinator.sent[0]
