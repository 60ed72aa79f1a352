"""What torch says of a module that it cannot export, with what to do about it."""

from __future__ import annotations

import pytest

from aoti_serve.errors import ExportFailed
from aoti_serve.model.program.torch_errors import torch_message


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Could not guard on data-dependent expression Eq(u0, 1) (unhinted: Eq(u0, 1))", "torch.where or torch.cond"),
        ("Could not extract specialized integer from data-dependent expression u0", "your-model.md has ways"),
        ("Dim batch: 9 not in range [1, 8]", "The example has this size"),
    ],
)
def test_a_known_problem_comes_with_what_to_do(said: str, advice: str) -> None:
    def fail() -> None:
        raise RuntimeError(said)

    with pytest.raises(ExportFailed) as caught:
        torch_message("exporting", fail)
    assert said in str(caught.value)
    assert advice in str(caught.value)


def test_what_is_not_known_is_left_as_it_is() -> None:
    def fail() -> None:
        raise RuntimeError("something else")

    with pytest.raises(ExportFailed) as caught:
        torch_message("exporting", fail)
    assert str(caught.value).rstrip().endswith("something else")
