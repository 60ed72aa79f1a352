"""The process of a processor: the Ray actor that owns one instance of the class, and answers over the link."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from aoti_serve.address import Address
from aoti_serve.cluster.processor.member import ProcessorMember
from aoti_serve.cluster.serve_log import join_serve_log
from aoti_serve.config import ProcessorConfig
from aoti_serve.errors import ProcessorHung
from aoti_serve.link.messages import AnswerMessage, BatchMessage
from aoti_serve.link.server import LinkServer
from aoti_serve.processor.declared import processor_class
from aoti_serve.processor.packed import Failure, packed, unpacked
from aoti_serve.processor.runs import Processor
from aoti_serve.processor.watch import Watch

logger = logging.getLogger("aoti_serve.processor")
PROCESSOR_LEAVES_S = 40.0
END_S = 0.2  # in which the failure reaches its gateway


class ProcessorRunner:
    """Answers batches one after the other, in a thread; the event loop sees a call that does not return.

    `processor_for` finds the instance for a version: unless it is set, the only one, which is made in that thread.
    """

    def __init__(self, model: str, config: ProcessorConfig) -> None:
        self.processor_for: Callable[[int | None], Processor] = self._only
        self._model = model
        self._config = config
        self._watch = Watch(config.timeout_ms / 1e3)
        self._thread = ThreadPoolExecutor(1, "processor")
        self._under_way: BatchMessage | None = None
        self._step = ""

    async def start(self) -> None:
        """Make the processor. Raises whatever its class raises."""
        self._single = await asyncio.get_running_loop().run_in_executor(self._thread, lambda: self.make({}))

    async def answer(self, gateway: str, batch: BatchMessage) -> AnswerMessage:
        """Raises ProcessorHung, after which this process ends."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, self._run, batch)
        try:
            while not work.done():
                await asyncio.wait([work], timeout=max(self._watch.left, 0.01))
                if self._under_way is batch and self._watch.left <= 0 and not work.done():
                    raise self._hung(loop)
            return AnswerMessage(0, 0, await work)
        finally:
            work.cancel()  # if it has not begun

    def make(self, assets: Mapping[str, str]) -> Processor:
        """An instance with the paths of these assets, by argument. Raises whatever its class raises."""
        instance = processor_class(self._config, self._model)(**self._config.args, **assets)
        return Processor(instance, self._watch, self._config.max_result_bytes)

    def _only(self, version: int | None) -> Processor:
        return self._single

    def _run(self, batch: BatchMessage) -> list[NDArray[Any]]:
        self._under_way = batch
        self._step, requests = unpacked(batch.arrays)
        processor = self.processor_for(batch.version)
        results = processor.run(self._step, [each for each in requests if not isinstance(each, Failure)])
        for failure in (each for each in results if isinstance(each, Failure) and not each.client):
            logger.error("model '%s': `%s` failed: %s: %s", self._model, self._step, failure.raised, failure.detail)
        return packed(self._step, results)

    def _hung(self, loop: asyncio.AbstractEventLoop) -> ProcessorHung:
        error = ProcessorHung(model=self._model, step=self._step, timeout_ms=self._config.timeout_ms)
        logger.error("%s\n%s", error, self._watch.stands)
        loop.call_later(END_S, os._exit, 1)
        return error


class ProcessorActor:
    """Serve deployment class of a model's processors. It holds nothing that outlives it.

    With a `coordinator` it is a member of the model's cluster: it stages the assets of versions, and follows commits.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, model: str, config: ProcessorConfig, coordinator: DeploymentHandle[Any] | None = None
    ) -> None:
        join_serve_log()
        self._name = serve.get_replica_context().replica_id.unique_id
        self._node, self._host = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        self._tcp: tuple[str, int] | None = None
        self._opening = asyncio.Lock()
        self._member: ProcessorMember | None = None
        runner = ProcessorRunner(model, config)
        if coordinator is None:
            await runner.start()
        else:
            place = self._name, self._node
            self._member = ProcessorMember(model, config, runner.make, coordinator, place)
            runner.processor_for = self._member.versions.processor
            await self._member.join()
        self._link = LinkServer(runner.answer)
        await self._link.open()

    async def address(self, asking: str) -> Address:
        """The address at which gateways on the node `asking` connect."""
        async with self._opening:
            if asking != self._node and self._tcp is None:
                self._tcp = self._host, await self._link.open_to_nodes(self._host)
        return Address(self._name, self._node, self._link.path, 1, self._link.key, self._tcp)

    async def check_health(self) -> None:
        """Called by Serve: one that cannot follow its coordinator must be replaced."""
        if self._member is not None:
            self._member.check()

    async def __del__(self) -> None:
        """Serve awaits it when it ends this process gently: answer what is in hand, take nothing new."""
        if self._member is not None:
            self._member.leave()
        await self._link.leave(PROCESSOR_LEAVES_S)
        self._link.close()
        if self._member is not None:
            self._member.versions.close()
