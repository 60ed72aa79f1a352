"""What leaves a trainer: the same safetensors bytes, whatever form the weights have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from aoti_serve.cluster.transfer.upload import upload_stream
from aoti_serve.errors import UnreadableWeights
from tests.unit.weights.files.test_sharded import TENSORS, sharded

STATE = {name: torch.from_numpy(array) for name, array in TENSORS.items()}


async def sent(weights: Any) -> bytes:
    return b"".join([bytes(piece) async for piece in upload_stream(weights)])


async def test_shards_are_sent_as_a_state_dict_is(tmp_path: Path) -> None:
    index = sharded(tmp_path / "w", TENSORS, {"a": "x.safetensors", "b": "y.safetensors", "c": "y.safetensors"})
    content = await sent(STATE)
    assert {name: tensor.tolist() for name, tensor in load(content).items()} == {
        name: tensor.tolist() for name, tensor in STATE.items()
    }
    assert await sent(index) == content
    assert await sent(index.parent) == content


async def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w", metadata={"step": "1"})
    assert await sent(tmp_path / "w") == (tmp_path / "w").read_bytes()


async def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableWeights, match=r"no file at .*/gone"):
        await sent(tmp_path / "gone")
    with pytest.raises(UnreadableWeights, match="a str, not a state dict"):
        await sent("w")
