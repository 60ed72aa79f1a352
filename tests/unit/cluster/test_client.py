"""The clients for Python programs, where there is no cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from aoti_serve import AsyncWeightsClient, GoldenRequest, RowChanges, WeightsClient, save_delta
from aoti_serve.cluster import client as client_module
from aoti_serve.errors import InvalidConfig, Unavailable, UnfitAdapter
from aoti_serve.weights.adapter_config import AdapterConfig
from aoti_serve.weights.labels import LabelChange
from aoti_serve.weights.swap.target import Exposure
from aoti_serve.weights.swap_options import ExposureOptions, SwapOptions
from aoti_serve.weights.version import Version


@pytest.mark.parametrize("client", [WeightsClient, AsyncWeightsClient])
def test_outside_of_a_cluster_they_say_what_is_missing_and_start_none(
    client: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Unavailable, match=r"set RAY_ADDRESS, and RAY_AUTH_MODE=token"):
        client("digits")
    assert not ray.is_initialized()


class Answering:
    current = Version(number=7, digest="ab" * 32)


class Sent:
    """In the place of the coordinator: what was sent, and with which options."""

    def __init__(self) -> None:
        self.content = b""
        self.options = SwapOptions()
        self.golden = b""
        self.asked: list[tuple[Any, ...]] = []

    async def status(self) -> Answering:
        return Answering()

    async def offer_golden(self, body: AsyncIterator[bytes], *_: Any) -> None:
        self.golden = b"".join([piece async for piece in body])

    async def swap_bytes(self, body: AsyncIterator[np.ndarray], options: SwapOptions, *_: Any) -> None:
        self.content, self.options = b"".join([piece.tobytes() async for piece in body]), options

    async def expose(self, *asked: Any) -> None:
        self.asked.append(("expose", *asked))

    async def promote(self, *asked: Any) -> None:
        self.asked.append(("promote", *asked))

    async def withdraw(self, *asked: Any) -> None:
        self.asked.append(("withdraw", *asked))


def connected(monkeypatch: pytest.MonkeyPatch) -> tuple[AsyncWeightsClient, Sent]:
    monkeypatch.setattr(client_module, "_who", lambda: "me")
    client, sent = object.__new__(AsyncWeightsClient), Sent()
    monkeypatch.setattr(client, "_client", sent, raising=False)
    return client, sent


async def test_an_adapter_is_a_folder_with_its_settings_or_tensors_with_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client, sent = connected(monkeypatch)
    with pytest.raises(UnfitAdapter, match=r"adapter_config\.json: No such file"):
        await client.swap(tmp_path, adapter=True)
    settings = {"r": 4, "lora_alpha": 16, "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"tensors")
    await client.swap(tmp_path, adapter=True)
    assert (sent.content, sent.options.adapter_config) == (b"tensors", AdapterConfig(r=4, lora_alpha=16))
    await client.swap({}, adapter=True, adapter_config=settings | {"r": 2})
    assert sent.options.adapter_config == AdapterConfig(r=2, lora_alpha=16)


@pytest.mark.parametrize("base", [None, Version(number=3, digest="cd" * 32)])
async def test_a_delta_names_the_version_that_it_was_made_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base: Version | None
) -> None:
    monkeypatch.setattr(client_module, "_who", lambda: "me")
    client, sent = object.__new__(AsyncWeightsClient), Sent()
    monkeypatch.setattr(client, "_client", sent, raising=False)
    changes = {"w": RowChanges(torch.tensor([1, 3]), torch.ones(2, 4))}
    await client.swap_delta(changes, "step 8", base=base)
    made_from = base or Answering.current
    assert sent.options == SwapOptions(label="step 8", delta=True, base_version=made_from.number)
    save_delta(changes, tmp_path / "delta", made_from.digest)
    assert sent.content == (tmp_path / "delta").read_bytes()


@pytest.mark.parametrize(
    ("path", "label", "named"),
    [
        ("runs/step 7.safetensors", "", "step 7"),
        ("runs/step 7.safetensors", "mine", "mine"),
        ("runs/\x1b[2J.safetensors", "", "[2J"),
        (f"runs/{'x' * 230}.safetensors", "", "x" * 230),
    ],
)
async def test_weights_of_a_path_get_its_name_where_none_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str, label: str, named: str
) -> None:
    client, sent = connected(monkeypatch)
    (tmp_path / "runs").mkdir()
    (tmp_path / path).write_bytes(b"weights")
    await client.swap(tmp_path / path, label)
    assert sent.options.label == named
    await client.swap({})
    assert sent.options.label == ""


async def test_a_share_may_be_text_or_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    client, sent = connected(monkeypatch)
    await client.swap({}, candidate=True, share="5%", shadow=0.1)
    assert sent.options.exposure == Exposure(share=0.05, shadow=0.1)
    await client.expose("20%")
    await client.expose(shadow=0.3)
    await client.promote()
    await client.withdraw(wait=False)
    assert sent.asked == [
        ("expose", ExposureOptions(share=0.2), "me"),
        ("expose", ExposureOptions(shadow=0.3), "me"),
        ("promote", "me", True),
        ("withdraw", "me", False),
    ]
    with pytest.raises(InvalidConfig, match="'a lot' is no share"):
        await client.expose("a lot")


async def test_golden_requests_are_sent_before_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_who", lambda: "me")
    client, sent = object.__new__(AsyncWeightsClient), Sent()
    monkeypatch.setattr(client, "_client", sent, raising=False)
    await client.swap({}, golden=[GoldenRequest("one", {"x": np.zeros(3, np.float32)})])
    assert sent.options.golden == hashlib.sha256(sent.golden).hexdigest()


class Labels:
    """In the place of the coordinator: it takes every change, and remembers it."""

    def __init__(self) -> None:
        self.changes: list[tuple[LabelChange, str]] = []

    async def relabel(self, change: LabelChange, who: str) -> dict[str, int]:
        self.changes.append((change, who))
        return {} if change.version is None else {change.name: change.version}


def test_labels_are_moved_and_deleted_as_the_caller_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_who", lambda: "me")
    behind, asynchronous = Labels(), object.__new__(AsyncWeightsClient)
    monkeypatch.setattr(asynchronous, "_client", behind, raising=False)
    client = object.__new__(WeightsClient)
    monkeypatch.setattr(client, "_client", asynchronous, raising=False)
    monkeypatch.setattr(client, "_closed", False, raising=False)
    assert client.label("stable", 7) == client.label("stable", 7, expected=None) == {"stable": 7}
    assert client.unlabel("stable", expected=7) == {}
    assert behind.changes == [
        (LabelChange(name="stable", version=7), "me"),
        (LabelChange(name="stable", version=7, expected=None), "me"),
        (LabelChange(name="stable", version=None, expected=7), "me"),
    ]
    with pytest.raises(InvalidConfig, match="the server itself says"):
        client.label("previous", 7)
