"""Packages that compute in int8 from weights that come plain; everything else about them is in the other modules."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from aoti_serve.cli import app
from aoti_serve.errors import CannotQuantize, TooInaccurate, WrongTensorDtype
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from aoti_serve.model.preparation.recipe import INT8_LINEAR, PACKED_LINEAR
from aoti_serve.model.program.accuracy import Accuracy
from aoti_serve.weights.files.index import read_index
from tests.int8 import in_int8
from tests.package_cache import PackageCache

TAKES, WIDTH = 512, 384  # WIDTH x WIDTH is the least square that is computed in int8 by the rule
Weights = dict[str, torch.Tensor]
Layer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Mlp(nn.Module):
    """Layers that are computed in int8, one of them used twice, two of them tied, and a small one that stays plain."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.tied = nn.Linear(TAKES, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.tied.weight = self.second.weight
        self.small = nn.Linear(WIDTH, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = nn.functional.linear
        return answer_of(dict(self.named_parameters(remove_duplicate=False)), x, layer)


def answer_of(weights: Mapping[str, torch.Tensor], x: torch.Tensor, layer: Layer) -> torch.Tensor:
    def linear(name: str, given: torch.Tensor) -> torch.Tensor:
        return layer(given, weights[f"{name}.weight"], weights[f"{name}.bias"])

    hidden = torch.relu(linear("first", x))
    hidden = hidden + linear("second", torch.relu(linear("second", hidden))) + linear("tied", hidden)
    return nn.functional.linear(hidden, weights["small.weight"], weights["small.bias"])


def examples(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor]:
    return (torch.randn(4, TAKES, generator=torch.Generator().manual_seed(0)).to(dtype),)


def module_of(dtype: torch.dtype = torch.float32) -> Mlp:
    torch.manual_seed(0)
    return Mlp().to(dtype).eval()


@pytest.fixture(scope="module")
def package(package_cache: PackageCache) -> Package:
    shapes = ({0: torch.export.Dim("batch", min=0, max=64)},)

    def make(folder: Path) -> None:
        path = folder / "int8.pt2"
        export_package(module_of(), examples(), path, dynamic_shapes=shapes, quantize="int8")

    return Package.open(package_cache.entry("int8", make, Path(__file__)) / "int8.pt2")


@pytest.fixture
def container(package: Package) -> Iterator[Container]:
    with Container(package, num_runners=2) as made:
        yield made


def fresh(seed: int, dtype: torch.dtype = torch.float32) -> Weights:
    torch.manual_seed(seed)
    weights = {name: (torch.randn_like(value.float()) * 0.05).to(dtype) for name, value in Mlp().state_dict().items()}
    return weights | {"tied.weight": weights["second.weight"]}


def check(container: Container, weights: Weights, x: torch.Tensor) -> None:
    answer = container.run([x])["output"]
    torch.testing.assert_close(answer, answer_of(weights, x, in_int8), rtol=2e-3, atol=2e-3)
    if len(x):
        plain = answer_of(weights, x, nn.functional.linear)
        assert torch.cosine_similarity(answer.flatten(), plain.flatten(), 0) > 0.999
        assert not torch.allclose(answer, plain, rtol=2e-3, atol=2e-3)  # it is not plain after all


def commit(
    container: Container,
    weights: Weights,
    number: int | None = None,
    *,
    partial: bool = False,
    skip_acceptance: bool = False,
) -> None:
    container.stage(weights, number, partial=partial)
    container.try_staged(skip_acceptance=skip_acceptance)
    container.commit()


def test_a_trainer_goes_on_with_its_own_weights(package: Package) -> None:
    names = set(Mlp().state_dict())
    signature = package.signature
    assert {spec.name for spec in signature.constants} | set(signature.tied) == names
    assert {spec.dtype for spec in signature.constants} == {"float32"}
    assert {(recipe.source, recipe.by) for recipe in package.recipes if recipe.source != "small.weight"} == {
        (spec.name, INT8_LINEAR)
        for spec in signature.constants
        if spec.name in ("first.weight", "second.weight", "tied.weight")
    }
    assert load_file(package.path.with_suffix(".safetensors")).keys() == {spec.name for spec in signature.constants}


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 64])
def test_it_answers_with_integers_over_swaps_partial_swaps_and_rollbacks(container: Container, rows: int) -> None:
    x, versions = torch.randn(rows, TAKES), {number: fresh(number) for number in (1, 2, 3)}
    for number, weights in versions.items():
        commit(container, weights, number)
        check(container, weights, x)
    container.rollback()
    check(container, versions[2], x)
    change = {"first.weight": versions[1]["first.weight"], "small.bias": versions[1]["small.bias"]}
    commit(container, change, 4, partial=True)
    check(container, versions[2] | change, x)


