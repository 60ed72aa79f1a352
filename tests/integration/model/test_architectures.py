"""Round trips of real architectures: export, package, run in batches, swap, partial update, rollback; against eager.

Their linear layers are packed when they are staged, however small they are. oneDNN adds up in another order than BLAS
does: the tolerance is relative, and 1e-4 for float32.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion
from torch.utils import _pytree as pytree

from aoti_serve.errors import IndexOutOfRange, InvalidInput, InvalidWeights, UnsupportedModule
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from tests.integration.architectures import ALL_DTYPES, ARCHITECTURES, Architecture, name_of, values
from tests.integration.models import small_layers_packed
from tests.package_cache import ROOT, PackageCache

# torch.export's own, of each nn.GRU
pytestmark = pytest.mark.filterwarnings(r"ignore:The tensor attributes? self\.gru\._flat_weights:UserWarning")

Weights = dict[str, torch.Tensor]
Made = Callable[[str], tuple[nn.Module, Package]]
Opened = Callable[[str], tuple[nn.Module, Container]]
OPERATOR_CHILD = """
import sys, torch
from aoti_serve.errors import MissingOperators
from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
try:
    Container(Package.open(sys.argv[1]))
except MissingOperators as error:
    print(error)
with Container(Package.open(sys.argv[1], operators=("architectures_ops",))) as container:
    weights = torch.load(sys.argv[2])
    container.stage(weights["weights"])
    container.commit()
    torch.testing.assert_close(container(weights["x"]), weights["y"])
"""


@pytest.fixture(scope="session")
def made(package_cache: PackageCache) -> Made:
    """A module by the name of its architecture, and its package; compiled once."""
    done: dict[str, tuple[nn.Module, Package]] = {}
    sources = [Path(__file__), *(ROOT / "tests" / "integration").glob("architectures*.py")]

    def make(name: str) -> tuple[nn.Module, Package]:
        if name not in done:
            torch.manual_seed(0)
            of = ARCHITECTURES[name]
            module = of.make().eval()

            def compile_to(folder: Path) -> None:
                with small_layers_packed():
                    export_package(module, of.example, folder / "model.pt2", dynamic_shapes=of.shapes)

            folder = package_cache.entry(name, compile_to, *sources)
            done[name] = module, Package.open(folder / "model.pt2", operators=of.operators)
        return done[name]

    return make


@pytest.fixture
def opened(made: Made) -> Iterator[Opened]:
    """A module of its own by the name of its architecture, and a container with the module's weights as version 1."""
    containers = []

    def open_(name: str) -> tuple[nn.Module, Container]:
        try:
            module, package = made(name)
        except UnsupportedModule as error:
            if name == "gru" and TorchVersion(torch.__version__) >= "2.15":
                pytest.skip(f"torch 2.15 fixes the batch of a GRU, which is refused: {error}")
            raise
        container = Container(package, num_runners=2)
        containers.append(container)
        container.stage(module.state_dict())
        container.commit()
        return copy.deepcopy(module), container

    yield open_
    for container in containers:
        container.close()


