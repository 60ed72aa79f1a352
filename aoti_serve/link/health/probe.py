"""A probe: a run on made-up inputs, the smallest that are legal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import InvalidInput
from aoti_serve.link.health.run_health import RunHealth, proves_nothing
from aoti_serve.signature.signature import MADE_UP_VALUES, Signature
from aoti_serve.signature.tensors import DTYPES

ProbeRun = Callable[[list[NDArray[Any]]], Awaitable[object]]


class Probe:
    """The probes of one model; lives in an event loop.

    A model may refuse every made-up input. So a failure is evidence only if such an input has run before, here or in
    another replica; while none has, an error shows at least that the replica answers, and counts as a success.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._fit: int | None = None  # the value with which a run has succeeded

    async def judge(self, health: RunHealth, run: ProbeRun) -> None:
        """Probe with `run`, which notes its runs in `health`, and note there what that proves. The probe has begun."""
        error: BaseException | None = None
        try:
            error = await self._first_failure(run)
        finally:
            health.end_probe(error if self._fit is not None else None)
        if error is not None and self._fit is None:
            health.succeed(0.0)

    async def _first_failure(self, run: ProbeRun) -> BaseException | None:
        """Run with one value after the other until one succeeds. None if one does, or if nothing can be said."""
        failure: BaseException | None = None
        for value in sorted(MADE_UP_VALUES, key=lambda value: value != self._fit):
            try:
                await run(self._inputs(value))
            except InvalidInput:  # it has run, and says so of our input
                pass
            except Exception as error:
                if proves_nothing(error):
                    return None
                failure = failure or error
                continue
            self._fit = value
            return None
        return failure

    def _inputs(self, value: int) -> list[NDArray[Any]]:
        """Tensors full of one value, in the signature's order. Raw dtypes have their bits as numpy knows them."""
        shapes = self._signature.smallest_inputs.values()
        return [np.full(shape, value, DTYPES[dtype].numpy) for dtype, shape in shapes]
