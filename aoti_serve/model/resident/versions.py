"""The weights versions in a container's two buffers, and the steps from one to the next.

    staged --commit--> version --commit or rollback--> previous

The inactive buffer holds the staged version or the previous one, never both. A step that fails leaves the version that
answers as it is: in the same runtime, or in one that is loaded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch

from aoti_serve.errors import (
    ContainerClosed,
    NothingStaged,
    NothingToRollBack,
    VersionNotResident,
    VersionTaken,
    WeightsMissing,
)
from aoti_serve.model.gate import Gate
from aoti_serve.model.preparation.preparations import Prepared
from aoti_serve.model.resident.buffers import ConstantBuffer
from aoti_serve.model.resident.second_runtime import SecondRuntime
from aoti_serve.model.run import DeviceRun, Outputs
from aoti_serve.model.variants import Variants

BUILT_IN_VERSION = 0


class ResidentVersions:
    """The runtime, its active and its inactive buffer, and the numbers of the versions in them.

    `version` answers, `previous` answered before, `staged` waits for its commit; None where there is none. `accepted`
    says whether what was staged last has passed its trial. One step at a time. Runs pass the `gate`, which is closed
    for a flip and while a runtime is loaded anew. `load` makes the first runtime, and another whenever one must be
    thrown away.
    """

    def __init__(
        self,
        load: Callable[[], Variants],
        contents: Sequence[Prepared],
        run: DeviceRun,
        gate: Gate,
        second: SecondRuntime,
    ) -> None:
        self.version: int | None = None
        self.previous: int | None = None
        self.staged: int | None = None
        self.accepted = False
        self.closed = False
        self._highest = BUILT_IN_VERSION
        self._load = load
        self._run = run
        self._device = device = run.device
        self._gate = gate
        self._second = second
        self.runtime = load()
        self.active, self.inactive = ConstantBuffer(contents, device), ConstantBuffer(contents, device)

    @property
    def nbytes(self) -> int:
        return self.active.nbytes + self.inactive.nbytes

    @property
    def checked_staged(self) -> int:
        """The staged version. Raises NothingStaged."""
        if self.staged is None:
            raise NothingStaged()
        return self.staged

    def check_open(self) -> None:
        if self.closed:
            raise ContainerClosed()

    def check_free(self, number: int | None) -> None:
        """Raise VersionTaken for the number that answers, and for a negative one."""
        if number is not None and (number < BUILT_IN_VERSION or number == self.version):
            raise VersionTaken(version=number)

    def infer(self, ordered: list[torch.Tensor], version: int | None = None) -> tuple[int, Outputs]:
        """Run checked inputs on a version, the one that answers if None; the list is emptied. Returns which it was.

        Raises ContainerClosed, WeightsMissing or VersionNotResident.
        """
        while True:  # a flip may come between a look at `self.version` and a run
            if version not in (None, self.version):
                try:
                    return version, self._second.run(version, ordered)
                except VersionNotResident:
                    self.check_open()
                    if version != self.version:
                        raise
            with self._gate:
                self.check_open()
                if self.version is None:
                    raise WeightsMissing()
                if version in (None, self.version):
                    return self.version, self._run.of(self.runtime, ordered)

    def open_previous(self) -> None:
        """Let `infer` answer with the previous version, too, if there is one and a staged one was ever opened."""
        if self.previous is not None and self._second.loaded:
            self._second.answer_for(self.previous, self.inactive)

    def take_over_built_in(self) -> dict[str, torch.Tensor]:
        """Answer from the weights in the library; returns them, valid until the next step."""
        try:
            built_in = self.runtime.extract()
            with self.inactive.refilled():
                self.inactive.fill(built_in)
            self.publish()
            self._exchange()
            self.release()
        except BaseException:
            self.close()
            raise
        self.version = BUILT_IN_VERSION
        return self.active.tensors

    @contextmanager
    def staging(self, number: int | None) -> Iterator[ConstantBuffer]:
        """Give the inactive buffer, to be filled while the active one answers; it holds a staged version afterwards.

        If that fails, it is freed. Raises NotEnoughMemory before anything has changed.
        """
        # Folding is done twice: once in each runtime.
        self.inactive.check_memory(beside=2 * self.runtime.folded_nbytes)
        self.previous = self.staged = None
        self.accepted = False
        try:
            self._second.withdraw()
            self._device.wait_for_old_runs()
            with self.inactive.refilled():
                yield self.inactive
        except BaseException:
            self.release()
            raise
        self._publish_or_rebuild()
        self.staged = self._highest + 1 if number is None else number
        self._highest = max(self._highest, self.staged)

    @contextmanager
    def trial(self) -> Iterator[int]:
        """Let `infer` answer with the staged version, too, and give its number. If what is done then fails, free it.

        Raises NothingStaged.
        """
        staged = self.checked_staged
        try:
            self._second.answer_for(staged, self.inactive)
            yield staged
        except BaseException:
            self.release()
            raise
        self.accepted = True

    def publish(self) -> None:
        """Tell the runtime of the refilled buffer, and fold. If this raises, the runtime must not run again."""
        self.runtime.stage(self.inactive.tensors, moved=not self.inactive.registered)
        self.inactive.registered = True

    def commit(self) -> None:
        self._flip(self.checked_staged)

    def rollback(self, model: str) -> None:
        if self.previous is None:
            raise NothingToRollBack(model=model)
        self._flip(self.previous)

    def release(self) -> None:
        """Free the inactive buffer, whatever it holds."""
        self.previous = self.staged = None
        self._second.withdraw()
        self._device.wait_for_old_runs()
        self.runtime.free_inactive()
        self.inactive.free()

    def close(self) -> None:
        """Wait for the runs in flight, then free everything."""
        with self._gate.closed():
            if not self.closed:
                self.closed = True
                self._second.close()
                self._device.wait_for_old_runs()
                self.runtime.delete()
                self._free_both()

    def _publish_or_rebuild(self) -> None:
        # A fold that fails leaves a runner on the staged weights: no run may begin from then until the rebuild.
        folds = self.runtime.folds
        with self._gate.closed() if folds else nullcontext():
            try:
                self.publish()
            except BaseException:
                with nullcontext() if folds else self._gate.closed():
                    self._rebuild(self.active)
                raise

    def _flip(self, number: int) -> None:
        with self._gate.closed():
            answering, before = self.version, self.active
            try:
                self._exchange()
                self.version, self.previous, self.staged = number, answering, None
            except BaseException:
                self.version, self.previous, self.staged = answering, None, None
                self._rebuild(before)
                raise

    def _exchange(self) -> None:
        self.runtime.swap()
        self.active, self.inactive = self.inactive, self.active
        self._device.flipped()

    def _rebuild(self, answering: ConstantBuffer) -> None:
        """Go on answering from this buffer with a runtime loaded anew, or close; no run may be in flight."""
        try:
            if answering is not self.active:
                self.active, self.inactive = self.inactive, self.active
            self._second.withdraw()
            self.runtime.delete()
            self.runtime = self._load()
            self.inactive.free()
            self.active.registered = self.inactive.registered = False
            if self.version is not None:
                self.active, self.inactive = self.inactive, self.active
                self.publish()
                self._exchange()
        except BaseException:
            self.closed = True
            self._free_both()
            raise

    def _free_both(self) -> None:
        self.active.free()
        self.inactive.free()
