"""What is counted of the values of outputs: their moments, and how far two versions agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from aoti_serve.signature.tensors import Frozen


class OutputMoments(Frozen):
    """Of the finite values of one output: how many there were, their sum, and the sum of their squares."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: OutputMoments) -> OutputMoments:
        return OutputMoments(
            count=self.count + other.count, total=self.total + other.total, squares=self.squares + other.squares
        )

    def __sub__(self, other: OutputMoments) -> OutputMoments:
        if self.count < other.count:
            return OutputMoments()
        return OutputMoments(
            count=self.count - other.count,
            total=self.total - other.total,
            squares=max(0.0, self.squares - other.squares),
        )

    def summary(self) -> dict[str, float]:
        """The mean, and the spread as a standard deviation."""
        mean = self.total / self.count if self.count else 0.0
        variance = self.squares / self.count - mean * mean if self.count else 0.0
        return {"mean": four_digits(mean), "spread": four_digits(math.sqrt(max(0.0, variance)))}


class OutputAgreement(Frozen):
    """Of one output of shadowed requests. The requests count alike, however many rows they have.

    `top1` sums, over `top1_pairs` requests, the share of rows in which both versions agree; `cosine` over
    `cosine_pairs` the mean cosine of their rows. `largest_difference` is of two values of one place, and a maximum:
    the difference of two figures has that of the later one.
    """

    rows: int = 0
    top1_pairs: int = 0
    top1: float = 0.0
    cosine_pairs: int = 0
    cosine: float = 0.0
    largest_difference: float = 0.0

    def __add__(self, other: OutputAgreement) -> OutputAgreement:
        return OutputAgreement(
            rows=self.rows + other.rows,
            top1_pairs=self.top1_pairs + other.top1_pairs,
            top1=self.top1 + other.top1,
            cosine_pairs=self.cosine_pairs + other.cosine_pairs,
            cosine=self.cosine + other.cosine,
            largest_difference=max(self.largest_difference, other.largest_difference),
        )

    def __sub__(self, other: OutputAgreement) -> OutputAgreement:
        if self.top1_pairs < other.top1_pairs or self.cosine_pairs < other.cosine_pairs:
            return OutputAgreement()
        return OutputAgreement(
            rows=max(0, self.rows - other.rows),
            top1_pairs=self.top1_pairs - other.top1_pairs,
            top1=max(0.0, self.top1 - other.top1),
            cosine_pairs=self.cosine_pairs - other.cosine_pairs,
            cosine=self.cosine - other.cosine,
            largest_difference=self.largest_difference,
        )

    def summary(self) -> dict[str, float]:
        """The agreement and the mean cosine where there are any, and the largest difference."""
        found = {"largest_difference": four_digits(self.largest_difference)}
        if self.top1_pairs:
            found["top1_agreement"] = four_digits(self.top1 / self.top1_pairs)
        if self.cosine_pairs:
            found["cosine"] = four_digits(self.cosine / self.cosine_pairs)
        return found


class _Figures(Protocol):
    def __add__(self: F, other: F, /) -> F: ...

    def __sub__(self: F, other: F, /) -> F: ...

    def summary(self) -> dict[str, float]: ...


F = TypeVar("F", bound=_Figures)


def summed_outputs(one: Mapping[str, F], other: Mapping[str, F]) -> dict[str, F]:
    return {**one, **{name: one[name] + more if name in one else more for name, more in other.items()}}


def subtracted_outputs(later: Mapping[str, F], earlier: Mapping[str, F]) -> dict[str, F]:
    return {name: now - earlier[name] if name in earlier else now for name, now in later.items()}


def output_summaries(outputs: Mapping[str, F]) -> dict[str, Any]:
    return {"outputs": {name: output.summary() for name, output in outputs.items()}} if outputs else {}


def ratio(part: float, whole: float) -> float:
    """To four digits; zero of nothing."""
    return four_digits(part / whole) if whole else 0.0


def four_digits(number: float) -> float:
    return float(f"{number:.4g}")
