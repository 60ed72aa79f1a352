"""Has requests answered by the version that they ask for, or by the one that it is their turn to meet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import NamedTuple

from aoti_serve.errors import AotiServeError, DeadlineExceeded, InvalidInput, NoReplica, VersionNotResident
from aoti_serve.gateway.batching.batcher import Batcher
from aoti_serve.gateway.batching.work_item import Arrays, Rows
from aoti_serve.gateway.versions.residents import Residents
from aoti_serve.gateway.versions.sticky import falls_to_candidate
from aoti_serve.gateway.versions.trial import TrialCounter
from aoti_serve.protocol.messages import LEAST_URGENT
from aoti_serve.signature.tensors import TensorSpec
from aoti_serve.weights.swap.follower import Fence
from aoti_serve.weights.swap.target import Staging, Target

MakeBatcher = Callable[[int | None, bool], Batcher]
Prepare = Callable[[Arrays, float | None, int], Awaitable[Arrays]]


class Asking(NamedTuple):
    """One request: its checked `arrays`, its level of priority, its patience in seconds, and its routing key.

    The arrays are those of the client if each version makes its own of them.
    """

    arrays: Arrays
    priority: int = 0
    timeout: float | None = None
    key: str = ""


class Answering:
    """The batchers of one model, one for each version. Lives in the gateway's event loop.

    `make(version, patient)` makes a batcher whose batches run on that version, or on the one that answers if it is
    None; a `patient` one lets rows gather. While a candidate is out, `trial` counts.

    With `prepare` each version makes its own inputs of a request. Then every batch names its version: what was made for
    one never meets the weights of another, which may have fewer words.
    """

    def __init__(
        self,
        fence: Fence,
        residents: Residents,
        outputs: tuple[TensorSpec, ...],
        make: MakeBatcher,
        prepare: Prepare | None = None,
    ) -> None:
        self._any = make(None, False)
        self._prepare = prepare
        self.trial: TrialCounter | None = None
        self._fence = fence
        self._residents = residents
        self._outputs = outputs
        self._make = make
        self._beside: dict[int, Batcher] = {}
        self._shadows: Batcher | None = None
        self._runners = 0

    @property
    def active(self) -> Batcher:
        """The batcher of the version that answers."""
        return self._any if self._prepare is None else self._batcher_of(self._residents.current)

    def follow(self, target: Target) -> None:
        """After the fence and the residents have."""
        self._beside = {version: each for version, each in self._beside.items() if self._residents.holds(version)}
        if target.trial is None:
            self.trial = self._shadows = None
        elif self.trial is None or self.trial.trial != target.trial:
            self.trial = TrialCounter(target.trial, self._outputs, self._run_beside)
            self._shadows = self._running(target.trial.candidate, patient=True)

    def note_failure(self, version: int, began: float) -> None:
        """A request that has begun then was answered by this version in vain, by the server's fault."""
        if self.trial is not None:
            self.trial.note_failure(version, began)

    def set_runners(self, count: int) -> None:
        self._runners = count
        for batcher in (self._any, *self._beside.values(), *filter(None, [self._shadows])):
            batcher.runners = count

    @property
    def rows(self) -> int:
        """The rows in hand, of all versions."""
        return self._any.rows + sum([each.rows for each in self._beside.values()])

    async def rows_for(self, request: Asking, asked: int | None) -> Rows:
        """The rows that the version `asked` computes; None for whichever is due. Raises what `Batcher.submit` does."""
        if asked is not None:
            return await self._pinned(request, asked)
        candidate = self._fence.candidate
        if self.trial is None:
            return await self._submit_to_active(request)
        if candidate is not None and candidate.exposure is not None:
            if falls_to_candidate(request.key, candidate.swap, candidate.exposure.share):
                return await self._tried(request, candidate, self.trial)
            return await self._counted(request, self.trial, candidate.exposure.shadow)
        return await self._counted(request, self.trial)

    async def _pinned(self, request: Asking, asked: int) -> Rows:
        began = monotonic()
        while self._residents.holds(asked):  # a commit may come between a look at it and the run
            left = _left(request, began)
            if asked != self._residents.current or self._prepare:
                try:
                    return await self._submit(self._batcher_of(asked), left, asked)
                except VersionNotResident:
                    if asked != self._residents.current or self._prepare:
                        break
            rows = await self._submit_to_active(left)
            if rows.version == asked:
                return rows
        raise self._residents.unknown(asked)

    async def _counted(self, request: Asking, trial: TrialCounter, shadow: float = 0.0) -> Rows:
        began, answers = monotonic(), self._residents.current
        try:
            rows = await self._submit_to_active(request)
        except Exception as error:
            if is_the_servers(error):
                trial.note_failure(answers, began)
            elif isinstance(error, InvalidInput):
                trial.note_refused(request.arrays, answers, began)
            raise
        trial.note_answer(request.arrays, rows, began)
        if shadow:
            trial.shadow(request.arrays, rows, shadow)
        return rows

    async def _tried(self, request: Asking, candidate: Staging, trial: TrialCounter) -> Rows:
        """On the candidate; on the active version if that fails, so that no client pays for the trial."""
        began, number = monotonic(), candidate.version.number
        try:
            rows = await self._submit(self._batcher_of(number), request, number)
        except VersionNotResident:
            pass  # withdrawn
        except InvalidInput:
            answered = await self._submit_to_active(_left(request, began))  # which refuses it, too, if it is wrong
            trial.note_failure(number, began)
            return answered
        except Exception as error:
            if not is_the_servers(error):
                raise
            trial.note_failure(number, began)
            if isinstance(error, DeadlineExceeded | NoReplica):  # the active version would fare no better
                raise
        else:
            if self._fence.trusts(number):
                trial.note_answer(request.arrays, rows, began)
                return rows
        return await self._submit_to_active(_left(request, began))

    async def _run_beside(self, arrays: Arrays, version: int) -> Rows:
        if self._shadows is None or self.trial is None or not self._residents.holds(version):
            raise VersionNotResident(version=version)
        batcher = self._shadows if version == self.trial.trial.candidate else self._batcher_of(version)
        return await self._submit(batcher, Asking(arrays, LEAST_URGENT), version)

    async def _submit_to_active(self, request: Asking) -> Rows:
        return await self._submit(self.active, request, self._residents.current)

    async def _submit(self, batcher: Batcher, request: Asking, version: int) -> Rows:
        if self._prepare is not None:
            began = monotonic()
            arrays = await self._prepare(request.arrays, request.timeout, version)
            request = _left(request, began)._replace(arrays=arrays)
        return await batcher.submit(request.arrays, priority=request.priority, timeout=request.timeout)

    def _batcher_of(self, version: int) -> Batcher:
        if version not in self._beside:
            self._beside[version] = self._running(version, patient=False)
        return self._beside[version]

    def _running(self, version: int, *, patient: bool) -> Batcher:
        batcher = self._make(version, patient)
        batcher.runners = self._runners
        return batcher


def _left(request: Asking, began: float) -> Asking:
    if request.timeout is None:
        return request
    return request._replace(timeout=request.timeout - (monotonic() - began))


def is_the_servers(error: Exception) -> bool:
    """Whether the server is at fault, and not the client; whatever is none of our errors is a defect of ours."""
    return not isinstance(error, AotiServeError) or error.http_status >= 500
