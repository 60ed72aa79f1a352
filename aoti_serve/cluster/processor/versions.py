"""The versions that a processor can work for: an instance of its class for each that has files of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from aoti_serve.errors import AssetsRefused, VersionNotResident
from aoti_serve.folders import ProcessFolder
from aoti_serve.processor.runs import LONGEST_DETAIL, RAISED, Processor
from aoti_serve.weights.assets import AssetFiles
from aoti_serve.weights.version import Version

logger = logging.getLogger("aoti_serve.processor")
MAKING_ENDS_S = 10.0  # a class that is not made so long after nobody wants it any more has hung

MakeProcessor = Callable[[Mapping[str, str]], Processor]
ReadAssets = Callable[[Version], Awaitable[AssetFiles]]


class HeldProcessor(NamedTuple):
    """An instance, and the sha256 of the assets that it was made with; empty if the version has none."""

    digest: str
    processor: Processor


class ProcessorVersions:
    """The `TwoBuffers` of a processor's Follower: the version that answers, and the one before or a staged one.

    `assets` are the configured paths by argument; a version's own file of that name comes first. Versions with the same
    assets share an instance. Lives in the event loop; instances are made in a thread of their own, so that answers go
    on.
    """

    def __init__(self, model: str, assets: Mapping[str, Path], read: ReadAssets, make: MakeProcessor) -> None:
        self._model = model
        self._assets = assets
        self._make = make
        self._read = read
        self._maker = ThreadPoolExecutor(1, "maker")
        self._folder = ProcessFolder("aoti-assets-")
        self._held: dict[int, HeldProcessor] = {}
        self._active: int | None = None
        self._staged: int | None = None
        self._making: asyncio.Future[Processor] | None = None

    def processor(self, version: int | None) -> Processor:
        """The instance for a version; for any thread. Raises VersionNotResident."""
        held = self._held.get(version) if version is not None else None
        if held is None:
            raise VersionNotResident(version=version or 0)
        return held.processor

    async def stage(self, version: Version, *, accepted: bool) -> None:
        """Make an instance with a version's files, unless one is there. Raises AssetsRefused, and what reading does."""
        digest = version.assets.digest if version.assets else ""
        same = [held for held in self._held.values() if held.digest == digest]
        held = same[0] if same else HeldProcessor(digest, await self._made(version))
        self._staged = version.number
        active = {number: each for number, each in self._held.items() if number == self._active}
        self._held = {**active, version.number: held}

    async def activate(self, version: Version) -> None:
        self._active, self._staged = version.number, None

    def cancel_stage(self) -> None:
        """Code that loads files cannot be stopped; if it goes on for long, this process ends."""
        if self._making is not None:
            asyncio.get_running_loop().call_later(MAKING_ENDS_S, self._end_if_hung, self._making)

    async def abort(self) -> None:
        """Let go of what is staged."""
        self._held = {number: held for number, held in self._held.items() if number != self._staged}
        self._staged = None

    def close(self) -> None:
        """Remove all files of versions: Ray ends a process without its finalizers."""
        self._folder.remove()

    async def _made(self, version: Version) -> Processor:
        files = await self._read(version)
        loop = asyncio.get_running_loop()
        self._making = loop.run_in_executor(self._maker, self._make_with, version, files)
        try:
            return await self._making
        finally:
            self._making = None

    def _make_with(self, version: Version, files: AssetFiles) -> Processor:
        folder = Path(tempfile.mkdtemp(dir=self._folder.path))
        try:
            for name, content in files.items():
                (folder / name).write_bytes(content)
            here = {key: folder / path.name if path.name in files else path for key, path in self._assets.items()}
            processor = self._make({key: str(path) for key, path in here.items()})
        except RAISED as error:
            shutil.rmtree(folder, ignore_errors=True)
            facts = {"raised": type(error).__name__, "detail": str(error)[:LONGEST_DETAIL]}
            raise AssetsRefused(model=self._model, version=version.number, **facts) from error
        weakref.finalize(processor, shutil.rmtree, folder, ignore_errors=True)  # it may read them again and again
        return processor

    def _end_if_hung(self, making: asyncio.Future[Processor]) -> None:
        if not making.done():
            logger.error("model '%s': its processor was not made with the files of a version, so it ends", self._model)
            os._exit(1)
