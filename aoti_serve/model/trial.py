"""A run of the staged weights before they are committed, while the active ones go on answering.

It runs in a second runtime over the same libraries, with one runner, whose active constant buffer is the container's
inactive one: no copy of the weights. The inputs are made up from the signature, so a failure that the active version
shows as well is the inputs' fault.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from aoti_serve.errors import BadIndexInWeights, IndexOutOfRange, RuntimeFailed, UnfitTensor, WeightsDoNotRun
from aoti_serve.model.arguments import checked_inputs, named_outputs
from aoti_serve.model.buffers import ConstantBuffer
from aoti_serve.model.device import Device
from aoti_serve.model.variants import Variants
from aoti_serve.signature.signature import Signature

logger = logging.getLogger(__name__)

Run = Callable[[list[torch.Tensor]], object]
_FILLS = (0, 1)  # a distribution of zeros has no sum, a matrix of ones no inverse


class TrialRuntime:
    """The second runtime; not thread-safe.

    It is loaded for the first trial and kept, since a runtime holds for ever what it was told of (upstream #194480):
    this one is told once of each buffer. `load` makes one with one runner.
    """

    def __init__(self, load: Callable[[], Variants], device: Device, signature: Signature) -> None:
        self._load = load
        self._device = device
        self._signature = signature
        self._runtime: Variants | None = None
        self._slots: list[tuple[int, ...] | None] = [None, None]  # what its active and its inactive buffer are told of

    def over(self, buffer: ConstantBuffer) -> Run:
        """What runs with the constants in `buffer`, which must not change meanwhile; its inputs as the code reads them.

        If this raises, the runtime is thrown away, and the next trial loads another.
        """
        try:
            runtime = self._told(buffer)
        except BaseException:
            self.close()
            raise
        return lambda inputs: self._run(runtime, inputs)

    def close(self) -> None:
        runtime, self._runtime, self._slots = self._runtime, None, [None, None]
        if runtime is not None:
            runtime.delete()

    def _told(self, buffer: ConstantBuffer) -> Variants:
        if self._runtime is None:
            self._runtime = self._load()
        if self._slots[0] == buffer.addresses:
            self._runtime.refold(buffer.tensors)
            return self._runtime
        self._runtime.stage(buffer.tensors, moved=self._slots[1] != buffer.addresses)
        self._runtime.swap()
        self._slots = [buffer.addresses, self._slots[0]]
        if self._slots[1] is None:
            self._runtime.free_inactive()  # the weights in its library, if there are any
        return self._runtime

    def _run(self, runtime: Variants, inputs: list[torch.Tensor]) -> None:
        with self._device.trial() as stream:
            outputs = runtime.run([self._device.take(tensor) for tensor in inputs], stream)
        named_outputs(outputs, self._signature)


def check_run(signature: Signature, staged: Run, active: Run | None) -> None:
    """Run `staged` on made-up inputs, the smallest that are legal.

    Raises UnfitTensor for a bad index in the weights, and WeightsDoNotRun if it fails where `active` does not. Without
    an active version a failure that the operators report tells nothing, and is logged.
    """
    failure = _failure(signature, staged)
    if failure is None:
        return
    if active is None:
        logger.warning("the staged weights were run, but on no made-up input without an error: %s", failure)
    elif _failure(signature, active) is None:
        raise WeightsDoNotRun(detail=str(failure)) from failure


def _failure(signature: Signature, run: Run) -> RuntimeFailed | None:
    """The first failure, if there is one on each input."""
    failures = []
    for fill in _FILLS:
        try:
            run(checked_inputs(_made_up(signature, fill), signature))
            return None
        except IndexOutOfRange:
            continue  # it has run, and says so of our input; another one may show more
        except BadIndexInWeights as error:
            detail = "an index in it is outside {low}..{high}, the range of '{table}'".format_map(error.facts)
            raise UnfitTensor(name=error.facts["name"], detail=detail) from error
        except RuntimeFailed as error:
            failures.append(error)
    return failures[0] if len(failures) == len(_FILLS) else None


def _made_up(signature: Signature, fill: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.full(shaped.shape, fill, dtype=getattr(torch, shaped.dtype))
        for name, shaped in signature.smallest_inputs.items()
    }
