"""What staged weights must do before they are committed, while the active ones go on answering.

They run on inputs that are made up from the signature: a failure proves something only if the active version does not
fail on the same ones. And they answer golden requests rightly, if there are any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch

from aoti_serve.errors import (
    BadIndexInWeights,
    IndexOutOfRange,
    InvalidInput,
    RuntimeFailed,
    UnfitTensor,
    WeightsDoNotRun,
)
from aoti_serve.model.arguments import checked_inputs
from aoti_serve.signature.golden.arrays import Array, as_array
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.signature.signature import MADE_UP_VALUES, Signature
from aoti_serve.signature.tensors import DTYPES

logger = logging.getLogger(__name__)

Run = Callable[[list[torch.Tensor]], object]
NamedRun = Callable[[list[torch.Tensor]], dict[str, torch.Tensor]]


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


def check_golden(requests: Iterable[GoldenRequest], signature: Signature, run: NamedRun) -> None:
    """Run each request by itself, and judge the answer.

    Raises GoldenFailed, WeightsDoNotRun if a run fails, and UnfitGolden for a request that the package cannot be asked.
    """
    for request in requests:
        fitted = request.fitted(signature)
        outputs = _outputs(fitted, signature, run)
        fitted.judge({name: as_array(tensor) for name, tensor in outputs.items()})


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


def _outputs(request: GoldenRequest, signature: Signature, run: NamedRun) -> dict[str, torch.Tensor]:
    inputs = {name: _as_tensor(array) for name, array in request.inputs.items()}
    try:
        return run(checked_inputs(inputs, signature))
    except InvalidInput as error:  # an index, which only the run can tell
        raise request.unfit(str(error)) from error
    except (RuntimeFailed, BadIndexInWeights) as error:
        raise WeightsDoNotRun(detail=f"golden request '{request.name}': {error}") from error


def _as_tensor(array: Array) -> torch.Tensor:
    """A copy: the run may write into it."""
    dtype = DTYPES[array.dtype.name]
    held = torch.from_numpy(array.view(dtype.numpy).copy())
    return held.view(getattr(torch, dtype.torch)) if dtype.raw else held
