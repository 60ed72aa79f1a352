"""One model's processor in a gateway: links to its processes, and a check of all that comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from aoti_serve.cluster.processor.directory import ProcessorDirectory
from aoti_serve.config import GatewayConfig, ProcessorConfig
from aoti_serve.errors import InvalidInput, ProcessorFailed, Unavailable
from aoti_serve.gateway.batching.work_item import Arrays
from aoti_serve.gateway.processing.queue import ProcessorQueue
from aoti_serve.gateway.request_checker import RequestChecker
from aoti_serve.link.pool import Pool
from aoti_serve.processor.declared import AFTER, BEFORE, Declared
from aoti_serve.processor.packed import Held, HeldTensors
from aoti_serve.protocol.messages import InputHead, RequestHead
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, Shaped, TensorSpec

logger = logging.getLogger("aoti_serve.processor")
SEARCH_S, LOOK_S = 0.5, 5.0  # between two looks at where processors are: while there is none, and else


class Processing:
    """`before` and `after` of requests of one model; a step that the processor does not have changes nothing.

    If it `follows_versions`, both are done by the files of a version.
    """

    def __init__(
        self,
        model: str,
        config: ProcessorConfig,
        declared: Declared,
        own: Signature,
        limits: GatewayConfig,
        directory: ProcessorDirectory,
        gateway: tuple[str, str],
    ) -> None:
        self.signature = declared.signature
        self._model = model
        self._steps = declared.steps
        self.follows_versions = bool(config.assets)
        self._own = own
        self._checker = RequestChecker(own, limits)
        # What goes out is checked as what comes in.
        self._answers = Signature(inputs=self.signature.outputs, outputs=self.signature.outputs, constants=())
        self._directory = directory
        self._pool = Pool(f"{model}: processor", *gateway, self._count)
        self._queue = ProcessorQueue(model, config, self._pool.ask)
        self._looking = asyncio.get_running_loop().create_task(self._look())

    @property
    def reason_not_ready(self) -> str | None:
        return None if self._queue.processors else f"model '{self._model}': no processor: {self._pool.why_idle}"

    async def before(self, arrays: Arrays, timeout: float | None, version: int | None = None) -> Arrays:
        """The model's inputs in their order, checked, of a request's in the declared order.

        Raises what `ProcessorQueue.run` does; ProcessorFailed for what the model does not take.
        """
        if BEFORE not in self._steps:
            return arrays
        found = await self._run(BEFORE, self.signature.inputs, arrays, timeout, version)
        heads = [InputHead(name, held.dtype, held.array.shape, None) for name, held in found.items()]
        try:
            checked = self._checker.check(RequestHead(None, tuple(heads)))
        except InvalidInput as error:
            raise self._misfit(BEFORE, error) from error
        return checked.ordered([held.array for held in found.values()])

    async def after(
        self, arrays: Sequence[NDArray[Any]], timeout: float | None, version: int | None = None
    ) -> Sequence[NDArray[Any]]:
        """The declared outputs in their order, checked, of the model's in its order. Raises as `before`."""
        if AFTER not in self._steps:
            return arrays
        found = await self._run(AFTER, self._own.outputs, arrays, timeout, version)
        try:
            self._answers.check_inputs({name: Shaped(held.dtype, held.array.shape) for name, held in found.items()})
        except InvalidInput as error:
            raise self._misfit(AFTER, error) from error
        return [found[spec.name].array for spec in self.signature.outputs]

    def drain(self) -> None:
        self._pool.drain()

    def close(self) -> None:
        self._looking.cancel()
        self._queue.close()
        self._pool.close()

    async def _run(
        self,
        step: str,
        specs: Sequence[TensorSpec],
        arrays: Sequence[NDArray[Any]],
        timeout: float | None,
        version: int | None,
    ) -> HeldTensors:
        tensors: Mapping[str, Held] = {
            spec.name: Held(spec.dtype, array) for spec, array in zip(specs, arrays, strict=True)
        }
        rows = max(1, arrays[0].shape[0]) if specs[0].shape and isinstance(specs[0].shape[0], Dim) else 1
        return await self._queue.run(step, tensors, rows, timeout, version if self.follows_versions else None)

    def _misfit(self, step: str, error: InvalidInput) -> ProcessorFailed:
        return ProcessorFailed(model=self._model, step=step, raised="what it returned does not fit", detail=str(error))

    def _count(self) -> None:
        self._queue.processors = self._pool.runners

    async def _look(self) -> None:
        """Follow Serve, which starts processors and ends them; for ever, as a task."""
        while True:
            try:
                self._pool.follow(await self._directory.addresses())
            except Unavailable as error:
                logger.warning("model '%s': %s", self._model, error)
            except Exception:
                logger.exception("model '%s': the look for its processors failed", self._model)
            await asyncio.sleep(LOOK_S if self._queue.processors else SEARCH_S)