def trained(start: nn.Module, example: Any) -> nn.Module:
    """The module after a few optimizer steps; buffers that no forward pass changes get new values, too."""
    module = copy.deepcopy(start)
    args, kwargs = (example, {}) if isinstance(example, tuple) else ((), example)
    before = copy.deepcopy(module.state_dict())
    if parameters := list(module.train().parameters()):
        optimizer = torch.optim.SGD(parameters, lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            outputs = pytree.tree_leaves(module(*args, **kwargs))
            floats = [out.float() for out in outputs if isinstance(out, torch.Tensor) and out.requires_grad]
            sum((out**2).mean() + out.mean() for out in floats).backward()  # type: ignore[union-attr]
            optimizer.step()
    module.eval()
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name in before and torch.equal(before[name].float(), buffer.float()):
                buffer.copy_(values(buffer.dtype, *buffer.shape))
    return module


def compared(container: Container, module: nn.Module, of: Architecture) -> list[Any]:
    """The answers to all calls, after a comparison of each with eager's: the same nesting, dtypes, shapes, values."""
    answers = []
    for args, kwargs in of.calls:
        with torch.no_grad():
            eager = module(*args, **kwargs)
        answer = container(*args, **kwargs)
        assert pytree.tree_structure(answer) == pytree.tree_structure(eager)
        torch.testing.assert_close(answer, eager, rtol=of.tolerance, atol=of.tolerance, equal_nan=True)
        answers.append(copy.deepcopy(answer))
    return answers


def bits(answers: Any) -> list[Any]:
    leaves = pytree.tree_leaves(answers)
    return [
        leaf.contiguous().reshape(-1).view(torch.uint8).tolist() if isinstance(leaf, torch.Tensor) else leaf
        for leaf in leaves
    ]


def untied(module: nn.Module) -> Weights:
    """A copy of the state, without further names of a tensor: changing one half of a pair is changing both."""
    state = module.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(state.items())}
    return {name: tensor.detach().clone() for name, tensor in state.items() if first[id(tensor)] == name}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_round_trip_agrees_with_eager(opened: Opened, name: str) -> None:
    of = ARCHITECTURES[name]
    first, container = opened(name)
    one = compared(container, first, of)

    second = trained(first, of.example)
    container.stage(second.state_dict())
    assert bits(compared(container, first, of)) == bits(one)
    container.commit()
    two = compared(container, second, of)
    assert bits(two) != bits(one)

    third = trained(second, of.example)
    change = untied(third)
    change = {name: change[name] for name in list(change)[-1::-2]}
    third.load_state_dict(untied(second) | change, strict=False)
    container.stage(change, partial=True)
    container.commit()
    three = compared(container, third, of)
    assert (container.version, container.previous) == (3, 2)
    assert bits(three) != bits(two)

    container.rollback()
    assert bits(compared(container, second, of)) == bits(two)
    container.release()
    assert bits(compared(container, second, of)) == bits(two)
    container.stage(change, partial=True)
    for tensor in change.values():
        tensor.zero_()  # the trainer's own, and no longer the container's
    container.commit()
    assert bits(compared(container, third, of)) == bits(three)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_that_were_given_outlive_swaps_and_the_container(opened: Opened, name: str) -> None:
    of = ARCHITECTURES[name]
    module, container = opened(name)
    args, kwargs = of.calls[-1]
    answer = container(*args, **kwargs)
    before = bits(answer)
    for _ in range(2):
        container.stage(trained(module, of.example).state_dict())
        container.commit()
    container.close()
    assert bits(answer) == before


NAMES = {
    "cnn": (["image"], ["output"], [["INPUT__0"], ["ARGS[0]"]]),
    "transformer": (
        ["ids", "padding"],
        ["logits", "tokens"],
        [["ARGS[0]", "ARGS[1]"], ["INPUT__0", "padding"], ["ids", "INPUT__1"]],
    ),
    "gru": (["series"], ["output_0", "output_1"], [["ARGS[0]"]]),
    "two_tower": (
        ["user.id", "user.facts", "item.id", "item.more.tags"],
        ["score", "towers.0", "towers.1"],
        [
            [
                "KWARGS['user']['id']",
                "KWARGS['user']['facts']",
                "KWARGS['item']['id']",
                "KWARGS['item']['more']['tags']",
            ],
            ["KWARGS[user][id]", "INPUT__1", 'KWARGS["item"]["id"]', "item.more.tags"],
        ],
    ),
    "forms": (
        ["first", "pair.0", "pair.1.0", "scale", "options.bias"],
        ["rows", "count", "pair.0", "pair.1.0"],
        [["KWARGS['first']", "KWARGS['pair'][0]", "KWARGS['pair'][1][0]", "INPUT__3", "KWARGS['options']['bias']"]],
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_outputs_have_stable_names_and_tritons_are_understood(opened: Opened, name: str) -> None:
    inputs, outputs, aliases = NAMES[name]
    _, container = opened(name)
    signature = container.signature
    assert [spec.name for spec in signature.inputs] == inputs
    assert {spec.name for spec in signature.outputs} == set(outputs) - {"count"}
    args, kwargs = ARCHITECTURES[name].calls[-1]
    assert signature.takes is not None
    question = signature.takes.flattened(args, kwargs)
    answer = container.run(question)
    assert list(answer) == [spec.name for spec in signature.outputs]
    for names in aliases:
        asked = container.run({alias: question[own] for alias, own in zip(names, inputs, strict=True)})
        assert bits(asked) == bits(answer)
    for index, spec in enumerate(signature.outputs):
        assert signature.output_named(f"OUTPUT__{index}") == spec.name
    assert signature.gives is not None
    assert {signature.output_named(path) for path in signature.gives.paths.values()} == set(answer)


def test_results_are_nested_as_the_module_nests_them(opened: Opened) -> None:
    _, container = opened("forms")
    args, kwargs = ARCHITECTURES["forms"].calls[1]
    answer = container(*args, **kwargs)
    assert answer["nothing"] is None
    assert answer["count"] == 3
    assert isinstance(answer["pair"], tuple)
    assert answer["pair"][0].shape == ()
    assert answer["pair"][1][1] is None
    backwards = dict(reversed(kwargs.items()))
    assert bits(container(**backwards)) == bits(answer)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda call: call | {"pair": list(call["pair"])}, id="a list for a tuple"),
        pytest.param(lambda call: call | {"nothing": torch.zeros(2)}, id="a tensor for None"),
        pytest.param(lambda call: call | {"scale": 0.5}, id="a number for a tensor"),
        pytest.param(lambda call: call | {"scale": None}, id="None for a tensor"),
        pytest.param(lambda call: call | {"options": {"bias": call["options"]["bias"]}}, id="a key too few"),
        pytest.param(lambda call: call | {"more": torch.zeros(2)}, id="an argument too many"),
        pytest.param(lambda call: {name: call[name] for name in list(call)[1:]}, id="an argument too few"),
    ],
)
def test_arguments_that_are_nested_in_another_way_are_refused(opened: Opened, change: Any) -> None:
    container = opened("forms")[1]
    call = ARCHITECTURES["forms"].calls[1][1]
    before = bits(container(**call))
    with pytest.raises(InvalidInput):
        container(**change(call))
    assert bits(container(**call)) == before


