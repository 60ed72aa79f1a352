"""What staged weights must do before they are committed, while the active ones go on answering.

They run on inputs that are made up from the signature, and answer with numbers: a failure proves something only if the
active version does not fail on the same ones. And they answer golden requests rightly, if there are any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch

from aoti_serve.errors import (
    AnswersNotFinite,
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

Run = Callable[[list[torch.Tensor]], dict[str, torch.Tensor]]


class _Tried(NamedTuple):
    """What became of runs on made-up inputs, until one was answered with numbers: `failure` is the first one if each
    has failed, `without_numbers` has what each fill was answered with instead.
    """

    failure: RuntimeFailed | None
    without_numbers: dict[int, AnswersNotFinite]


def check_run(signature: Signature, staged: Run, active: Run | None, *, any_answer: bool = False) -> None:
    """Run `staged` on made-up inputs, the smallest that are legal.

    Raises UnfitTensor for a bad index in the weights, WeightsDoNotRun if `staged` fails where `active` does not, and
    AnswersNotFinite if it answers none of them with numbers, and `active` one, unless `any_answer` will do.
    Without an active version this proves nothing, and is logged.
    """
    tried = _tried(signature, staged)
    found = next(filter(None, (tried.failure, *([] if any_answer else tried.without_numbers.values()))), None)
    if found is None:
        return
    if active is None:
        logger.warning("the staged weights have answered no made-up input as they should: %s", found)
        return
    beside = _tried(signature, active)
    if tried.failure is not None and beside.failure is None:
        raise WeightsDoNotRun(detail=str(tried.failure)) from tried.failure
    for fill, error in tried.without_numbers.items():
        if beside.failure is None and fill not in beside.without_numbers:
            raise error


def check_golden(requests: Iterable[GoldenRequest], signature: Signature, run: Run) -> None:
    """Run each request by itself, and judge the answer.

    Raises GoldenFailed, WeightsDoNotRun if a run fails, and UnfitGolden for a request that the package cannot be asked.
    """
    for request in requests:
        fitted = request.fitted(signature)
        outputs = _outputs(fitted, signature, run)
        fitted.judge({name: as_array(tensor) for name, tensor in outputs.items()})


def _tried(signature: Signature, run: Run) -> _Tried:
    failures, without_numbers = [], {}
    for fill in MADE_UP_VALUES:
        try:
            outputs = run(checked_inputs(_made_up(signature, fill), signature))
            error = next(_not_finite(outputs), None)
            if error is None:
                return _Tried(None, {})
            without_numbers[fill] = error
        except IndexOutOfRange:
            continue  # it has run, and says so of our input; another one may show more
        except BadIndexInWeights as error:
            detail = "an index in it is outside {low}..{high}, the range of '{table}'".format_map(error.facts)
            raise UnfitTensor(name=error.facts["name"], detail=detail) from error
        except RuntimeFailed as error:
            failures.append(error)
    return _Tried(failures[0] if len(failures) == len(MADE_UP_VALUES) else None, without_numbers)


def _not_finite(outputs: dict[str, torch.Tensor]) -> Iterator[AnswersNotFinite]:
    for name, values in outputs.items():
        wide = values.double() if values.is_floating_point() else None
        if wide is not None and not wide.isfinite().all():
            nan, infinite = int(wide.isnan().sum()), int(wide.isinf().sum())
            yield AnswersNotFinite(name=name, nan=nan, infinite=infinite, size=values.numel())


def _made_up(signature: Signature, fill: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.full(shaped.shape, fill, dtype=getattr(torch, shaped.dtype))
        for name, shaped in signature.smallest_inputs.items()
    }


def _outputs(request: GoldenRequest, signature: Signature, run: Run) -> dict[str, torch.Tensor]:
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
