"""Golden requests of a version: a replica reads them over the transfer, and asks them before it has staged."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import save

from aoti_serve import GoldenRequest
from aoti_serve.cluster.replica.buffers import ReplicaBuffers
from aoti_serve.cluster.transfer.download import ChunkSource
from aoti_serve.errors import GoldenFailed, StoreDamaged
from aoti_serve.model.container import Container
from aoti_serve.signature.golden.file import golden_bytes
from aoti_serve.weights.store.layout import weights_name
from aoti_serve.weights.version import GoldenFile, Version
from tests.integration.cluster.readers import CountingTransfer
from tests.integration.models import Compiled

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Source:
    """A method of a coordinator's handle: where the file of that name is."""

    def __init__(self, transfer: Any, folder: Path) -> None:
        self._transfer = transfer
        self._folder = folder

    def remote(self, wanted: Version | str) -> Awaitable[ChunkSource]:
        name = weights_name(wanted.number) if isinstance(wanted, Version) else wanted
        return at_once(ChunkSource(self._transfer, self._folder / Path(name).relative_to("versions")))


class Coordinator:
    def __init__(self, transfer: Any, folder: Path) -> None:
        self.source = self.attached_source = Source(transfer, folder)

    def options(self, **_: object) -> Coordinator:
        return self


async def at_once(source: ChunkSource) -> ChunkSource:
    return source


@pytest.fixture
def transfer() -> Iterator[Any]:
    made: Any = CountingTransfer.here(2**40)
    yield made
    ray.kill(made)


def put(folder: Path, number: int, weights: dict[str, torch.Tensor], golden: bytes) -> Version:
    (folder / str(number)).mkdir()
    content = save(weights)
    (folder / str(number) / "weights.safetensors").write_bytes(content)
    (folder / str(number) / "golden.safetensors").write_bytes(golden)
    known = GoldenFile(digest=hashlib.sha256(golden).hexdigest(), nbytes=len(golden), requests=1)
    digest = hashlib.sha256(content).hexdigest()
    return Version(number=number, digest=digest, nbytes=len(content), golden=known)


async def test_a_replica_has_staged_only_what_answers_rightly(transfer: Any, mixed: Compiled, tmp_path: Path) -> None:
    logits = mixed.module(*mixed.inputs.values())["logits"]
    asked = golden_bytes([GoldenRequest("mixed", mixed.inputs, {"logits": logits}, {"logits": {"cosine": 0.999}})])
    other = {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in mixed.weights().items()}
    lost = GoldenFile(digest="0" * 64, nbytes=len(asked), requests=1)
    with Container(mixed.package) as container:
        coordinator: Any = Coordinator(transfer, tmp_path)
        buffers = ReplicaBuffers(container, True, "r", coordinator)
        first = put(tmp_path, 1, mixed.weights(), asked)
        await buffers.stage(first, accepted=False)
        await buffers.activate(first)
        with pytest.raises(GoldenFailed, match="golden request 'mixed'"):
            await buffers.stage(put(tmp_path, 2, other, asked), accepted=False)
        third = put(tmp_path, 3, mixed.weights(), asked)
        with pytest.raises(StoreDamaged, match=r"golden\.safetensors"):
            await buffers.stage(third.model_copy(update={"golden": lost}), accepted=False)
        assert (container.version, container.staged) == (1, None)
        fourth = put(tmp_path, 4, other, asked)
        await buffers.stage(fourth.model_copy(update={"golden": None, "skips_acceptance": True}), accepted=False)
        assert container.staged == 4
        await buffers.stage(put(tmp_path, 5, other, asked), accepted=True)  # it is committed
        assert container.staged == 5
