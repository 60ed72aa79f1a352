"""A replica's own judgement of its runs: for Serve's health check, which replaces those that fail it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aoti_serve.cluster.calls import spawn
from aoti_serve.errors import ReplicaAtFault
from aoti_serve.link.health.probe import Probe
from aoti_serve.link.health.run_health import RunHealth
from aoti_serve.link.messages import AnswerMessage, BatchArrays
from aoti_serve.signature.signature import Signature


class SelfTest:
    """Judges the runs of this replica, in its event loop. `run` runs a batch of a gateway, or of a probe.

    A run may take `longest_s`: beyond that a swap would end the replica, too. A health check never waits for a run.
    """

    def __init__(
        self,
        model: str,
        signature: Signature,
        run: Callable[[BatchArrays], Awaitable[AnswerMessage]],
        longest_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._probe = Probe(signature)
        self._run = run
        self._health = RunHealth(2 * longest_s, clock)

    async def watch(self, run: Awaitable[AnswerMessage]) -> AnswerMessage:
        """Await a run, and note how it ends."""
        began = self._health.begin()
        try:
            answer = await run
        except BaseException as error:
            self._health.end(began, error)
            raise
        self._health.end(began)
        return answer

    def check(self) -> None:
        """Raise ReplicaAtFault if no run ends any more, or if all of them fail; begin a probe if one is due."""
        if self._health.probe_due:
            self._health.begin_probe()
            spawn(self._probe.judge(self._health, lambda arrays: self.watch(self._run(arrays))))
        if fault := self._health.fault:
            raise ReplicaAtFault(model=self._model, fault=fault)