def test_other_weights_than_the_plain_ones_are_refused(container: Container) -> None:
    weights = fresh(1)
    with pytest.raises(WrongTensorDtype):
        container.stage(weights | {"first.weight": weights["first.weight"].to(torch.int8)})


def test_a_rows_answer_does_not_depend_on_those_beside_it(container: Container) -> None:
    commit(container, fresh(1))
    x = torch.randn(7, TAKES)
    alone = [container.run([row[None]])["output"] for row in x]
    for rows in (x, x.repeat(5, 1), torch.cat([x, torch.full((1, TAKES), 1e20)])):
        torch.testing.assert_close(container.run([rows])["output"][:7], torch.cat(alone), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_does_not_become_a_number(container: Container, value: float) -> None:
    weights = fresh(1)
    commit(container, weights)
    x = torch.randn(4, TAKES)
    x[2, 3] = value
    answer = container.run([x])["output"]
    assert answer.isnan().all(1).tolist() == [False, False, True, False]
    weights["first.weight"] = weights["first.weight"].clone()
    weights["first.weight"][5, 7] = value
    commit(container, weights, skip_acceptance=True)
    assert container.run([torch.randn(4, TAKES)])["output"].isnan().all()


@pytest.mark.parametrize("cut", [1013, 1 << 16, 1 << 30])
def test_bytes_as_they_arrive_are_quantised_as_tensors_are(container: Container, tmp_path: Path, cut: int) -> None:
    weights, x = fresh(3), torch.randn(3, TAKES)
    commit(container, weights)
    expected = container.run([x])["output"]
    commit(container, fresh(4))
    path = tmp_path / "weights.safetensors"
    save_file({name: value for name, value in weights.items() if name != "tied.weight"}, path)
    content = np.fromfile(path, np.uint8)
    container.stage_bytes(read_index(path), (content[at : at + cut] for at in range(0, len(content), cut)))
    container.commit()
    assert torch.equal(container.run([x])["output"], expected)


def test_it_occupies_a_quarter_of_the_plain_weights(container: Container, package: Package) -> None:
    commit(container, fresh(1))
    container.release()
    assert container.nbytes < 0.3 * sum(spec.nbytes for spec in package.constants)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_variants_share_what_is_quantised(tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "aoti_serve.model.program.layers.int8_linears.int8_pays", lambda _, rows, columns: rows >= WIDTH
    )
    found: list[Accuracy] = []
    made = export_package(
        module_of(dtype),
        examples(dtype),
        tmp_path / "m.pt2",
        batch_sizes=(1, 8),
        quantize="int8",
        measured=found.append,
    )
    assert [accuracy.cosine > 0.999 for accuracy in found] == [True]
    assert [recipe.by for recipe in made.recipes][:2] == [INT8_LINEAR] * 2
    assert {recipe.source for recipe in made.recipes[2:]} <= {"small.weight"}
    with Container(made) as container:
        for seed in (1, 2):
            weights = fresh(seed, dtype)
            commit(container, weights)
            for rows in (1, 3, 8):
                x = torch.randn(rows, TAKES).to(dtype)
                step = 2e-3 if dtype == torch.float32 else 0.05
                expected = answer_of(weights, x, in_int8)
                torch.testing.assert_close(container.run([x])["output"], expected, rtol=step, atol=step)


def test_what_does_not_gain_by_int8_is_packed_as_before(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alone, self.read = nn.Linear(WIDTH, WIDTH), nn.Linear(1024, 1024)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.alone(x), self.read(y)

    module = Both().eval()
    inputs = (torch.randn(2, WIDTH), torch.randn(2, 1024))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoti_serve.model.program.layers.int8_linears.int8_pays", lambda _, rows, columns: rows == WIDTH)
        made = export_package(module, inputs, tmp_path / "both.pt2", quantize="int8")
    assert [(recipe.source, recipe.by) for recipe in made.recipes] == [
        ("alone.weight", INT8_LINEAR),
        ("read.weight", PACKED_LINEAR),
    ]


class Spiky(nn.Module):
    """A layer that integers do not describe: one column is a thousand times larger than all that matter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH, bias=False)
        with torch.no_grad():
            self.layer.weight[:, 0] = 1e3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layer(x)
        return answer


def test_a_package_that_is_too_inaccurate_leaves_nothing_behind(tmp_path: Path) -> None:
    x = torch.randn(4, WIDTH)
    x[:, 0] = 0  # nothing but what the integers have lost
    path, found = tmp_path / "spiky.pt2", list[Accuracy]()
    with pytest.raises(TooInaccurate, match=r"the least that is allowed is 0\.99 \(--min-cosine\)") as raised:
        export_package(Spiky().eval(), (x,), path, quantize="int8", measured=found.append)
    assert raised.value.facts["cosine"] == found[0].cosine < 0.5
    assert list(tmp_path.iterdir()) == []
    export_package(Spiky().eval(), (x,), path, quantize="int8", min_cosine=-1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["spiky.pt2", "spiky.safetensors"]


def test_a_kind_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotQuantize, match="'int4' is not known, only 'int8' is"):
        export_package(module_of(), examples(), tmp_path / "m.pt2", quantize="int4")


MAKE = """
import torch
from tests.integration.model.test_int8 import Spiky

def make():
    torch.manual_seed(0)
    module = Spiky().eval()
    return module, (torch.randn(4, 384),), None
"""


def test_the_command_line_tells_the_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spiky.py").write_text(MAKE)
    monkeypatch.chdir(tmp_path)
    command = ["package", "spiky:make", "--out", "s.pt2", "--quantize", "int8"]
    told = CliRunner().invoke(app, [*command, "--min-cosine", "0.9999999"])
    assert (told.exit_code, told.stdout) == (1, "")
    assert "allow less, or package the module without --quantize" in told.stderr
    assert not Path("s.pt2").exists()
    told = CliRunner().invoke(app, command)
    assert "against the module, on its example inputs: largest error " in told.stdout
    told = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(told.stdout)["accuracy"].keys() == {"largest", "mean", "cosine"}
    (prepared,) = json.loads(CliRunner().invoke(app, ["inspect", "s.pt2", "--json"]).stdout)["preparation"]
    assert prepared["by"] == INT8_LINEAR
    assert prepared["prepared_bytes"] < 0.3 * prepared["plain_bytes"]


OPENED = """
import sys
from aoti_serve.errors import UnfitForInt8
from aoti_serve.model.container import Container
try:
    Container(sys.argv[1])
except UnfitForInt8 as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "on this processor, as it does not without VNNI"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE", "on this processor, as it does not without VNNI"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", ""),
        ("ONEDNN_CACHE_CONTEXT_UNSAFE", "1", "the scales of weights that were swapped (is ONEDNN_CACHE_CONTEXT_UNSAFE"),
    ],
)
def test_where_it_would_answer_wrongly_it_is_refused(package: Package, name: str, value: str, words: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", OPENED, package.path],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert words in told.stdout
    assert bool(told.stdout) is bool(words)
