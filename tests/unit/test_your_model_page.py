"""The Python of docs/tutorial/your-model.md, as it stands there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aoti_serve.demo.digits import DigitsNet
from tests.pages import blocks_of

DIGITS, SIZES, STATE, SCRIPT = (
    block.text for block in blocks_of("docs/tutorial/your-model.md") if block.language == "python"
)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.embed(ids) * mask.unsqueeze(2)
        return found


class Scaled(nn.Module):
    """Takes any argument, as the page passes `...`."""

    def __init__(self, _: object) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@pytest.mark.parametrize("code", [DIGITS, SIZES])
def test_it_makes_what_torch_exports(code: str) -> None:
    module, inputs, shapes = run(code, DigitsNet=DigitsNet, Encoder=Encoder)["make_model"]()
    exported = torch.export.export(module, (), inputs, dynamic_shapes=shapes)
    other = {name: tensor[:1].repeat(5, *[1] * (tensor.dim() - 1)) for name, tensor in inputs.items()}
    torch.testing.assert_close(exported.module()(**other), module(**other))


def test_state_goes_out_and_comes_in_again() -> None:
    detector = run(STATE)["Detector"]()
    detector.features, detector.cell, detector.head = nn.Linear(512, 64), nn.LSTMCell(64, 64), nn.Linear(64, 1)
    state = {name: torch.zeros(3, 64) for name in ("h", "c")}
    exported = torch.export.export(detector, (), {"audio": torch.randn(3, 512), **state}).module()
    for _ in range(2):
        answer = exported(audio=torch.randn(3, 512), **state)
        assert answer.pop("speech").shape == (3, 1)
        state = answer


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_the_weights_of_a_script_are_those_of_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Scaled(...)
    with torch.no_grad():
        old.scale.fill_(3)
    torch.jit.save(torch.jit.script(old), tmp_path / "old.pt")
    monkeypatch.chdir(tmp_path)
    made = run(SCRIPT, TheClass=Scaled)
    assert made["module"].scale == 3
    assert "def forward" in made["script"].code


def run(code: str, **names: Any) -> dict[str, Any]:
    namespace = {"torch": torch, "nn": nn, **names}
    exec(compile(code, "your-model.md", "exec"), namespace)
    return namespace
