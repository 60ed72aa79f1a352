"""A model's replicas as a gateway calls them: one call per batch, each by the way that is quickest for its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc  # type: ignore[import-untyped]
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.answer import Answer
from aoti_serve.cluster.calls import apart, unwrapped
from aoti_serve.cluster.scaling import Load
from aoti_serve.errors import ReplicaDied

# Above this a batch goes by actor call, and Ray moves it through the object store. Measured with scripts/bench
# transport: below, gRPC is quicker; above, it copies more and more, and beyond 4 MB it may refuse.
INLINE_BYTES = 2**19


class Replicas:
    """All replicas of one model, behind Serve's handle. Lives in a gateway's event loop."""

    def __init__(self, model: str, handle: DeploymentHandle[Any], row_bytes: int) -> None:
        self._model = model
        self._inline = apart(handle)
        self._by_reference = handle.options(_by_reference=True)
        self._row_bytes = row_bytes  # of the answer, as far as is known

    async def infer(
        self, inputs: Sequence[NDArray[Any]], fence: int, timeout: float | None = None, load: Load | None = None
    ) -> Answer:
        """See Replica.infer. Raises ReplicaDied if the replica's process ends before it has answered."""
        rows = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
        nbytes = max(sum(array.nbytes for array in inputs), rows * self._row_bytes)
        try:
            answer: Answer = await self._answer(nbytes <= INLINE_BYTES, inputs, fence, timeout, load)
        except RayActorError as error:
            raise ReplicaDied(model=self._model) from error
        self._row_bytes = max(self._row_bytes, sum(array.nbytes for array in answer.outputs) // max(rows, 1))
        return answer

    async def _answer(self, inline: bool, *batch: Any) -> Any:
        answer: Any = None
        if inline:
            try:
                answer = await unwrapped(self._inline.infer.remote(*batch))
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:  # the answer is larger than expected
                    raise
        if answer is None:
            answer = await unwrapped(self._by_reference.infer.remote(*batch))
        return answer
