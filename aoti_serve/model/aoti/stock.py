"""torch's own runner, for packages with extern nodes: operators that only torch's dispatcher can call.

Custom operators, and a few built-in ones without a C shim (`multinomial`, SVD), need a proxy executor, which the C ABI
cannot make. This runner makes one from the `*.wrapper.json` beside the library. It holds the GIL while it runs
(upstream #197516), so its runs are serial whatever `num_runners` says, and it cannot fold before a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from aoti_serve.errors import RuntimeFailed
from aoti_serve.model.aoti.c_abi import NativeConstant, construction
from aoti_serve.signature.tensors import CPU

_FOLDED = "_FOLDED_CONST_"


class StockContainer:
    """An AOTIModelContainerRunner on an extracted library; the interface of `NativeContainer`.

    `device` is "cpu" or "cuda:<index>". Its operators' modules must have been imported.
    """

    # This runner knows none of these.
    num_inputs: int | None = None
    num_outputs: int | None = None
    folded_nbytes = 0

    def __init__(self, library: Path, num_runners: int, device: str) -> None:
        with construction, _failing("create"):
            self._runner: Any = _runner(library, num_runners, device)
        self._names = {fqn: name for name, fqn in self._runner.get_constant_names_to_original_fqns().items()}
        self.folds = any(constant.folded for constant in self.constants)
        self._forgotten = False

    @property
    def constants(self) -> list[NativeConstant]:
        """The library's constants; this runner does not know their sizes."""
        return [NativeConstant(name, fqn, name.startswith(_FOLDED), None) for fqn, name in self._names.items()]

    def run(self, inputs: Iterable[torch.Tensor], stream: int | None = None) -> list[torch.Tensor | None]:
        """Run on the thread's current stream; the GIL is held. None for outputs that are None."""
        with _failing("run"):
            outputs: list[torch.Tensor | None] = self._runner.run(list(inputs))
        return outputs

    def extract(self) -> dict[str, torch.Tensor]:
        """The active constants by FQN, without those that folding makes; valid until they change."""
        constants: dict[str, torch.Tensor] = self._runner.extract_constants_map(False)
        return constants

    def stage(self, tensors: Mapping[str, torch.Tensor], moved: bool) -> None:
        """Use the memory of `tensors`, by FQN, as the inactive buffer.

        A package that folds is told again at every refill: only then does its first run after the swap fold anew.
        """
        if moved or self.folds or self._forgotten:
            self._tell(tensors, inactive=True)
            self._forgotten = False

    def refold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Let the next run fold anew in the active buffer, whose `tensors` were refilled."""
        if self.folds:
            self._tell(tensors, inactive=False)

    def swap(self) -> None:
        self._runner.swap_constant_buffer()

    def free_inactive(self) -> None:
        """Give back built-in weights; folded constants stay, for the runtime fails later over freed ones."""
        if not self.folds:
            self._runner.free_inactive_constant_buffer()
            self._forgotten = True  # that there are any

    def delete(self) -> None:
        """Give back everything but the library's own pages; no other method may be called afterwards."""
        self._runner = None

    def _tell(self, tensors: Mapping[str, torch.Tensor], inactive: bool) -> None:
        named = {self._names[fqn]: tensor for fqn, tensor in tensors.items()}
        with _failing("update_constant_buffer"):
            self._runner.update_constant_buffer(named, inactive, False, True)


def _runner(library: Path, num_runners: int, device: str) -> Any:
    kinds: Any = torch._C._aoti
    if device == CPU:
        return kinds.AOTIModelContainerRunnerCpu(str(library), num_runners)
    return kinds.AOTIModelContainerRunnerCuda(str(library), num_runners, device, str(library.parent))


@contextmanager
def _failing(call: str) -> Iterator[None]:
    """Turn torch's errors, an operator's own about values for one, into RuntimeFailed."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeFailed(call=f"AOTIModelContainerRunner.{call}", detail=str(error)) from error
