"""A run of the staged weights before they are committed, while the active ones go on answering.

The inputs are made up from the signature, so a failure proves something only if the active version does not fail on
the same inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from aoti_serve.errors import BadIndexInWeights, IndexOutOfRange, RuntimeFailed, UnfitTensor, WeightsDoNotRun
from aoti_serve.model.arguments import checked_inputs
from aoti_serve.signature.signature import MADE_UP_VALUES, Signature

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