def test_every_dtype_is_held_to(opened: Opened) -> None:
    _, container = opened("dtypes")
    (inputs,), _ = ARCHITECTURES["dtypes"].calls[1]
    before = bits(container(inputs))
    state = untied(opened("dtypes")[0])
    for dtype, other in zip(ALL_DTYPES, [*ALL_DTYPES[1:], ALL_DTYPES[0]], strict=True):
        name = name_of(dtype)
        with pytest.raises(InvalidInput, match=f"{name}'"):
            container(inputs | {name: values(other, 2, 3)})
        with pytest.raises(InvalidWeights, match=f"'kept_{name}'"):
            container.stage(state | {f"kept_{name}": values(other, 3)})
    assert bits(container(inputs)) == before


def test_bad_ids_are_refused_by_the_name_of_the_input_and_the_table(opened: Opened) -> None:
    _, container = opened("two_tower")
    call = ARCHITECTURES["two_tower"].calls[2][1]
    before = bits(container(**call))
    for bad in (20, -1, 2**62):
        tags = call["item"]["more"]["tags"].clone()
        tags[3, 1] = bad
        with pytest.raises(IndexOutOfRange, match=r"'item\.more\.tags'.*'tags\.weight'"):
            container(user=call["user"], item={"id": call["item"]["id"], "more": {"tags": tags}})
    assert bits(container(**call)) == before


@pytest.mark.parametrize(
    ("name", "shapes", "says"),
    [
        pytest.param("pairs", ((65, 5), (1, 5)), "'one'", id="above its range"),
        pytest.param("pairs", ((1, 5), (65, 5)), "'other'", id="the other above its range"),
        pytest.param("whole", ((4, 5), ()), "'matrix'", id="fixed"),
        pytest.param("whole", ((4, 4), (1,)), "'power'", id="a vector for a scalar"),
        pytest.param("passing", ((2, 4), (3,), (2, 2, 3)), "'unused'", id="unequal in what is not used"),
        pytest.param("cnn", ((0, 3, 16, 16),), "'image'", id="empty though from 1"),
        pytest.param("transformer", ((2, 13), (2, 13)), "'ids'", id="too long"),
        pytest.param("transformer", ((2, 6), (2, 5)), "'padding'", id="unequal lengths"),
    ],
)
def test_shapes_outside_their_ranges_are_refused(opened: Opened, name: str, shapes: Any, says: str) -> None:
    _, container = opened(name)
    dtypes = [spec.dtype for spec in container.signature.inputs]
    inputs = [torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in zip(shapes, dtypes, strict=True)]
    with pytest.raises(InvalidInput, match=says):
        container.run(inputs)


def test_custom_operators_are_imported_by_name(made: Made, tmp_path: Path) -> None:
    """In a process that knows nothing of them: refused by name, then, with their module, answered."""
    module, package = made("custom")
    x = torch.randn(3, 6)
    torch.save({"weights": module.state_dict(), "x": x, "y": module(x).detach()}, tmp_path / "weights.pt")
    command = [sys.executable, "-c", OPERATOR_CHILD, str(package.path), str(tmp_path / "weights.pt")]
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert "aoti_serve_tests::swish" in done.stdout


def test_runs_of_a_custom_operator_from_several_threads_agree(opened: Opened) -> None:
    _, container = opened("custom")
    (x,), _ = ARCHITECTURES["custom"].calls[2]
    before = bits(container(x))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(container, [x] * 64))
    assert all(bits(answer) == before for answer in answers)
