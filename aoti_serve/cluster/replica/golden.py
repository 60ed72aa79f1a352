"""The golden requests that came with a version, as a replica reads them."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from typing import Any

from aoti_serve.cluster.transfer.download import ChunkReader
from aoti_serve.signature.golden.file import parse_golden
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.weights.version import GoldenFile, Version


class GoldenReader:
    """Reads the golden requests of one version for one replica, over the transfer that carries its weights.

    Made in the replica's event loop, and opened there; iterated in another thread. After `cancel` both raise
    StageWithdrawn, the iteration before the next request.
    """

    def __init__(self, replica: str, version: Version, golden: GoldenFile) -> None:
        # To the transfer it is one more file of that number, digest and size.
        as_file = version.model_copy(update={"digest": golden.digest, "nbytes": golden.nbytes})
        self._reader = ChunkReader(replica, as_file)

    async def open(self, source: Awaitable[Any]) -> None:
        await self._reader.open(source)

    def cancel(self) -> None:
        self._reader.cancel()

    def __iter__(self) -> Iterator[GoldenRequest]:
        content = b"".join(chunk.tobytes() for chunk in self._reader)
        for request in parse_golden(content):
            self._reader.check_asked()
            yield request
