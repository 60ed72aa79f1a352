"""A trial in one gateway: the answers of two versions are counted apart, and some requests run on both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from aoti_serve.cluster.calls import spawn
from aoti_serve.errors import AotiServeError
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

RunShadow = Callable[[Arrays], Awaitable[Rows]]


class TrialCounter:
    """Counts one trial in the gateway's event loop; large answers are read in a thread, and have counts of their own.

    `run_shadow` runs a request on the candidate when there is room; `shadows` are those under way.
    """

    def __init__(self, trial: Trial, outputs: tuple[TensorSpec, ...], run_shadow: RunShadow) -> None:
        self.trial = trial
        self._counts, self._large = TrialCounts(outputs), TrialCounts(outputs)
        self._run_shadow = run_shadow
        self._offload = Offload()
        self._turns = EvenShare()
        self.shadows: set[asyncio.Task[None]] = set()
        self._nbytes = 0

    def figures(self) -> TrialFigures:
        """All that this gateway has counted of the trial."""
        return self._counts.figures() + self._large.figures()

    def note_answer(self, rows: Rows, began: float) -> None:
        """Note an answer to a request that has come at `began`."""
        seconds = monotonic() - began
        if rows.run.size <= FEW_ELEMENTS:
            _note_of_run(self._arm(self._counts, rows.version), rows, seconds)
        elif _are_few(rows.outputs):
            _note(self._arm(self._counts, rows.version), rows, seconds)
        else:
            spawn(self._offload.run(_note, self._arm(self._large, rows.version), rows, seconds))

    def note_failure(self, version: int, began: float) -> None:
        """Note a request that this version has failed to answer, by the server's fault."""
        self._arm(self._counts, version).note(monotonic() - began, failed=True)

    def shadow(self, arrays: Arrays, answer: Rows, share: float) -> None:
        """Run a request that the active version has answered on the candidate, too, if it is this one's turn."""
        if answer.version != self.trial.active or not self._turns.take(share):
            return
        nbytes = sum(strings_nbytes(array) for array in (*arrays, *answer.outputs))
        if len(self.shadows) < MOST_SHADOWS and self._nbytes + nbytes <= MOST_SHADOW_BYTES:
            task = asyncio.get_running_loop().create_task(self._compare(arrays, answer, nbytes))
            self.shadows.add(task)
            task.add_done_callback(self.shadows.discard)
        else:
            self._counts.shadow.note_dropped()

    async def _compare(self, arrays: Arrays, answer: Rows, nbytes: int) -> None:
        self._nbytes += nbytes
        try:
            rows = await self._run_shadow(arrays)
            if rows.version == self.trial.candidate:
                await self._note_pair(answer.outputs, rows.outputs)
        except AotiServeError as error:
            self._note_unpaired(error)
        finally:
            self._nbytes -= nbytes

    async def _note_pair(self, active: Arrays, candidate: Arrays) -> None:
        if _are_few(active):
            self._counts.shadow.note_pair(active, candidate)
        else:
            await self._offload.run(self._large.shadow.note_pair, active, candidate)

    def _note_unpaired(self, error: AotiServeError) -> None:
        if error.http_status == 500:
            self._counts.shadow.note_failed()
        else:
            self._counts.shadow.note_dropped()

    def _arm(self, counts: TrialCounts, version: int) -> ArmCounts:
        return counts.candidate if version == self.trial.candidate else counts.active


def _are_few(outputs: Arrays) -> bool:
    return sum([array.size for array in outputs]) <= FEW_ELEMENTS


def _note_of_run(arm: ArmCounts, rows: Rows, seconds: float) -> None:
    """A run is read once, with the first of its requests: many small reads cost ten times as much."""
    run = rows.run
    if run.finite is None:
        run.finite = not arm.note_outputs(run.arrays)
    arm.note(seconds, non_finite=not run.finite and not arm.are_finite(rows.outputs))


def _note(arm: ArmCounts, rows: Rows, seconds: float) -> None:
    arm.note(seconds, non_finite=arm.note_outputs(rows.outputs))
