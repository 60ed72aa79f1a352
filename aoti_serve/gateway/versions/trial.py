"""A trial in one gateway: the answers of two versions are counted apart, and some requests run on both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any

from aoti_serve.errors import AotiServeError, InvalidInput
from aoti_serve.gateway.batching.work_item import Arrays, Rows
from aoti_serve.gateway.offload import Offload
from aoti_serve.gateway.versions.sticky import EvenShare
from aoti_serve.signature.strings import strings_nbytes
from aoti_serve.signature.tensors import TensorSpec
from aoti_serve.weights.rollout.counts import ArmCounts, TrialCounts
from aoti_serve.weights.rollout.figures import TrialFigures
from aoti_serve.weights.swap.target import Trial

FEW_ELEMENTS = 65_536  # of a run, or of an answer, that are read in the event loop: at most some 100 us
MOST_SHADOWS = 256  # at once
MOST_SHADOW_BYTES = 64 * 2**20  # of the requests of all shadows at once
MOST_DOUBTS = 8  # at once, so that a model whose every answer has an infinity does not run each request twice

RunBeside = Callable[[Arrays, int], Awaitable[Rows]]


class TrialCounter:
    """Counts one trial in the gateway's event loop; large answers are read in a thread, and have counts of their own.

    `run_beside` runs a request on a version, with no client waiting, when there is room. `beside` is what is under way:
    shadows, and doubts, which ask whether an answer that is not finite is the version's doing or the request's.
    """

    def __init__(self, trial: Trial, outputs: tuple[TensorSpec, ...], run_beside: RunBeside) -> None:
        self.trial = trial
        self._counts, self._large = TrialCounts(outputs), TrialCounts(outputs)
        self._run_beside = run_beside
        self._offload = Offload()
        self._turns = EvenShare()
        self.beside: set[asyncio.Task[None]] = set()
        self._shadows = self._nbytes = self._doubts = 0

    def figures(self) -> TrialFigures:
        """All that this gateway has counted of the trial."""
        return self._counts.figures() + self._large.figures()

    def note_answer(self, arrays: Arrays, rows: Rows, began: float) -> None:
        """Note an answer to a request of these `arrays` that has come at `began`."""
        self._arm(self._counts, rows.version).note(monotonic() - began)
        if rows.run.size > FEW_ELEMENTS and not _are_few(rows.outputs):
            self._keep(self._read_large(arrays, rows))
        elif not _is_finite(self._arm(self._counts, rows.version), rows):
            self._doubt(arrays, rows.version)

    def note_failure(self, version: int, began: float) -> None:
        """Note a request that this version has failed to answer, by the server's fault."""
        self._arm(self._counts, version).note(monotonic() - began, failed=True)

    def note_refused(self, arrays: Arrays, version: int, began: float) -> None:
        """Note a request that this version has refused: a failure of a candidate, if the active one answers it.

        Weights may hold an index, or files of a processor a word, that makes a right request wrong.
        """
        if version == self.trial.candidate and self._doubts < MOST_DOUBTS:
            self._doubts += 1
            self._keep(self._ask_whether_it_is_wrong(arrays, began))

    def shadow(self, arrays: Arrays, answer: Rows, share: float) -> None:
        """Run a request that the active version has answered on the candidate, too, if it is this one's turn."""
        if answer.version != self.trial.active or not self._turns.take(share):
            return
        nbytes = sum(strings_nbytes(array) for array in (*arrays, *answer.outputs))
        if self._shadows < MOST_SHADOWS and self._nbytes + nbytes <= MOST_SHADOW_BYTES:
            self._shadows, self._nbytes = self._shadows + 1, self._nbytes + nbytes
            self._keep(self._compare(arrays, answer, nbytes))
        else:
            self._counts.shadow.note_dropped()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.beside.add(task)
        task.add_done_callback(self.beside.discard)

    async def _compare(self, arrays: Arrays, answer: Rows, nbytes: int) -> None:
        try:
            rows = await self._run_beside(arrays, self.trial.candidate)
            if rows.version == self.trial.candidate:
                await self._note_pair(answer.outputs, rows.outputs)
        except AotiServeError as error:
            self._note_unpaired(error)
        finally:
            self._shadows, self._nbytes = self._shadows - 1, self._nbytes - nbytes

    async def _read_large(self, arrays: Arrays, rows: Rows) -> None:
        if await self._offload.run(self._arm(self._large, rows.version).note_outputs, rows.outputs):
            self._doubt(arrays, rows.version)

    def _doubt(self, arrays: Arrays, version: int) -> None:
        if self._doubts < MOST_DOUBTS:
            self._doubts += 1
            self._keep(self._ask_the_other(arrays, version))
        else:
            self._arm(self._counts, version).note_passed_over()

    async def _ask_the_other(self, arrays: Arrays, version: int) -> None:
        """Count an answer that is not finite, unless the other version's to the same request is not finite either."""
        other = self.trial.active if version == self.trial.candidate else self.trial.candidate
        try:
            rows = await self._run_beside(arrays, other)
            both = rows.version == other and not await self._are_finite(rows.outputs)
        except AotiServeError:  # nobody can tell
            both = False
        finally:
            self._doubts -= 1
        self._arm(self._counts, version).note_doubt(non_finite=not both)

    async def _ask_whether_it_is_wrong(self, arrays: Arrays, began: float) -> None:
        try:
            rows = await self._run_beside(arrays, self.trial.active)
        except AotiServeError:  # it is, or nobody can tell
            return
        finally:
            self._doubts -= 1
        if rows.version == self.trial.active:
            self.note_failure(self.trial.candidate, began)

    async def _are_finite(self, outputs: Arrays) -> bool:
        read = self._counts.active.are_finite
        return read(outputs) if _are_few(outputs) else await self._offload.run(read, outputs)

    async def _note_pair(self, active: Arrays, candidate: Arrays) -> None:
        if _are_few(active):
            self._counts.shadow.note_pair(active, candidate)
        else:
            await self._offload.run(self._large.shadow.note_pair, active, candidate)

    def _note_unpaired(self, error: AotiServeError) -> None:
        if error.http_status == 500 or isinstance(error, InvalidInput):  # the active version has answered it
            self._counts.shadow.note_failed()
        else:
            self._counts.shadow.note_dropped()

    def _arm(self, counts: TrialCounts, version: int) -> ArmCounts:
        return counts.candidate if version == self.trial.candidate else counts.active


def _are_few(outputs: Arrays) -> bool:
    return sum([array.size for array in outputs]) <= FEW_ELEMENTS


def _is_finite(arm: ArmCounts, rows: Rows) -> bool:
    """A run is read once, with the first of its requests: many small reads cost ten times as much."""
    if rows.run.size > FEW_ELEMENTS:
        return not arm.note_outputs(rows.outputs)
    if rows.run.finite is None:
        rows.run.finite = not arm.note_outputs(rows.run.arrays)
    return rows.run.finite or arm.are_finite(rows.outputs)
