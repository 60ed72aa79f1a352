"""Changing a model's weights from Python: what the gateway's admin routes do, and what trainers do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.calls import unwrapped
from aoti_serve.cluster.names import coordinator_of
from aoti_serve.errors import Unavailable

if TYPE_CHECKING:
    import torch

    from aoti_serve.cluster.coordinator import WeightsStatus
    from aoti_serve.weights.version import Version

T = TypeVar("T")
UPLOAD_CHUNK_BYTES = 2 * 2**20  # below the 4 MB that Serve's gRPC transport takes


class CoordinatorClient:
    """The coordinator's calls, async, for whoever holds its handle.

    Errors arrive as themselves; Unavailable while the coordinator is being restarted.
    """

    def __init__(self, model: str, coordinator: DeploymentHandle[Any]) -> None:
        self._model = model
        self._coordinator = coordinator

    async def status(self, seen: int = -1) -> WeightsStatus:
        status: WeightsStatus = await self._call("status", seen)
        return status

    async def versions(self) -> list[Version]:
        versions: list[Version] = await self._call("versions")
        return versions

    async def rollback(self, version: int | None = None) -> WeightsStatus:
        status: WeightsStatus = await self._call("rollback", version)
        return status

    async def swap_uri(self, uri: str, label: str = "", sha256: str | None = None) -> WeightsStatus:
        status: WeightsStatus = await self._call("swap_uri", uri, label, sha256)
        return status

    async def swap_bytes(self, body: AsyncIterator[bytes], label: str = "", sha256: str | None = None) -> WeightsStatus:
        """Upload a safetensors file piece by piece, then swap to it. An upload that breaks off leaves nothing."""
        upload: str = await self._call("open_upload")
        try:
            async for piece in _resized(body):
                await self._call("append", upload, piece)
        except BaseException:
            await asyncio.shield(self._call("drop_upload", upload))
            raise
        status: WeightsStatus = await self._call("swap_upload", upload, label, sha256)
        return status

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await unwrapped(getattr(self._coordinator, method).remote(*arguments))
        except RayActorError as error:
            detail = f"the coordinator of model '{self._model}' is being restarted; ask for the status, then try again"
            raise Unavailable(detail=detail) from error


class WeightsClient:
    """The weights of one served model, from any Ray driver, task or actor; blocking.

        WeightsClient("digits").swap(module.state_dict(), label="step 1200")

    `app` is the name of the Serve application.
    """

    def __init__(self, model: str, app: str = "default") -> None:
        # A loop of its own: Serve binds a handle to the loop that it is first used in.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="weights-client", daemon=True).start()
        self._client = self._finished(_connected(model, app))

    def swap(self, state_dict: Mapping[str, torch.Tensor], label: str = "") -> WeightsStatus:
        """Make every replica answer with these tensors; returns when all do.

        Raises an InvalidWeights, StageFailed or SwapInProgress; nothing has changed then.
        """
        from safetensors.torch import save

        # Copies: tied tensors share a storage, which the format refuses.
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state_dict.items()}
        return self._finished(self._client.swap_bytes(_once(save(tensors)), label))

    def rollback(self, version: int | None = None) -> WeightsStatus:
        """Swap back to a stored version, the previous one if None."""
        return self._finished(self._client.rollback(version))

    def status(self) -> WeightsStatus:
        """What answers, what is behind it, and every replica's receipt."""
        return self._finished(self._client.status())

    def versions(self) -> list[Version]:
        """The stored versions, oldest first."""
        return self._finished(self._client.versions())

    def _finished(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _connected(model: str, app: str) -> CoordinatorClient:
    return CoordinatorClient(model, serve.get_deployment_handle(coordinator_of(model), app))


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
