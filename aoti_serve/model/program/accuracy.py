"""How far the answers of a package are from those of the module that it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from aoti_serve.errors import TooInaccurate
from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from aoti_serve.signature.torch_private import pytree

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Accuracy(NamedTuple):
    """The largest and the mean absolute error over all outputs, and the cosine of the output that has the lowest.

    NaN where an answer is not finite though the module's is.
    """

    largest: float
    mean: float
    cosine: float

    def check(self, quantize: str, least: float) -> None:
        """Raise TooInaccurate unless the cosine is `least` or more."""
        if not self.cosine >= least:
            raise TooInaccurate(quantize=quantize, limit=least, **self._asdict())


def accuracy_of(
    module: torch.nn.Module, package: Package, weights: Mapping[str, torch.Tensor], calls: Sequence[Call]
) -> Accuracy:
    """Run the package with the module's `weights`, and the module, and compare their answers to all `calls`."""
    given, expected = [], []
    with Container(package) as container:
        container.stage({spec.name: weights[spec.name] for spec in package.constants})
        container.commit()
        for call in calls:
            args, kwargs = _copied(call)
            given += _answers(container(*args, **kwargs))
            args, kwargs = _copied(call)
            buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}  # forward() may change them
            with torch.no_grad():
                expected += _answers(torch.func.functional_call(module, buffers, args, kwargs))
    return compared(expected, given)


def compared(expected: Iterable[torch.Tensor], given: Iterable[torch.Tensor]) -> Accuracy:
    """Compare answers, output by output. Where the module's answer is not finite, any that is not either is right."""
    errors, cosines = [torch.zeros(0, dtype=torch.float64)], [1.0]
    for wanted, found in zip(expected, given, strict=True):
        one, other = wanted.double().flatten(), found.double().flatten()
        same = one.isfinite() | other.isfinite()
        one, other = one[same], other[same]
        errors.append((one - other).abs())
        cosines.append(_cosine(one, other))
    each = torch.cat(errors)
    largest, mean = (float(each.max()), float(each.mean())) if len(each) else (0.0, 0.0)
    return Accuracy(largest, mean, float(torch.tensor(cosines, dtype=torch.float64).min()))


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    if torch.equal(one, other):  # zeros too
        return 1.0
    length = one.norm() * other.norm()
    return float(torch.dot(one, other) / length) if length else 0.0


def _answers(result: Any) -> list[torch.Tensor]:
    """The tensors of a result, of floating point if there are any: a number of a class or a token has no cosine."""
    tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    return [tensor for tensor in tensors if tensor.is_floating_point()] or tensors


def _copied(call: Call) -> Call:
    copied: Call = pytree.tree_map_only(torch.Tensor, torch.clone, call)
    return copied
