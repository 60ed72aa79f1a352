"""A second runtime over the same libraries, which answers for the version in a container's inactive buffer."""

from __future__ import annotations

from collections.abc import Callable

import torch

from aoti_serve.errors import VersionNotResident
from aoti_serve.model.gate import Gate
from aoti_serve.model.resident.buffers import ConstantBuffer
from aoti_serve.model.run import DeviceRun, Outputs
from aoti_serve.model.variants import Variants


class SecondRuntime:
    """Runners beside those of the container, and no weights: its active constant buffer is the container's inactive
    one, so a staged version, or the previous one, answers without a second copy.

    `run` may be called from any thread; the other methods one at a time. It is loaded when it is first needed, and
    kept: a runtime holds for ever every memory that it was told of (upstream #194480), and this way it is told of each
    buffer once. `version` is the one that it answers for, None if there is none.
    """

    def __init__(self, load: Callable[[], Variants], run: DeviceRun, num_runners: int) -> None:
        self.version: int | None = None
        self._load = load
        self._run = run
        self._gate = Gate(num_runners)
        self._runtime: Variants | None = None
        self._told: list[tuple[int, ...] | None] = [None, None]  # the addresses of its active and its inactive buffer

    @property
    def loaded(self) -> bool:
        return self._runtime is not None

    def answer_for(self, version: int, buffer: ConstantBuffer) -> None:
        """Answer for the version in `buffer`, which must not change before `withdraw`.

        If this raises, the runtime is thrown away, and the next call loads another.
        """
        with self._gate.closed():
            self.version = None
            try:
                runtime = self._runtime = self._runtime or self._load()
                self._tell(runtime, buffer)
            except BaseException:
                self._delete()
                raise
            self.version = version

    def run(self, version: int, inputs: list[torch.Tensor]) -> Outputs:
        """Run checked inputs; the list is emptied. Raises VersionNotResident if it does not answer for `version`."""
        with self._gate:
            if self._runtime is None or self.version != version:
                raise VersionNotResident(version=version)
            return self._run.of(self._runtime, inputs)

    def withdraw(self) -> None:
        """Wait for runs in flight, and answer for no version: before its buffer is refilled or freed."""
        with self._gate.closed():
            self.version = None

    def close(self) -> None:
        """As `withdraw`, and give back the runtime's memory."""
        with self._gate.closed():
            self._delete()

    def _delete(self) -> None:
        runtime, self._runtime = self._runtime, None
        self.version, self._told = None, [None, None]
        if runtime is not None:
            runtime.delete()

    def _tell(self, runtime: Variants, buffer: ConstantBuffer) -> None:
        """Make `buffer` the runtime's active one."""
        active, inactive = self._told
        if active == buffer.addresses:
            runtime.refold(buffer.tensors)
            return
        runtime.stage(buffer.tensors, moved=inactive != buffer.addresses)
        runtime.swap()
        self._told = [buffer.addresses, active]
        if active is None:
            runtime.free_inactive()  # the weights in its library, if there are any
