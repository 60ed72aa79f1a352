"""Scalars on the host beside tensors elsewhere; torch's `meta` device stands for a card, which nothing here needs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aoti_serve.model.program.exported import move_scalars, program_of

META = torch.device("meta")


class Scalars(nn.Module):
    """What forward() makes and `plain` meet tensors elsewhere; `apart` and `wide` only each other, on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = torch.tensor(2.0)
        self.apart = torch.tensor(5.0)
        self.wide = torch.tensor([1.0, 2.0])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * torch.tensor(3.0) + self.plain, self.wide * self.apart


@pytest.mark.parametrize(("device", "moved"), [("meta", {"lifted_tensor_0", "plain"}), ("cpu", set())])
def test_a_scalar_goes_where_all_that_computes_with_it_is(device: str, moved: set[str]) -> None:
    program = torch.export.export(Scalars().eval(), (torch.zeros(2, 3, device=device),))
    move_scalars(program, torch.device(device))
    assert set(program.constants) == {"lifted_tensor_0", "plain", "apart", "wide"}
    elsewhere = {name for name, value in program.constants.items() if value.device == META}
    assert elsewhere == moved
    tensors = {node.name: node.meta["val"].device for node in program.graph.nodes if node.name.startswith("detach_")}
    assert set(tensors.values()) == {torch.device(device)}


def test_a_program_whose_scalars_have_moved_computes_as_before() -> None:
    program = torch.export.export(Scalars().eval(), (torch.zeros(2, 3, device=META),))
    move_scalars(program, META)
    outputs = program.module()(torch.zeros(2, 3, device=META))
    assert [output.device.type for output in outputs] == ["meta", "cpu"]


class Difference(nn.Module):
    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return one - other


def test_one_tensor_may_be_the_example_of_two_inputs() -> None:
    """A mask of ones beside ids of ones: torch.export takes one tensor for one input, and drops the other."""
    x = torch.ones(2, 3)
    inputs = {"one": x, "other": x}
    program = program_of(Difference().eval(), inputs, None, forget_mutations=False, prepare=False, quantize=False)
    assert torch.equal(program.exported.module()(one=x, other=3 * x), -2 * x)
