"""Which LSTMs become oneDNN's, and that they compute what they did."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from aoti_serve.model.preparation.recipe import PACKED_LSTM_HIDDEN, PACKED_LSTM_INPUT
from aoti_serve.model.program.describe import describe
from aoti_serve.model.program.layers.lstms import pack_lstms
from tests.unit.model.program.layers.test_convolutions import Whole

# torch.export's own, of each nn.LSTM
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:The tensor attributes? self\..*_flat_weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
]

X = torch.randn(3, 5, 6)


def packed(module: nn.Module, x: torch.Tensor = X, batch: int | None = 0) -> dict[str, str]:
    """How each weight is packed; after a comparison of the program's answers with those before."""
    with torch.no_grad():
        shapes = None if batch is None else ({batch: Dim("batch", min=1, max=64)},)
        program = torch.export.export(module.eval(), (x,), dynamic_shapes=shapes)
        expected = program.module()(x)
        recipes = pack_lstms(program, describe(program))
        program.validate()  # type: ignore[no-untyped-call]
        tolerance = 1e-4 if x.dtype == torch.float32 else 0.02
        torch.testing.assert_close(program.module()(x), expected, rtol=tolerance, atol=tolerance)
    if recipes:
        assert "aten.lstm" not in program.graph_module.code
    return {recipe.source: recipe.by for recipe in recipes}


def of_names(module: nn.Module) -> dict[str, str]:
    kinds = {"weight_ih": PACKED_LSTM_INPUT, "weight_hh": PACKED_LSTM_HIDDEN}
    return {name: by for name, _ in module.named_parameters() for kind, by in kinds.items() if kind in name}


def all_of(self: Any, x: torch.Tensor) -> Any:
    return self.lstm(x)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_every_kind_is_packed(layers: int, biased: bool, both_ways: bool, batch_first: bool) -> None:
    lstm = nn.LSTM(6, 4, layers, bias=biased, batch_first=batch_first, bidirectional=both_ways)
    module = Whole(all_of, lstm=lstm)
    assert packed(module, batch=0 if batch_first else 1) == of_names(module)


def test_bfloat16_is_packed() -> None:
    module = Whole(all_of, lstm=nn.LSTM(6, 4, batch_first=True, dtype=torch.bfloat16))
    assert packed(module, X.bfloat16()) == of_names(module)


def test_states_may_be_given_and_answers_go_on() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        state = x[:, 0, :4].expand(2, -1, -1)
        steps, (hidden, _) = self.lstm(x, (state, torch.tanh(state)))
        return torch.relu(steps) + 1, hidden[-1], steps.add_(1)

    module = Whole(forward, lstm=nn.LSTM(6, 4, num_layers=2, batch_first=True))
    assert packed(module) == of_names(module)


def test_one_lstm_may_be_called_twice() -> None:
    module = Whole(lambda self, x: self.lstm(self.lstm(x)[0])[0], lstm=nn.LSTM(6, 6, batch_first=True))
    assert packed(module) == of_names(module)


def test_one_without_a_batch() -> None:
    module = Whole(all_of, lstm=nn.LSTM(6, 4))
    assert packed(module, X[0], batch=None) == of_names(module)


def with_weights(forward: Any, **changes: str) -> nn.Module:
    """An LSTM of two layers, some of whose weights are others of its own."""
    lstm = nn.LSTM(6, 6, num_layers=2, batch_first=True)
    for name, other in changes.items():
        setattr(lstm, name, getattr(lstm, other))
    return Whole(forward, lstm=lstm)


def test_a_weight_that_layers_share_is_packed_under_its_names() -> None:
    tied = packed(with_weights(all_of, weight_ih_l1="weight_ih_l0"))
    assert {by for name, by in tied.items() if "weight_ih" in name} == {PACKED_LSTM_INPUT}
    assert {by for name, by in tied.items() if "weight_hh" in name} == {PACKED_LSTM_HIDDEN}


@pytest.mark.parametrize(
    ("module", "plain"),
    [
        (with_weights(all_of, weight_hh_l0="weight_ih_l1"), {"weight_hh_l0", "weight_ih_l1"}),
        (with_weights(lambda self, x: self.lstm(x)[0] + self.lstm.weight_hh_l1.sum()), {"weight_hh_l1"}),
        (with_weights(lambda self, x: (self.lstm(x), self.lstm.weight_ih_l0)), {"weight_ih_l0"}),
    ],
    ids=["in-another-place", "read-elsewhere", "answer"],
)
def test_a_weight_that_others_read_stays_plain_and_the_rest_is_packed(module: nn.Module, plain: set[str]) -> None:
    assert packed(module).keys() == of_names(module).keys() - {f"lstm.{name}" for name in plain}


@pytest.mark.parametrize(
    "lstm",
    [
        pytest.param(nn.LSTM(6, 4, proj_size=2), id="projections"),
        pytest.param(nn.LSTM(6, 4, dtype=torch.float64), id="float64"),
        pytest.param(nn.GRU(6, 4), id="gru"),
        pytest.param(nn.RNN(6, 4), id="rnn"),
    ],
)
def test_others_stay_as_they_are(lstm: nn.Module) -> None:
    assert packed(Whole(all_of, lstm=lstm), X.to(next(lstm.parameters()).dtype), batch=1) == {}
