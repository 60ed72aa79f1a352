"""The versions of weights that a replica holds: the one that answers, and the one behind it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.calls import result_of
from aoti_serve.cluster.ray_private import over_grpc
from aoti_serve.cluster.replica.golden import GoldenReader
from aoti_serve.cluster.transfer.download import ChunkReader
from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.store.layout import golden_name
from aoti_serve.weights.swap.target import Receipt
from aoti_serve.weights.version import BUILT_IN, Version

logger = logging.getLogger("ray.serve")
SOURCE_S = 10.0
STAGER_NICE = 10


class ReplicaBuffers:
    """The two buffers of a replica's container, by weights version: the `TwoBuffers` of its Follower.

    Lives in the replica's event loop. Staging and committing run in a thread each, so that the loop goes on answering;
    the one that stages lets runs go first.
    """

    def __init__(
        self, container: Container, keeps_previous: bool, replica: str, coordinator: DeploymentHandle[Any]
    ) -> None:
        self.container = container
        self._keeps_previous = keeps_previous
        self._replica = replica
        self._coordinator = over_grpc(coordinator)
        self._stager = ThreadPoolExecutor(1, "stager", os.nice, (STAGER_NICE,))  # Linux: of this thread alone
        self._committer = ThreadPoolExecutor(1, "committer")
        self._digests = {BUILT_IN.number: BUILT_IN.digest}
        self._readers: list[ChunkReader | GoldenReader] = []
        self._staged_in = self._committed_in = 0.0
        self._received = 0

    async def stage(self, version: Version, *, accepted: bool) -> None:
        """Fill the inactive buffer with a version, and try it, with golden requests unless others have `accepted` it.

        Moves no data if the replica holds it already.

        Raises an InvalidWeights, Unavailable, or StageWithdrawn. The version that answers stays as it is.
        """
        if self._holds(version):
            if self.container.staged != version.number:
                self._staged_in, self._received = 0.0, 0
            return
        reader = ChunkReader(self._replica, version)
        golden = GoldenReader(self._replica, version, version.golden) if version.golden and not accepted else None
        self._readers = [reader, golden] if golden else [reader]
        try:
            index = await reader.open(result_of(self._coordinator.source.remote(version), SOURCE_S))
            if golden:
                await golden.open(
                    result_of(self._coordinator.attached_source.remote(golden_name(version.number)), SOURCE_S)
                )
            self._staged_in = await _timed(
                self._stager, lambda: self._fill(version, index, reader, golden or (), accepted)
            )
        finally:
            self._readers = []
        self._received = version.nbytes
        self._digests = {number: digest for number, digest in self._digests.items() if number in self._numbers()}
        self._digests[version.number] = version.digest

    def cancel_stage(self) -> None:
        """Let a stage that is under way raise StageWithdrawn soon; do nothing if there is none.

        For other tasks of the same event loop. Afterwards the container is as after any stage that has failed.
        """
        for reader in self._readers:
            reader.cancel()

    async def activate(self, version: Version) -> None:
        """Answer with a version that the replica holds."""
        self._committed_in = await _timed(self._committer, lambda: self._flip_to(version.number))
        self._committer.submit(self._open_previous)

    async def abort(self) -> None:
        """Free what is staged, if anything is."""
        await _timed(self._committer, self.container.abort)

    def signed(self, epoch: int) -> Receipt:
        """A receipt for the version that answers now, since `epoch`."""
        context, container = ray.get_runtime_context(), self.container
        version = container.version
        assert version is not None, "nothing is signed before something answers"
        return Receipt(
            replica=self._replica,
            node=context.get_node_id(),
            pid=os.getpid(),
            device=str(container.device),
            gpu_ids=tuple(str(gpu) for gpu in ray.get_gpu_ids()),
            epoch=epoch,
            version=version,
            digest=self._digests[version],
            package=container.package.digest,
            previous=container.previous,
            nbytes=self._received,
            stage_milliseconds=round(self._staged_in * 1e3, 3),
            commit_milliseconds=round(self._committed_in * 1e3, 3),
        )

    def _fill(
        self,
        version: Version,
        index: Mapping[str, Span],
        reader: ChunkReader,
        golden: Iterable[GoldenRequest],
        accepted: bool,
    ) -> None:
        """Stage, and try: no version is committed that no replica has run."""
        self.container.stage_bytes(index, reader, version.number, strict=version.strict)
        self.container.try_staged(golden, skip_acceptance=accepted or version.skips_acceptance)

    def _open_previous(self) -> None:
        """Answers go on meanwhile, and do not wait for this."""
        try:
            self.container.open_previous()
        except Exception:
            logger.exception("the previous version can be rolled back to, and answers nobody until then")

    def _holds(self, version: Version) -> bool:
        return version.number in self._numbers() and self._digests.get(version.number) == version.digest

    def _numbers(self) -> tuple[int | None, ...]:
        return self.container.version, self.container.staged, self.container.previous

    def _flip_to(self, number: int) -> None:
        if self.container.version == number:
            return
        if self.container.staged == number:
            self.container.commit()
        else:
            self.container.rollback()
        if not self._keeps_previous:
            self.container.release()


async def _timed(thread: ThreadPoolExecutor, work: Callable[[], None]) -> float:
    """Run `work` in a thread; returns how many seconds it took."""
    started = time.perf_counter()
    await asyncio.get_running_loop().run_in_executor(thread, work)
    return time.perf_counter() - started


def load_container(package: Package, num_runners: int) -> Container:
    """Load the package, to run on the cores that Ray gave to this replica. Takes long; for a thread."""
    cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    threads = max(1, int(cores) // num_runners)  # of each run, so that all runners together have the replica's cores
    return Container(package, num_runners=num_runners, num_threads=threads)
