"""One model in a gateway: its requests are checked, batched, run on a replica, and answered by one version."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

from ray.serve.handle import DeploymentHandle

from aoti_serve.address import Address
from aoti_serve.cluster.calls import CALL_FAILED
from aoti_serve.cluster.coordinator_client import CoordinatorClient
from aoti_serve.cluster.membership.line import CoordinatorFinder
from aoti_serve.cluster.membership.member import Membership
from aoti_serve.config import GatewayConfig, ModelConfig
from aoti_serve.errors import ReplicaBehind, TryAgain, UnknownVersion, VersionNotResident
from aoti_serve.gateway.batching.backlog import BatcherLoad
from aoti_serve.gateway.batching.batcher import Batcher
from aoti_serve.gateway.batching.lengths import RowPadding
from aoti_serve.gateway.batching.work_item import Arrays
from aoti_serve.gateway.figures.exchange import StatisticsExchange
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.gateway.processing.processing import Processing
from aoti_serve.gateway.request_checker import CheckedRequest, RequestChecker
from aoti_serve.gateway.request_log import note_run
from aoti_serve.gateway.tracing import trace_run
from aoti_serve.gateway.versions.answering import Answering, Asking
from aoti_serve.gateway.versions.answers import Answers
from aoti_serve.gateway.versions.residents import Residents
from aoti_serve.gateway.versions.sequences import check_step, refusal
from aoti_serve.link.health.probe import Probe
from aoti_serve.link.messages import AnswerMessage, BatchArrays, BatchMessage
from aoti_serve.link.pool import Pool, Probing, ReplicaState
from aoti_serve.protocol.messages import InferResponse, model_metadata
from aoti_serve.protocol.triton import model_config
from aoti_serve.signature.signature import Signature
from aoti_serve.weights.swap.follower import Fence
from aoti_serve.weights.swap.target import Report, Target

SHADOW_DELAY_MS = 500.0  # in which the rows of shadows gather: nobody waits for them
TRIES = 5  # replicas that are behind the fence, one after the other


class ServedModel:
    """One model in a gateway: a member that holds no weights, only the fence and links to the replicas."""

    def __init__(
        self,
        gateway: str,
        node: str,
        config: ModelConfig,
        signature: Signature,
        coordinator: DeploymentHandle[Any],
        limits: GatewayConfig,
        processing: Processing | None = None,
    ) -> None:
        self.name = config.name
        self.signature = signature if processing is None else processing.signature
        self._processing = processing
        self.weights = CoordinatorClient(config.name, coordinator)
        self.checker = RequestChecker(self.signature, limits)
        self.gateway = gateway
        self._node = node
        self._num_runners = config.num_runners
        self._fence = Fence()
        self._residents = Residents(config.name, keeps_previous=config.previous == "keep")
        self.figures = ModelFigures(config.name)
        self.statistics = StatisticsExchange(gateway, self.figures, self.weights)
        batch = signature.batch
        rows = min(config.batching.max_batch_size, batch.max if batch and batch.max else sys.maxsize)
        self._batching = config.batching.model_copy(update={"max_batch_size": rows})
        self._smallest = batch.min if batch else 0
        self._batches = batch is not None
        self._lengths = RowPadding(signature)  # the model's own: what a processor declares is not what runs
        prepare = processing.before if processing and processing.follows_versions else None
        self._answering = Answering(self._fence, self._residents, signature.outputs, self._make_batcher, prepare)
        self._answers = Answers(config.name, self._answering, self._residents, self._fence, processing)
        period = limits.probe_period_s
        probing = None if period is None else Probing(Probe(signature), self._message, period)
        patience = config.batching.longest_wait_s
        self._pool = Pool(config.name, gateway, node, self._count_runners, probing, patience, signature.interface)
        self.membership = Membership(self, CoordinatorFinder(coordinator, gateway, node))

    @property
    def ready(self) -> bool:
        return self.reason_not_ready is None

    @property
    def reason_not_ready(self) -> str | None:
        """None if a replica that holds what is committed has run lately, so far as this gateway knows."""
        if not self.membership.joined:
            return f"model '{self.name}': this gateway has not reached its coordinator yet"
        if not self._answering.active.runners:
            return f"model '{self.name}': {self._pool.why_idle}"
        return self._processing.reason_not_ready if self._processing else None

    @property
    def load(self) -> BatcherLoad:
        return self._answering.active.load

    @property
    def replicas(self) -> list[ReplicaState]:
        return self._pool.states

    def report(self) -> Report:
        return self._fence.report(self.gateway, self._node)

    async def reconcile(self, target: Target) -> None:
        self._fence.follow(target)
        self._residents.follow(target)
        self._answering.follow(target)
        self.figures.current = self.version

    def withdraw(self, target: Target) -> None:
        """Nothing to withdraw: nothing here takes long."""

    def route(self, addresses: tuple[Address, ...]) -> None:
        """Keep links to these replicas."""
        self._pool.follow(addresses)

    def check_health(self) -> None:
        self.membership.check()

    def drain(self) -> None:
        """Use also replicas that are about to leave, where there are no others."""
        self._pool.drain()
        if self._processing:
            self._processing.drain()

    async def report_trial(self) -> None:
        """Tell the coordinator what this gateway has counted of the trial that is on, if one is."""
        if (trial := self._answering.trial) is not None:
            with suppress(*CALL_FAILED):  # it is told again, as totals
                await self.weights.note_trial(self.gateway, trial.trial.swap, trial.figures())

    def close(self) -> None:
        self.membership.close()
        self._pool.close()
        if self._processing:
            self._processing.close()

    @property
    def version(self) -> int:
        """The version that answers."""
        return self._residents.current

    def check_version(self, version: str | None) -> None:
        """Raise UnknownVersion for one that no replica holds."""
        self._residents.asked(version)

    async def infer(
        self,
        request: CheckedRequest,
        arrays: Arrays,
        version: str | None = None,
        timeout: float | None = None,
        key: str = "",
    ) -> InferResponse:
        """Run the rows of a checked request in some batch. Returns the outputs and the version that computed them.

        Without a `version` that is the one that answers. While a candidate is out, the request's own routing key, or
        else `key`, decides which of both that is. Raises SequenceEnded where that version is gone in a sequence.
        """
        if not self.membership.joined:
            raise TryAgain(detail=f"this gateway has not reached the coordinator of model '{self.name}' yet")
        head = request.head
        if head.sequence is not None:
            check_step(head.sequence, version)
        ordered = request.ordered(arrays)
        try:
            asking = Asking(ordered, head.priority, timeout, head.routing_key or key)
            rows, answer, arrived = await self._answers.answer(asking, self._residents.asked(version))
        except UnknownVersion as error:
            raise refusal(head.sequence, error) from None
        note_run(rows.version, rows.run.replica)
        trace_run(self.name, rows.version, arrived, rows.left)
        outputs = [(spec, answer[index]) for index, spec in request.outputs]
        asked = ordered[0].shape[0] if self._batches and ordered[0].shape else 1
        return InferResponse(self.name, rows.version, request.head.id, outputs, asked, request.lengths)

    def metadata(self, version: str | None) -> dict[str, object]:
        self.check_version(version)
        return model_metadata(self.name, self._residents.numbers, self.signature.inputs, self.signature.outputs)

    def triton_config(self, version: str | None) -> dict[str, Any]:
        """The model's configuration, as Triton's clients read it."""
        self.check_version(version)
        return model_config(self.name, self.signature, self._batching)

    def _count_runners(self) -> None:
        self._answering.set_runners(self._pool.runners)

    def _make_batcher(self, version: int | None, patient: bool) -> Batcher:
        """With `patient` for shadows: rows wait for company, and count in no figures but those of the trial."""
        figures = ModelFigures(self.name) if patient else self.figures
        config = self._batching.model_copy(update={"max_queue_delay_ms": SHADOW_DELAY_MS} if patient else {})
        run = partial(self._run, version=version)
        return Batcher(figures, config, run, batches=self._batches, smallest=self._smallest, lengths=self._lengths)

    def _message(self, arrays: BatchArrays, timeout: float | None = None, version: int | None = None) -> BatchMessage:
        share = self._answering.rows * self._num_runners / max(self._pool.runners, self._num_runners)
        return BatchMessage(arrays, self._fence.epoch, timeout, share, version)

    async def _run(self, arrays: Arrays, timeout: float | None, *, version: int | None) -> AnswerMessage:
        """Run a batch on any replica, and return an answer that is not older than the last swap that has returned.

        A replica, or this gateway, may have been suspended before that swap, removed by it, and resumed after it.
        """
        for _ in range(TRIES):
            sent = time.monotonic()
            try:
                answer = await self._pool.ask(self._message(arrays, timeout, version))
            except ReplicaBehind as error:
                behind = error
            else:
                self.figures.round_trip.note(time.monotonic() - sent - answer.run.seconds)
                await self.membership.pauses.refreshed()
                if version is not None and not self._residents.holds(version):
                    raise VersionNotResident(version=version)
                if self._fence.lets_out(answer.epoch):
                    return answer
                behind = ReplicaBehind(model=self.name, epoch=answer.epoch, fence=self._fence.settled_epoch)
        raise behind
