"""Packages whose weights are prepared when they are staged; everything else about them is in the other modules."""

from __future__ import annotations

import json
import re
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aoti_serve.cli.packages import inspect
from aoti_serve.errors import IncompatiblePackage
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import PREPARATION_KEY, Package
from aoti_serve.model.preparation.recipe import COLUMN_MAJOR, PACKED_LINEAR
from tests.integration.models import small_layers_packed
from tests.package_cache import PackageCache

WIDTH = 768  # the least square that is packed by the rule


class Mlp(nn.Module):
    """Two layers that are packed, one of them used twice, and a small one that is turned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.small = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.gelu(self.first(x))
        hidden = hidden + self.second(torch.tanh(self.second(hidden)))
        answer: torch.Tensor = self.small(hidden)
        return answer


@pytest.fixture(scope="module")
def mlp(package_cache: PackageCache) -> tuple[Mlp, Package, Package]:
    """The module, and its package with weights that are prepared, and with plain ones."""
    torch.manual_seed(0)
    module = Mlp().eval()
    shapes = {"x": {0: torch.export.Dim("batch", min=0, max=64)}}

    def make(folder: Path) -> None:
        for name, prepare in (("prepared", True), ("plain", False)):
            path = folder / f"{name}.pt2"
            export_package(module, (torch.randn(4, WIDTH),), path, dynamic_shapes=shapes, prepare=prepare)

    folder = package_cache.entry("prepared", make, Path(__file__))
    return module, Package.open(folder / "prepared.pt2"), Package.open(folder / "plain.pt2")


def fresh(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(value) * 0.05 for name, value in module.state_dict().items()}


def eager(module: nn.Module, weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = torch.func.functional_call(module, weights, (x,))
    return answer


def test_the_package_says_what_is_prepared(mlp: tuple[Mlp, Package, Package]) -> None:
    _, package, plain = mlp
    assert {recipe.source: recipe.by for recipe in package.recipes} == {
        "first.weight": PACKED_LINEAR,
        "second.weight": PACKED_LINEAR,
        "small.weight": COLUMN_MAJOR,
    }
    assert plain.recipes == ()
    assert package.signature == plain.signature


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 64])
def test_it_answers_as_eager_does_over_swaps_and_rollbacks(mlp: tuple[Mlp, Package, Package], rows: int) -> None:
    module, package, _ = mlp
    x, versions = torch.randn(rows, WIDTH), {number: fresh(module) for number in (1, 2, 3)}
    with Container(package, num_runners=2) as container:

        def check(number: int) -> None:
            answer = container.run([x])["output"]
            torch.testing.assert_close(answer, eager(module, versions[number], x), rtol=1e-4, atol=1e-4)

        for number, weights in versions.items():
            container.stage(weights, number)
            container.try_staged()
            container.commit()
            check(number)
        container.rollback()
        check(2)
        change = {"first.weight": versions[1]["first.weight"], "small.bias": versions[1]["small.bias"]}
        versions[4] = versions[2] | change
        container.stage(change, 4, partial=True)
        check(2)
        container.commit()
        check(4)
        container.stage({"small.bias": versions[2]["small.bias"]}, 5, partial=True)
        container.commit()
        versions[5] = versions[4] | {"small.bias": versions[2]["small.bias"]}
        check(5)


class Behind(nn.Module):
    """A layer with each of what the compiler makes part of it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16, dtype=dtype) for _ in range(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        relu, gelu, tanh_gelu, silu, tanh, sigmoid, first, second = self.layers
        x = nn.functional.gelu(gelu(torch.relu(relu(x))))
        x = nn.functional.silu(silu(nn.functional.gelu(tanh_gelu(x), approximate="tanh")))
        x = torch.sigmoid(sigmoid(torch.tanh(tanh(x))))
        x = x + first(x)
        answer: torch.Tensor = second(x) + x
        return answer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_and_sums_are_computed_with_their_layers(dtype: torch.dtype, tmp_path: Path) -> None:
    module, x = Behind(dtype).eval(), torch.randn(3, 16, dtype=dtype)
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    with small_layers_packed():
        package = export_package(module, (x,), tmp_path / "behind.pt2", dynamic_shapes=shapes)
    (code,) = package.extract().glob("*wrapper.cpp")
    calls = re.findall(r'linear_pointwise(?:_binary)?\([^;]*?"(\w+)"', code.read_text())
    assert calls == ["relu", "gelu", "gelu", "swish", "tanh", "sigmoid", "add", "add"]
    with Container(package) as container:
        container.stage(module.state_dict())
        container.commit()
        tolerance = 1e-4 if dtype == torch.float32 else 0.05
        answer = container.run([x])["output"]
        torch.testing.assert_close(answer, eager(module, module.state_dict(), x), rtol=tolerance, atol=tolerance)


def test_it_occupies_what_the_processor_wants(mlp: tuple[Mlp, Package, Package]) -> None:
    _, package, plain = mlp
    weights = load_file(package.path.with_suffix(".safetensors"))
    with Container(package) as container, Container(plain) as other:
        for each in (container, other):
            each.stage(weights)
        assert container.nbytes >= other.nbytes
        for each in (container, other):
            each.commit()
            each.release()
            each.close()
        assert container.nbytes == other.nbytes == 0


def test_answers_do_not_change_while_the_next_version_is_prepared(mlp: tuple[Mlp, Package, Package]) -> None:
    module, package, _ = mlp
    x, one = torch.randn(3, WIDTH), fresh(module)
    with Container(package, num_runners=2) as container:
        container.stage(one)
        container.commit()
        expected = container.run([x])["output"]

        def stage_often() -> None:
            for _ in range(20):
                container.stage(fresh(module))

        staging = threading.Thread(target=stage_often)
        staging.start()
        while staging.is_alive():
            assert torch.equal(container.run([x])["output"], expected)
        staging.join()


def test_bfloat16_is_packed_with_its_sums_and_activations(tmp_path: Path) -> None:
    module = Mlp().to(torch.bfloat16).eval()
    x = torch.randn(4, WIDTH, dtype=torch.bfloat16)
    package = export_package(module, (x,), tmp_path / "half.pt2", batch_sizes=(1, 4))
    assert {recipe.source for recipe in package.recipes} == {"first.weight", "second.weight"}
    with Container(package) as container:
        for _ in range(2):
            weights = fresh(module)
            container.stage(weights)
            container.commit()
            for rows in (1, 3, 4):
                answer = container.run([x[:rows]])["output"]
                torch.testing.assert_close(answer, eager(module, weights, x[:rows]), rtol=0.05, atol=0.05)


def renamed(package: Package, path: Path, name: str) -> Path:
    """A copy of the package with other recipes."""
    with zipfile.ZipFile(package.path) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("wrapper_metadata.json"):
                metadata = json.loads(content)
                metadata[PREPARATION_KEY] = metadata[PREPARATION_KEY].replace(PACKED_LINEAR, name)
                content = json.dumps(metadata).encode()
            new.writestr(entry, content)
    return path


def test_a_preparation_that_this_version_does_not_have_is_refused(
    mlp: tuple[Mlp, Package, Package], tmp_path: Path
) -> None:
    path = renamed(mlp[1], tmp_path / "later.pt2", "of_the_future")
    with pytest.raises(IncompatiblePackage, match=r"prepares 'first\.weight' by 'of_the_future'; this version knows"):
        Container(Package.open(path))


def test_inspect_shows_what_is_prepared_how_and_in_how_many_bytes(
    mlp: tuple[Mlp, Package, Package], capsys: pytest.CaptureFixture[str]
) -> None:
    inspect(mlp[1].path, None, as_json=True)
    told = json.loads(capsys.readouterr().out)["preparation"]
    size = WIDTH * WIDTH * 4
    assert [(each["constant"], each["by"], each["plain_bytes"]) for each in told] == [
        ("first.weight", PACKED_LINEAR, size),
        ("second.weight", PACKED_LINEAR, size),
        ("small.weight", COLUMN_MAJOR, 8 * WIDTH * 4),
    ]
    assert all(each["prepared_bytes"] >= each["plain_bytes"] for each in told)
    inspect(mlp[1].path, None, as_json=False)
    assert "prepared when staged: 3 constants" in capsys.readouterr().out
