"""A gateway that listens, in front of a played coordinator whose weights really change what is answered.

The listener, the application, the data plane and the link are real; the coordinator follows a test's steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from aoti_serve.address import Address
from aoti_serve.cluster.status import CandidateStatus, Outcome, ReplicaProgress, SwapProgress, WeightsStatus
from aoti_serve.config import BatchingConfig, GatewayConfig
from aoti_serve.link.messages import AnswerMessage, BatchMessage
from aoti_serve.link.server import LinkServer
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec
from aoti_serve.weights.audit import AttemptOutcome
from aoti_serve.weights.labels import LabelChange, VersionLabels
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.store.usage import StoredVersion
from aoti_serve.weights.swap.target import Exposure, Receipt, Staging, Target
from aoti_serve.weights.swap_options import ExposureOptions, SwapOptions
from aoti_serve.weights.version import Committed, Version
from tests.unit.cli.played import rollout_progress
from tests.unit.gateway.http.gateway import NODE, Gateway, Remote, running
from tests.unit.gateway.listener.wired import Wired, loop_in_a_thread

NAME, NBYTES = "digits", 84_312
REPLICAS = ("replica", "another")
BATCH = Dim(symbol="batch", min=1, max=1024)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(BATCH, 1, 8, 8)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(BATCH, 10)),),
    constants=(),
)


LENGTH, TWICE = Dim(symbol="length", min=1, max=128), Dim(symbol="length", min=2, max=256, factor=2)
TEXT = Signature(
    inputs=(
        TensorSpec(name="ids", dtype="int64", shape=(BATCH, LENGTH)),
        TensorSpec(name="mask", dtype="float32", shape=(BATCH, TWICE, 2)),
    ),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(BATCH, 10)),),
    constants=(),
)
AGREEMENT = {"top1_agreement": 0.873, "cosine": 0.9912, "largest_difference": 1.25}


class PlayedWeights:
    """The weights of a model on two replicas. A swap waits while it is staged until `may_commit` is set."""

    def __init__(self) -> None:
        self.versions = [_version(1, "stopped early")]
        self.status = self._calm(self.versions[0], None)
        self.served: Any = None
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self._changed = asyncio.Condition()
        self.asked: tuple[str, SwapOptions] | None = None  # the last swap: where from, and how

    @property
    def answers(self) -> dict[str, Any]:
        transfer = SimpleNamespace(append=Remote(self._append))
        source = SimpleNamespace(transfer=transfer, path="an upload")
        return {
            "status": self._status,
            "versions": self._versions,
            "open_upload": self._opened(source),
            "swap_upload": self._swap,
            "swap_uri": self._swap,
            "relabel": self._relabel,
            "rollback": self._rollback,
            "expose": self._expose,
            "promote": self.promote,
            "withdraw": self._withdraw,
        }

    async def run(self, gateway: str, batch: BatchMessage) -> AnswerMessage:
        """The largest logit is the number of the version that answers, plus the rows of the image that have ink."""
        version = self.status.current.number
        first = batch.arrays[0]
        inked = (first.reshape(len(first), -1, first.shape[-1]) > 0).any(axis=2).sum(axis=1)
        logits = np.tile(np.linspace(0, 1, 10, dtype=np.float32), (len(inked), 1))
        logits[np.arange(len(inked)), (inked + version) % 10] = 4 + version
        return AnswerMessage(version, self.status.epoch, [logits])

    def store(self, label: str, **facts: Any) -> Version:
        """Store one more version."""
        self.versions.append(_version(len(self.versions) + 1, label).model_copy(update=facts))
        return self.versions[-1]

    async def become(self, **facts: Any) -> None:
        """Change the status, and wake those who wait for that."""
        async with self._changed:
            self.status = self.status.model_copy(update={"revision": self.status.revision + 1, **facts})
            self._changed.notify_all()

    async def try_out(self) -> None:
        """Put a candidate out, in the second step of a rollout. It answers who asks for it by its number."""
        version = self.store("step 1300")
        committed = Committed(epoch=1, version=self.status.current)
        await self.served.reconcile(Target(1, 3, committed, staging=Staging("9c0f", version, Exposure())))
        plan = RolloutPlan.model_validate({"canary": ["5%", "25%", "50%"], "each": "60s"})
        progress = rollout_progress(version=version.number)
        arms = {
            "active": {"requests": 812, "error_rate": 0.0, "p50_s": 0.0012, "p99_s": 0.0041},
            "candidate": {
                "requests": 264,
                "error_rate": 0.0,
                "non_finite_rate": 0.02,
                "p50_s": 0.0011,
                "p99_s": 0.0039,
            },
            "shadow": {"pairs": 81, "dropped": 2, "failed": 1, "non_finite": 3, "outputs": {"logits": AGREEMENT}},
        }
        out = CandidateStatus(version=version, share=0.25, shadow=0.1, since=time.time(), plan=plan)
        await self.become(candidate=out, rollout=progress, trial=arms)

    async def _status(self, seen: int) -> WeightsStatus:
        async with self._changed:
            await self._changed.wait_for(lambda: self.status.revision != seen)
            return self.status

    async def _versions(self) -> list[StoredVersion]:
        out = self.status.candidate.version if self.status.candidate else None
        return [StoredVersion(**dict(version)) for version in self.versions if version != out]

    def _opened(self, source: Any) -> Any:
        async def opened(options: SwapOptions, who: str) -> tuple[str, Any]:
            return "an upload", source

        return opened

    async def _append(self, path: str, piece: Any) -> None: ...

    async def _relabel(self, change: LabelChange, who: str) -> dict[str, int]:
        labels = VersionLabels(self.status.labels).changed(change, NAME).root
        await self.become(labels=labels)
        return labels

    async def _swap(self, source: str, options: SwapOptions, who: str, wait: bool) -> WeightsStatus:
        self.asked = source, options
        version = self.store(options.label)
        await self.become(swap=staging(version, 1))
        await self.may_commit.wait()
        if options.candidate:
            await self.become(
                swap=None, candidate=CandidateStatus(version=version, share=0.05, shadow=0, since=time.time())
            )
            return self.status
        return await self._commit("swap", version)

    async def _rollback(self, version: int | None, who: str, wait: bool) -> WeightsStatus:
        return await self._commit("rollback", next(each for each in self.versions if each.number == version))

    async def _expose(self, options: ExposureOptions, who: str) -> WeightsStatus:
        assert self.status.candidate is not None
        await self.become(candidate=self.status.candidate.model_copy(update=options.model_dump(exclude_unset=True)))
        return self.status

    async def promote(self, who: str, wait: bool) -> WeightsStatus:
        assert self.status.candidate is not None
        return await self._commit("promote", self.status.candidate.version)

    async def _withdraw(self, who: str, wait: bool) -> WeightsStatus:
        await self.become(candidate=None)
        return self.status

    async def _commit(self, action: str, version: Version) -> WeightsStatus:
        epoch, before = self.status.epoch + 1, self.status.current
        await self.served.reconcile(Target(1, epoch + 1, Committed(epoch=epoch, version=version, previous=before)))
        phases = {"checking": 0.02, "staging": 0.21, "committing": 0.01}
        last = Outcome(
            id=f"{epoch}", action=action, version=version.number, outcome=AttemptOutcome.COMMITTED,
            error=None, seconds=0.24, phases=phases, ended=time.time(),
        )  # fmt: skip
        calm = self._calm(version, before)
        await self.become(**{name: getattr(calm, name) for name in ("current", "previous", "replicas")},
                          epoch=epoch, swap=None, candidate=None, rollout=None, last=last)  # fmt: skip
        return self.status

    @staticmethod
    def _calm(current: Version, previous: Version | None) -> WeightsStatus:
        replicas = tuple(_receipt(name, current, previous) for name in REPLICAS)
        return WeightsStatus(
            model=NAME, revision=1, epoch=1, settled=True, current=current, previous=previous,
            replicas=replicas, candidate=None, swap=None, last=None, labels={"stable": 1},
        )  # fmt: skip


@contextmanager
def console(signature: Signature = SIGNATURE, **config: Any) -> Iterator[tuple[str, PlayedWeights, Any]]:
    """The address of a gateway, its weights, and the loop that both live in."""
    with loop_in_a_thread() as loop:
        stack = AsyncExitStack()

        async def start() -> tuple[PlayedWeights, Gateway]:
            weights = PlayedWeights()
            made = await stack.enter_async_context(
                running(GatewayConfig(**config), BatchingConfig(), signature, weights.run, NAME)
            )
            made.coordinator.answers |= weights.answers
            weights.served = made.served
            await made.served.reconcile(Target(1, 2, Committed(epoch=1, version=weights.versions[0])))
            link = LinkServer(weights.run)
            await link.open()
            stack.callback(link.close)
            beats = asyncio.create_task(link.tick())
            stack.callback(beats.cancel)
            made.served.route((Address(REPLICAS[1], NODE, link.path, 1, link.key),))  # the first one stays
            return weights, made

        weights, gateway = loop.run(start())
        wired = Wired(loop, gateway.app)
        try:
            yield "http://{}:{}".format(*wired.address), weights, (loop, wired)
        finally:
            wired.close()
            loop.run(stack.aclose())


def _version(number: int, label: str = "") -> Version:
    digest = f"{number:x}f3a9c1e88d2{number:x}" + "0" * 51
    return Version(number=number, digest=digest, label=label, created=time.time() - 90, nbytes=NBYTES, tensors=8)


def _receipt(replica: str, version: Version, previous: Version | None) -> Receipt:
    return Receipt(
        replica=replica, node="b4ba52f0c1d2e3", pid=4711, device="cpu", gpu_ids=(), epoch=1,
        version=version.number, digest=version.digest, previous=previous.number if previous else None,
        nbytes=NBYTES, stage_milliseconds=210.0, commit_milliseconds=1.2,
    )  # fmt: skip


def staging(version: Version, done: int) -> SwapProgress:
    progress = [
        ReplicaProgress(replica=name, nbytes=nbytes, done=at < done)
        for at, (name, nbytes) in enumerate(zip(REPLICAS, (NBYTES, NBYTES // 3), strict=True))
    ]
    return SwapProgress(
        id="9c0f", action="swap", phase="staging", version=version.number, nbytes=NBYTES, replicas=tuple(progress)
    )
