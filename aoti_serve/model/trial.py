"""A run of the staged weights before they are committed, while the active ones go on answering.

The trial runs in a second runtime over the same libraries. It has one runner, and its active constant buffer is the
container's inactive one: no copy of the weights. The inputs are made up from the signature, so a failure proves
something only if the active version does not fail on the same inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from aoti_serve.errors import BadIndexInWeights, IndexOutOfRange, RuntimeFailed, UnfitTensor, WeightsDoNotRun
from aoti_serve.model.arguments import checked_inputs, named_outputs
from aoti_serve.model.buffers import ConstantBuffer
from aoti_serve.model.device.cuda import Device
from aoti_serve.model.variants import Variants
from aoti_serve.signature.signature import MADE_UP_VALUES, Signature

logger = logging.getLogger(__name__)

Run = Callable[[list[torch.Tensor]], object]
NamedRun = Callable[[list[torch.Tensor]], dict[str, torch.Tensor]]


class TrialRuntime:
    """The second runtime; not thread-safe.

    The first trial loads it with `load`, and it is kept. A runtime holds for ever every memory that it was told of
    (upstream #194480), and this way it is told of each buffer once.
    """

    def __init__(self, load: Callable[[], Variants], device: Device, signature: Signature) -> None:
        self._load = load
        self._device = device
        self._signature = signature
        self._runtime: Variants | None = None
        self._told: list[tuple[int, ...] | None] = [None, None]  # the addresses of its active and its inactive buffer

    def over(self, buffer: ConstantBuffer) -> NamedRun:
        """Return a run with the constants in `buffer`, which must not change meanwhile, on checked inputs.

        If this raises, the runtime is thrown away, and the next trial loads another.
        """
        try:
            runtime = self._runtime = self._runtime or self._load()
            self._tell(runtime, buffer)
        except BaseException:
            self.close()
            raise
        return lambda inputs: self._run(runtime, inputs)

    def close(self) -> None:
        runtime, self._runtime, self._told = self._runtime, None, [None, None]
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

    def _run(self, runtime: Variants, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        with self._device.trial() as stream:
            outputs = runtime.run([self._device.take(tensor) for tensor in inputs], stream)
        return named_outputs(outputs, self._signature)


def check_run(signature: Signature, staged: Run, active: Run | None) -> None:
    """Run `staged` on made-up inputs, the smallest that are legal.

    Raises UnfitTensor for a bad index in the weights, and WeightsDoNotRun if `staged` fails where `active` does not.
    Without an active version such a failure proves nothing, and is logged.
    """
    failure = _failure(signature, staged)
    if failure is None:
        return
    if active is None:
        logger.warning("the staged weights were run, but on no made-up input without an error: %s", failure)
    elif _failure(signature, active) is None:
        raise WeightsDoNotRun(detail=str(failure)) from failure


def _failure(signature: Signature, run: Run) -> RuntimeFailed | None:
    """Run on the made-up inputs until one succeeds; returns the first failure if each of them fails."""
    failures = []
    for fill in MADE_UP_VALUES:
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
    return failures[0] if len(failures) == len(MADE_UP_VALUES) else None


def _made_up(signature: Signature, fill: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.full(shaped.shape, fill, dtype=getattr(torch, shaped.dtype))
        for name, shaped in signature.smallest_inputs.items()
    }
