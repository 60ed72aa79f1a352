"""A processor's part in swaps: it reads the assets of a version, holds what is made of them, and reports."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.serve.handle import DeploymentHandle

from aoti_serve.address import Address
from aoti_serve.cluster.calls import result_of
from aoti_serve.cluster.membership.line import CoordinatorFinder
from aoti_serve.cluster.membership.member import Membership, announce_loading
from aoti_serve.cluster.processor.versions import MakeProcessor, ProcessorVersions
from aoti_serve.cluster.ray_private import over_grpc
from aoti_serve.cluster.transfer.download import ChunkReader
from aoti_serve.config import ProcessorConfig
from aoti_serve.processor.declared import processor_class
from aoti_serve.weights.assets import AssetFiles, unbundled
from aoti_serve.weights.store.layout import assets_name
from aoti_serve.weights.swap.follower import Follower
from aoti_serve.weights.swap.target import NO_EPOCH, Report, Target
from aoti_serve.weights.version import Version

ASSETS_SOURCE_S = 10.0


class ProcessorMember:
    """A member of the model's cluster, in the event loop of a processor's process. `make` makes instances, in a thread;
    `place` is the name of this process, and Ray's id of its node.

    It stages the files of a version before that may be committed: one that cannot open them fails the swap.
    """

    def __init__(
        self,
        model: str,
        config: ProcessorConfig,
        make: MakeProcessor,
        coordinator: DeploymentHandle[Any],
        place: tuple[str, str],
    ) -> None:
        self._model = model
        self._config = config
        self._member, self._node = place
        self._coordinator = over_grpc(coordinator)
        self._finder = CoordinatorFinder(coordinator, self._member, self._node)
        self.versions = ProcessorVersions(model, config.assets, self._read, make)
        self._follower = Follower(self.versions)
        self._settled_epoch = NO_EPOCH

    async def join(self) -> None:
        """Return once it holds what is committed, and follow from then on. Raises whatever keeps it from that."""
        async with announce_loading(self._finder):  # what the class imports may take long
            await asyncio.to_thread(processor_class, self._config, self._model)
        self._membership = Membership(self, self._finder)
        await self._membership.join()

    def check(self) -> None:
        """Raise the error that keeps it from following its coordinator, if there is one."""
        self._membership.check()

    def leave(self) -> None:
        self._membership.leave()

    def report(self) -> Report:
        follower = self._follower
        return Report(
            member=self._member,
            node=self._node,
            processor=True,
            epoch=follower.epoch,
            settled_epoch=self._settled_epoch,
            staged=follower.staged,
            failed=follower.failed,
            error=follower.error,
        )

    async def reconcile(self, target: Target) -> None:
        await self._follower.follow(target)
        self._settled_epoch = target.settled_epoch

    def withdraw(self, target: Target) -> None:
        self._follower.withdraw(target)

    def route(self, addresses: tuple[Address, ...]) -> None:
        """A processor asks no replica."""

    async def _read(self, version: Version) -> AssetFiles:
        if version.assets is None:
            return {}
        # To the transfer it is one more file of that number, digest and size.
        as_file = version.model_copy(update={"digest": version.assets.digest, "nbytes": version.assets.nbytes})
        reader = ChunkReader(self._member, as_file)
        source = self._coordinator.attached_source.remote(assets_name(version.number))
        await reader.open(result_of(source, ASSETS_SOURCE_S))
        return await asyncio.to_thread(lambda: unbundled(b"".join(chunk.tobytes() for chunk in reader)))
