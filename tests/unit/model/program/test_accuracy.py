"""Answers compared, output by output."""

from __future__ import annotations

import math

import pytest
import torch

from aoti_serve.errors import TooInaccurate
from aoti_serve.model.program.accuracy import Accuracy, compared

EXACT = Accuracy(0.0, 0.0, 1.0)


def test_equal_answers_are_exact_also_zeros_and_none_at_all() -> None:
    assert compared([torch.ones(2, 3)], [torch.ones(2, 3)]) == EXACT
    assert compared([torch.zeros(2)], [torch.zeros(2)]) == EXACT
    assert compared([], []) == EXACT
    assert compared([torch.zeros(0, 3)], [torch.zeros(0, 3)]) == EXACT


def test_errors_are_of_all_outputs_the_cosine_of_the_worst() -> None:
    expected = [torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])]
    given = [torch.tensor([1.0, 1.0]), torch.tensor([3.0, 4.0])]
    assert compared(expected, given) == pytest.approx(Accuracy(1.0, 0.25, math.sqrt(0.5)))


def test_an_answer_of_zeros_has_nothing_of_one_that_is_none() -> None:
    assert compared([torch.ones(2)], [torch.zeros(2)]) == Accuracy(1.0, 1.0, 0.0)


def test_what_is_finite_in_neither_answer_is_passed_over() -> None:
    masked = torch.tensor([1.0, -math.inf, math.nan])
    assert compared([masked], [masked]) == EXACT


@pytest.mark.parametrize("found", [math.nan, math.inf])
@pytest.mark.parametrize("turned", [False, True])
def test_what_is_finite_in_one_answer_only_is_accurate_at_no_limit(found: float, turned: bool) -> None:
    pair = [torch.tensor([1.0, 2.0])], [torch.tensor([1.0, found])]
    accuracy = compared(*(reversed(pair) if turned else pair))
    with pytest.raises(TooInaccurate):
        accuracy.check("int8", -1.0)


def test_an_answer_in_half_precision_is_compared_as_it_is() -> None:
    assert compared([torch.ones(2, dtype=torch.bfloat16)], [torch.ones(2, dtype=torch.bfloat16)]) == EXACT


def test_the_limit_is_the_least_that_is_allowed() -> None:
    accuracy = Accuracy(0.5, 0.25, 0.98)
    accuracy.check("int8", 0.98)
    with pytest.raises(
        TooInaccurate, match=r"a cosine of 0\.98 .* allowed is 0\.99 \(--min-cosine\); .* error is 0\.5"
    ):
        accuracy.check("int8", 0.99)
