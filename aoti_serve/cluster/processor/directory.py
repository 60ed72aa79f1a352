"""Where a model's processors are: each is asked through Serve, which knows them all."""

from __future__ import annotations

from typing import Any

from ray.serve.handle import DeploymentHandle

from aoti_serve.address import Address
from aoti_serve.cluster.calls import CALL_LOST
from aoti_serve.errors import TryAgain

ASK_S = 3.0


class ProcessorDirectory:
    """Asks from a process on `node`."""

    def __init__(self, processors: DeploymentHandle[Any], node: str) -> None:
        self._processors = processors
        self._node = node

    async def addresses(self) -> list[Address]:
        """Those of all processors that Serve has running. Raises Unavailable where one gives no answer."""
        try:
            answers = self._processors.broadcast("address", self._node)
            found = await answers.results_async(timeout_s=ASK_S, return_exceptions=True)
        except (*CALL_LOST, TimeoutError) as error:
            raise TryAgain(detail=f"the processors cannot be asked for their addresses: {error!r}") from error
        return [each for each in found if isinstance(each, Address)]
