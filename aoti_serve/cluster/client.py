"""Changing a model's weights from Python: what the gateway's admin routes do, and what trainers do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ray import serve
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.calls import unwrapped
from aoti_serve.cluster.names import coordinator_of

if TYPE_CHECKING:
    import torch

    from aoti_serve.cluster.coordinator import WeightsStatus
    from aoti_serve.weights.version import Version

T = TypeVar("T")
UPLOAD_CHUNK_BYTES = 2 * 2**20  # below the 4 MB that Serve's gRPC transport takes


class CoordinatorClient:
    """The coordinator's calls, async, for whoever holds its handle. Errors arrive as themselves."""

    def __init__(self, coordinator: DeploymentHandle[Any]) -> None:
        self._coordinator = coordinator

    async def status(self, seen: int = -1) -> WeightsStatus:
        status: WeightsStatus = await unwrapped(self._coordinator.status.remote(seen))
        return status

    async def versions(self) -> list[Version]:
        versions: list[Version] = await unwrapped(self._coordinator.versions.remote())
        return versions

    async def rollback(self, version: int | None = None) -> WeightsStatus:
        status: WeightsStatus = await unwrapped(self._coordinator.rollback.remote(version))
        return status

    async def swap_uri(self, uri: str, label: str = "", sha256: str | None = None) -> WeightsStatus:
        status: WeightsStatus = await unwrapped(self._coordinator.swap_uri.remote(uri, label, sha256))
        return status

    async def swap_bytes(self, body: AsyncIterator[bytes], label: str = "", sha256: str | None = None) -> WeightsStatus:
        """Upload a safetensors file piece by piece, then swap to it. An upload that breaks off leaves nothing."""
        upload: str = await unwrapped(self._coordinator.open_upload.remote())
        try:
            async for piece in _resized(body):
                await unwrapped(self._coordinator.append.remote(upload, piece))
        except BaseException:
            await asyncio.shield(unwrapped(self._coordinator.drop_upload.remote(upload)))
            raise
        status: WeightsStatus = await unwrapped(self._coordinator.swap_upload.remote(upload, label, sha256))
        return status


class WeightsClient:
    """The weights of one served model, from any Ray driver, task or actor; blocking.

        WeightsClient("digits").swap(module.state_dict(), label="step 1200")

    `app` is the name of the Serve application. Not for use inside a running event loop.
    """

    def __init__(self, model: str, app: str = "default") -> None:
        self._client = CoordinatorClient(serve.get_deployment_handle(coordinator_of(model), app))

    def swap(self, state_dict: Mapping[str, torch.Tensor], label: str = "") -> WeightsStatus:
        """Make every replica answer with these tensors; returns when all do. Raises an InvalidWeights or StageFailed,
        and then nothing has changed."""
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
        return _finished(self._client.swap_bytes(_once(save(tensors)), label))

    def rollback(self, version: int | None = None) -> WeightsStatus:
        return _finished(self._client.rollback(version))

    def status(self) -> WeightsStatus:
        return _finished(self._client.status())

    def versions(self) -> list[Version]:
        return _finished(self._client.versions())


def _finished(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _resized(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at most UPLOAD_CHUNK_BYTES, small ones put together."""
    buffer = bytearray()
    async for piece in body:
        buffer += piece
        while len(buffer) >= UPLOAD_CHUNK_BYTES:
            yield bytes(buffer[:UPLOAD_CHUNK_BYTES])
            del buffer[:UPLOAD_CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)
