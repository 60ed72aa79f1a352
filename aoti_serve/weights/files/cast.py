"""Tensors of checkpoints as floats of another width: float32 in a package that computes in bfloat16, or back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import UnfitTensor
from aoti_serve.signature.constants import Constants
from aoti_serve.signature.name_rules import ReadingRules
from aoti_serve.signature.tensors import CASTABLE, DTYPES, Span
from aoti_serve.weights.files.low_rank import FLOATS
from aoti_serve.weights.files.merge import Part
from aoti_serve.weights.files.naming import renamed
from aoti_serve.weights.version import Rounding


@dataclass
class CastPart:
    """`source`, a tensor of one of CASTABLE, as another of them.

    Once it is read, `error` is by how much a value was rounded at most, and `value` that value's size.
    """

    name: str
    source: Part
    dtype: str
    error: float = field(default=0.0, init=False)
    value: float = field(default=0.0, init=False)

    @property
    def span(self) -> Span:
        old = self.source.span
        count = (old.end - old.begin) // DTYPES[old.dtype].itemsize
        return old._replace(dtype=self.dtype, end=old.begin + count * DTYPES[self.dtype].itemsize)

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, a few megabytes at a time. Raises UnfitTensor for a value beyond the largest of the dtype."""
        before = FLOATS[self.source.span.dtype]
        for chunk in self.source.chunks():
            old = np.frombuffer(chunk, before).astype(np.float64)
            with np.errstate(over="ignore"):
                new = np.frombuffer(chunk, before).astype(FLOATS[self.dtype])
            self._measure(old, new.astype(np.float64))
            yield new.tobytes()

    def _measure(self, old: NDArray[np.float64], new: NDArray[np.float64]) -> None:
        finite = np.isfinite(old)
        if (lost := finite & ~np.isfinite(new)).any():
            detail = f"{old[lost][0]:g} is beyond the largest {self.dtype}; package the model in a wider dtype"
            raise UnfitTensor(name=self.name, detail=detail)
        errors = np.abs(new[finite] - old[finite])
        if (largest := float(errors.max(initial=0.0))) > self.error:
            self.error, self.value = largest, float(np.abs(old[finite][int(errors.argmax())]))


def cast_parts(parts: Mapping[str, Part], constants: Constants) -> dict[str, CastPart]:
    """Those of the tensors that are floats of another width than the package takes, as it takes them."""
    casts = _casts({name: part.span for name, part in parts.items()}, constants)
    return {name: CastPart(name, parts[name], dtype) for name, dtype in casts.items()}


def read_spans(spans: Mapping[str, Span], rules: ReadingRules, constants: Constants) -> dict[str, Span]:
    """The tensors of a checkpoint as the package will be given them. Raises WrongNameRule."""
    named = renamed(spans, rules)
    casts = _casts(named, constants) if rules.cast else {}
    return {name: span._replace(dtype=casts.get(name, span.dtype)) for name, span in named.items()}


def _casts(spans: Mapping[str, Span], constants: Constants) -> dict[str, str]:
    """The new dtype of each that needs one."""
    wanted = {spec.name: spec.dtype for spec in constants.constants}
    wanted |= {spec.name: spec.dtype for spec in constants.baked}
    found = {name: wanted.get(constants.tied.get(name, name), span.dtype) for name, span in spans.items()}
    both = {name: {dtype, spans[name].dtype} for name, dtype in found.items()}
    return {name: found[name] for name, dtypes in both.items() if len(dtypes) == 2 and dtypes.issubset(CASTABLE)}


def rounding_of(casts: Iterable[CastPart]) -> Rounding | None:
    """What casts, once read, have rounded most; None if there were none."""
    done = list(casts)
    if not done:
        return None
    worst = max(done, key=lambda cast: cast.error)
    return Rounding(tensors=len(done), tensor=worst.name, error=worst.error, value=worst.value)
