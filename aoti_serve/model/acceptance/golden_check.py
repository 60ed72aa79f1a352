"""Golden requests, run on staged weights and judged."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from aoti_serve.errors import BadIndexInWeights, InvalidInput, RuntimeFailed, WeightsDoNotRun
from aoti_serve.model.arguments import checked_inputs
from aoti_serve.model.trial import NamedRun
from aoti_serve.signature.golden.arrays import Array, as_array
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import DTYPES


def check_golden(requests: Iterable[GoldenRequest], signature: Signature, run: NamedRun) -> None:
    """Run each request by itself, and judge the answer.

    Raises GoldenFailed, WeightsDoNotRun if a run fails, and UnfitGolden for a request that the package cannot be asked.
    """
    for request in requests:
        fitted = request.fitted(signature)
        outputs = _outputs(fitted, signature, run)
        fitted.judge({name: as_array(tensor) for name, tensor in outputs.items()})


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
