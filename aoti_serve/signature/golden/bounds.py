"""What an output of a golden request must keep to, and how an answer is measured against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, FiniteFloat, model_validator

from aoti_serve.signature.golden.arrays import Array, count_not_finite
from aoti_serve.signature.golden.measures import absolute_error, least_cosine, relative_error, top1_share
from aoti_serve.signature.tensors import Frozen

Distance = Annotated[FiniteFloat, Field(ge=0)]


class Miss(NamedTuple):
    """A bound that an output does not keep to: what was measured of it, and what is wanted."""

    bound: str
    measured: float | str
    relation: str
    limit: float | str


class Bounds(Frozen):
    """The bounds of one output; it must keep to all that are given, and always be finite.

    `absolute` is the most of |a-b| and `relative` the most of |a-b|/|b|, b being what is expected. `cosine` is the
    least that any row may have; a row is what belongs to one index of the first of several dimensions. `top1` is the
    least share of rows in which the largest value of the last dimension is at the same place. `range` is the least and
    the largest value; it needs nothing that is expected.
    """

    absolute: Distance | None = None
    relative: Distance | None = None
    cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    top1: Annotated[float, Field(ge=0, le=1)] | None = None
    range: tuple[FiniteFloat, FiniteFloat] | None = None
    finite: Literal[True] = True

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.range is not None and self.range[0] > self.range[1]:
            raise ValueError(f"the range begins at {self.range[0]:g}, above its end {self.range[1]:g}")
        return self

    @property
    def compares(self) -> bool:
        """Whether it says how near an output must be to what is expected."""
        return any(bound is not None for bound in (self.absolute, self.relative, self.cosine, self.top1))

    def misses(self, output: Array, expected: Array | None) -> Iterator[Miss]:
        """The bounds that an output does not keep to. `expected` must be there if it compares."""
        if expected is not None and output.shape != expected.shape:
            yield Miss("shape", str(list(output.shape)), "exactly", str(list(expected.shape)))
        elif count := count_not_finite(output):
            yield Miss("non-finite values", count, "at most", 0)
        else:
            yield from self._range_misses(output)
            if expected is not None:
                yield from self._compared(output, expected)

    def _range_misses(self, output: Array) -> Iterator[Miss]:
        if self.range is None or not output.size:
            return
        (low, high), least, largest = self.range, float(output.min()), float(output.max())
        if least < low:
            yield Miss("least value", least, "at least", low)
        if largest > high:
            yield Miss("largest value", largest, "at most", high)

    def _compared(self, output: Array, expected: Array) -> Iterator[Miss]:
        for name, limit, error in (
            ("absolute error", self.absolute, absolute_error),
            ("relative error", self.relative, relative_error),
        ):
            if limit is not None and (most := error(output, expected)) > limit:
                yield Miss(name, most, "at most", limit)
        for name, limit, likeness in (("cosine", self.cosine, least_cosine), ("top1", self.top1, top1_share)):
            if limit is not None and (least := likeness(output, expected)) < limit:
                yield Miss(name, least, "at least", limit)
