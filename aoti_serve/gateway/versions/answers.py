"""The answers of a model: the run, and around it the steps of its processor, by one version of weights and files."""

from __future__ import annotations

import asyncio
import time
from asyncio import Event
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from numpy.typing import NDArray

from aoti_serve.errors import TryAgain, UnknownVersion, VersionNotResident
from aoti_serve.gateway.batching.work_item import Rows
from aoti_serve.gateway.processing.processing import Processing
from aoti_serve.gateway.versions.answering import Answering, Asking, is_the_servers
from aoti_serve.gateway.versions.residents import Residents
from aoti_serve.weights.swap.follower import Fence

VERSIONS_MET = 5  # versions that a request meets while swaps go on
FOLLOW_S = 5.0  # in which this gateway hears of a commit that replicas follow already


class Patience:
    """How long a request still has, in seconds; None for as long as it takes."""

    __slots__ = ("_end",)

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    @property
    def left(self) -> float | None:
        return None if self._end is None else self._end - time.monotonic()


class Answered(NamedTuple):
    """What a client gets: `outputs`, which the processor has made of the model's own in `rows`.

    `arrived` is when the run was asked for, by the monotonic clock.
    """

    rows: Rows
    outputs: Sequence[NDArray[Any]]
    arrived: float


class Answers:
    """Lives in the gateway's event loop.

    With a processor an answer takes several steps. What a commit overtakes between them is not let out: it is asked
    again, of the version that answers now.
    """

    def __init__(
        self, model: str, answering: Answering, residents: Residents, fence: Fence, processing: Processing | None
    ) -> None:
        self._model = model
        self._answering = answering
        self._residents = residents
        self._fence = fence
        self._processing = processing

    async def answer(self, request: Asking, asked: int | None) -> Answered:
        """The answer of the version `asked`, or of whichever is due. Raises what `Answering.rows_for` does, and what
        the processor's steps do.
        """
        if self._processing is None:
            arrived = time.monotonic()
            rows = await self._answering.rows_for(request, asked)
            return Answered(rows, rows.outputs, arrived)
        patience = Patience(request.timeout)
        if not self._processing.follows_versions:
            request = request._replace(arrays=await self._processing.before(request.arrays, request.timeout))
        return await self._processed(self._processing, request, asked, patience)

    async def _processed(
        self, processing: Processing, request: Asking, asked: int | None, patience: Patience
    ) -> Answered:
        due = asked
        for _ in range(VERSIONS_MET):
            moved, arrived = self._residents.moved, time.monotonic()
            try:
                rows = await self._answering.rows_for(request._replace(timeout=patience.left), due)
            except (VersionNotResident, UnknownVersion):  # a commit that this gateway is about to hear of
                if asked is not None:
                    raise
                due = None
                await _heard(moved, patience)
                continue
            try:
                outputs = await processing.after(rows.outputs, patience.left, rows.version)
            except VersionNotResident:
                if asked is not None:
                    raise self._residents.unknown(asked) from None
                await _heard(moved, patience)
            except Exception as error:
                if due is not None or not is_the_servers(error):
                    raise
                self._answering.note_lost(rows.version)
                if not self._is_tried(rows.version):
                    raise
                due = self._residents.current  # no client pays for a trial
            else:
                if asked is not None or self._fence.trusts(rows.version):
                    return Answered(rows, outputs, arrived)
        raise TryAgain(detail=f"the weights of model '{self._model}' have changed {VERSIONS_MET} times meanwhile")

    def _is_tried(self, version: int) -> bool:
        return self._fence.candidate is not None and version == self._fence.candidate.version.number


async def _heard(moved: Event, patience: Patience) -> None:
    left = patience.left
    with suppress(TimeoutError):
        async with asyncio.timeout(FOLLOW_S if left is None else min(FOLLOW_S, left)):
            await moved.wait()
