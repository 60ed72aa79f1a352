"""The weights versions in a container's two buffers, by number, and the steps from one to the next.

    staged --commit--> version --commit or rollback--> previous

The inactive buffer holds the staged version or the previous one, never both. A step that fails leaves the active
version answering: from the same runtime, or from one that is loaded anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from aoti_serve.errors import ContainerClosed, NothingStaged, NothingToRollBack, VersionTaken
from aoti_serve.model.buffers import Buffers, ConstantBuffer
from aoti_serve.model.gate import Gate

BUILT_IN_VERSION = 0


class ResidentVersions:
    """`active` answers, `previous` answered before, `staged` waits for its commit; None where there is none.

    One step at a time. Runs pass the `gate`, which is closed for a flip and while a runtime is loaded anew.
    """

    def __init__(self, buffers: Buffers, gate: Gate) -> None:
        self.active: int | None = None
        self.previous: int | None = None
        self.staged: int | None = None
        self.closed = False
        self._highest = BUILT_IN_VERSION
        self._buffers = buffers
        self._gate = gate

    def check_open(self) -> None:
        if self.closed:
            raise ContainerClosed()

    def check_free(self, number: int | None) -> None:
        """Raise VersionTaken for the number that answers, and for a negative one."""
        if number is not None and (number < BUILT_IN_VERSION or number == self.active):
            raise VersionTaken(version=number)

    def take_over_built_in(self) -> dict[str, torch.Tensor]:
        """Answer from the weights in the library; returns them, valid until the next step."""
        try:
            built_in = self._buffers.adopt_built_in()
            self._buffers.free_inactive()
        except BaseException:
            self.close()
            raise
        self.active = BUILT_IN_VERSION
        return built_in

    @contextmanager
    def staging(self, number: int | None) -> Iterator[ConstantBuffer]:
        """Give the inactive buffer, to be filled; it holds a staged version if that succeeds.

        Raises NotEnoughMemory before anything has changed.
        """
        self._buffers.check_memory()
        self.previous = self.staged = None
        with self._buffers.refilled() as buffer:
            yield buffer
        self._publish()
        self.staged = self._highest + 1 if number is None else number
        self._highest = max(self._highest, self.staged)

    def commit(self) -> None:
        if self.staged is None:
            raise NothingStaged()
        self._flip(self.staged)

    def rollback(self, model: str) -> None:
        if self.previous is None:
            raise NothingToRollBack(model=model)
        self._flip(self.previous)

    def release(self) -> None:
        """Free the inactive buffer, whatever it holds."""
        self.previous = self.staged = None
        self._buffers.free_inactive()

    def close(self) -> None:
        """Wait for the runs in flight, then free everything."""
        with self._gate.closed():
            if not self.closed:
                self.closed = True
                self._buffers.close()

    def _publish(self) -> None:
        # A fold that fails leaves a runner on the staged weights: no run may begin from then until the rebuild.
        folds = self._buffers.runtime.folds
        with self._gate.closed() if folds else nullcontext():
            try:
                self._buffers.publish()
            except BaseException:
                with nullcontext() if folds else self._gate.closed():
                    self._rebuild(self._buffers.active)
                raise

    def _flip(self, number: int) -> None:
        with self._gate.closed():
            answering, before = self.active, self._buffers.active
            try:
                self._buffers.flip()
                self.active, self.previous, self.staged = number, answering, None
            except BaseException:
                self.active, self.previous, self.staged = answering, None, None
                self._rebuild(before)
                raise

    def _rebuild(self, before: ConstantBuffer) -> None:
        """Go on answering from `before` with a runtime loaded anew, or close; no run may be in flight."""
        try:
            self._buffers.rebuild(before, answers=self.active is not None)
        except BaseException:
            self.closed = True
            self._buffers.free()
            raise
