from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import package_pt2

from aoti_serve.config import DeclaredSignature, ModelConfig, WeightsLimits
from aoti_serve.errors import (
    ConstantIsBaked,
    IncompatiblePackage,
    InvalidInput,
    TiedTensorsDiffer,
    UnknownOrBakedTensor,
    UnknownSignature,
    UnreadablePackage,
    WeightsMissing,
)
from aoti_serve.model.container import Container
from aoti_serve.model.foreign.built_in import write_built_in
from aoti_serve.model.foreign.generated import fixed_threads
from aoti_serve.model.package import Package
from aoti_serve.signature.tensors import Dim
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN

LIFTED = {"_tensor_constant0", "_tensor_constant1"}


class Foreign(nn.Module):
    """What plain torch does with constants: inlined, tied, carried, lifted, unused; and an output that is None."""

    offset: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 16)
        self.last = nn.Linear(16, 10, bias=False)
        self.last.weight = self.table.weight
        self.norm = nn.BatchNorm1d(16)
        self.bias = nn.Parameter(torch.randn(4))
        self.register_buffer("offset", torch.randn(16, 2), persistent=False)
        self.scale = torch.randn(2, 4)

    def forward(self, x: torch.Tensor, *, user: dict[str, torch.Tensor]) -> dict[str, Any]:
        hidden = self.norm(x) + user["age"] @ self.offset.t()
        total = self.scale.sum() * torch.tensor([[1.0, 2.0]]).sum()
        return {"y": self.last(hidden), "nothing": None, "z": [hidden.sum(-1, keepdim=True) + self.bias + total]}


class Pair(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * y, (x + y).exp()


DECLARED = DeclaredSignature.model_validate(
    {
        "inputs": [
            {"name": "x", "dtype": "float32", "shape": ["batch=1..64", 16]},
            {"name": "age", "dtype": "float32", "shape": ["batch=1..64", 2]},
        ],
        "outputs": [
            {"name": "y", "dtype": "float32", "shape": ["batch", 10]},
            {"name": "z", "dtype": "float32", "shape": ["batch", 4]},
        ],
        "carried": ["offset"],
        "unused": ["norm.num_batches_tracked", "table.weight"],
    }
)
APART = DECLARED.model_copy(update={"carried": ()})


class Elsewhere:
    """`Foreign`, exported and compiled by plain torch."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        batch = torch.export.Dim("batch", min=1, max=64)
        shapes = {"x": {0: batch}, "user": {"age": {0: batch}}}
        self.module = Foreign().eval()
        self.x, self.age = torch.randn(4, 16), torch.randn(4, 2)
        self.kwargs = {"user": {"age": self.age}}
        self.program = torch.export.export(self.module, (self.x,), self.kwargs, dynamic_shapes=shapes)
        self.folder = folder
        self.files = compiled(self.program)
        self.plain = self.package("plain", aoti_files=[*self.files])
        self.with_program = self.package("program", aoti_files=[*self.files], exported_programs=self.program)

    def package(self, name: str, **content: Any) -> Path:
        return Path(str(package_pt2(str(self.folder / f"{name}.pt2"), **content)))

    def weights(self, by: float = 0.0) -> dict[str, torch.Tensor]:
        """A trainer's weights, changed wherever that is possible."""
        fixed = {"bias", "norm.num_batches_tracked", "norm.running_var"}
        state = self.module.state_dict()
        return {name: tensor if name in fixed else tensor + by for name, tensor in state.items()}

    def eager(self, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
        call = torch.func.functional_call
        answer: dict[str, Any] = call(self.module, weights, (self.x,), self.kwargs, tie_weights=False)
        return answer

    def check(self, container: Container, weights: dict[str, torch.Tensor]) -> None:
        """Compare with eager, through the call spec and by name."""
        want, got = self.eager(weights), container(self.x, **self.kwargs)
        torch.testing.assert_close(got, want)
        named = container.run([self.x, self.age])
        assert torch.equal(named[container.signature.outputs[0].name], got["y"])


def compiled(program: ExportedProgram, **options: Any) -> list[str]:
    args, kwargs = program.example_inputs
    options = {"aot_inductor.package": True} | {name.replace("__", "."): value for name, value in options.items()}
    files: Any = torch._inductor.aot_compile(program.module(check_guards=False), args, kwargs, options=options)
    return [str(file) for file in files]


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="session")
def apart(foreign: Elsewhere) -> Path:
    return foreign.package("apart", aoti_files=compiled(foreign.program, aot_inductor__package_constants_in_so=False))


@pytest.fixture(scope="session")
def folding(foreign: Elsewhere) -> Path:
    files = compiled(foreign.program, aot_inductor__use_runtime_constant_folding=True)
    return foreign.package("folding", aoti_files=files)


@pytest.fixture(scope="session")
def threaded(foreign: Elsewhere) -> Path:
    """Compiled for 7 threads; without any constants."""
    program = torch.export.export(Pair(), (torch.ones(4, 8), torch.ones(4, 8)))
    path = str(foreign.folder / "threaded.pt2")
    configs = {"cpp.threads": 7, "cpp.min_chunk_size": 1}
    return Path(str(torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=configs)))


def rewritten(path: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of the archive with other members; None leaves one out."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            content = change(entry.filename, source.read(entry))
            if content is not None:
                copy.writestr(entry, content)
    return target


# Signatures


def test_an_exported_program_in_the_archive_tells_the_signature(foreign: Elsewhere) -> None:
    signature = Package.open(foreign.with_program).signature
    assert [spec.name for spec in signature.inputs] == ["x", "user.age"]
    assert signature.inputs[1].shape == (Dim(symbol="batch", min=1, max=64), 2)
    assert [spec.name for spec in signature.outputs] == ["y", "z.0"]
    assert signature.unused == ("norm.num_batches_tracked",)
    assert [spec.name for spec in signature.baked] == ["bias"]
    assert len(signature.tied) == 1
    carried = {spec.name for spec in signature.constants if spec.carried}
    assert carried == LIFTED | {"offset"}


def test_a_program_that_cannot_be_read_is_said(foreign: Elsewhere, tmp_path: Path) -> None:
    def spoil(name: str, content: bytes) -> bytes:
        return b"{}" if name.endswith("models/model.json") else content

    with pytest.raises(UnreadablePackage, match="exported program"):
        Package.open(rewritten(foreign.with_program, tmp_path / "spoilt.pt2", spoil)).signature  # noqa: B018


def test_a_declared_signature_names_what_the_code_nests(foreign: Elsewhere) -> None:
    signature = Package.open(foreign.plain, signature=DECLARED).signature
    assert signature.takes is not None
    assert signature.takes.paths == {"x": "ARGS[0]", "age": "KWARGS['user']['age']"}
    assert signature.gives is not None
    assert signature.gives.leaves == ("y", None, "z")
    assert {spec.name for spec in signature.constants if spec.carried} == LIFTED | {"offset"}


def unknown(path: Path) -> Any:
    """The lines that the refusal tells to add, parsed."""
    with pytest.raises(UnknownSignature) as refused:
        Package.open(path).signature  # noqa: B018
    lines = str(refused.value.facts["snippet"])
    assert lines in str(refused.value)
    return yaml.safe_load(lines)


def test_without_either_the_lines_to_declare_it_are_given(foreign: Elsewhere) -> None:
    lines = unknown(foreign.plain)
    assert lines["signature"]["inputs"] == [
        {"name": "input_0", "dtype": "float32", "shape": ["batch=1..64", 16]},
        {"name": "user.age", "dtype": "float32", "shape": ["batch=1..64", 2]},
    ]
    assert [entry["name"] for entry in lines["signature"]["outputs"]] == ["y", "z.0"]


def test_the_given_lines_are_refused_until_filled_in_and_then_serve(foreign: Elsewhere) -> None:
    config = {"name": "foreign", "package": str(foreign.plain), **unknown(foreign.plain)}
    with pytest.raises(ValidationError, match=r"'\?' is none of"):
        ModelConfig.model_validate(config)
    for entry, width in zip(config["signature"]["outputs"], (10, 4), strict=True):
        entry |= {"dtype": "float32", "shape": ["batch", width]}
    config["signature"] |= {"unused": ["table.weight"]}  # buffers may be left out, the norm's counter is known
    declared = ModelConfig.model_validate(config).signature
    with Container(Package.open(foreign.plain, signature=declared)) as container:
        foreign.check(container, foreign.weights())


def test_arguments_without_names_are_numbered(threaded: Path) -> None:
    signature = unknown(threaded)["signature"]
    assert [(entry["name"], entry["shape"]) for entry in signature["inputs"]] == [
        ("input_0", [4, 8]),
        ("input_1", [4, 8]),
    ]
    assert [entry["name"] for entry in signature["outputs"]] == ["output_0", "output_1"]


def test_a_call_spec_that_is_not_known_here_numbers_all(foreign: Elsewhere, tmp_path: Path) -> None:
    def own_container(name: str, content: bytes) -> bytes:
        return content.replace(b"builtins.dict", b"theirs.Dict") if name.endswith("wrapper.cpp") else content

    path = rewritten(foreign.plain, tmp_path / "own.pt2", own_container)
    signature = unknown(path)["signature"]
    assert [entry["name"] for entry in signature["inputs"]] == ["input_0", "input_1"]
    assert [entry["name"] for entry in signature["outputs"]] == ["output_0", "output_2"]
    with Container(Package.open(path, signature=DECLARED)) as container:
        assert list(container.run([foreign.x, foreign.age])) == ["y", "z"]
        with pytest.raises(InvalidInput, match="by name"):
            container(foreign.x, **foreign.kwargs)


def declared(**changes: Any) -> DeclaredSignature:
    return DeclaredSignature.model_validate(DECLARED.model_dump() | changes)


def inputs(x: list[Any], age: list[Any], dtype: str = "float32") -> list[Any]:
    return [{"name": "x", "dtype": dtype, "shape": x}, {"name": "age", "dtype": "float32", "shape": age}]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"inputs": DECLARED.inputs[:1]}, "1 input and 2 outputs, its code 2 and 2", id="inputs"),
        pytest.param({"outputs": DECLARED.outputs[:1]}, "2 inputs and 1 output, its code 2 and 2", id="outputs"),
        pytest.param({"inputs": inputs(["n=1..64", 16], ["n=1..64", 2], "float64")}, "'x' is declared", id="dtype"),
        pytest.param({"inputs": inputs(["n=1..64", 16, 1], ["n=1..64", 2])}, "'x' is declared", id="rank"),
        pytest.param({"inputs": inputs(["n=1..64", 17], ["n=1..64", 2])}, "'x' is declared", id="size"),
        pytest.param({"inputs": inputs(["n=1..65", 16], ["n=1..65", 2])}, "'x' is declared", id="range"),
        pytest.param({"inputs": inputs(["n", 16], ["n", 2])}, "'x' is declared", id="no range"),
        pytest.param({"inputs": inputs(["n=1..64", 16], ["m=1..64", 2])}, "'age' is declared", id="unequal"),
        pytest.param({"carried": ["ofset"]}, "ofset", id="carried"),
    ],
)
def test_a_declaration_that_the_code_does_not_fit_is_refused(
    foreign: Elsewhere, changes: dict[str, Any], says: str
) -> None:
    """Each of them would let the compiled code read memory that is not the input's."""
    with pytest.raises(IncompatiblePackage, match=says):
        Container(Package.open(foreign.plain, signature=declared(**changes)))


def test_a_declaration_may_be_narrower_than_the_code(foreign: Elsewhere) -> None:
    narrow = declared(inputs=inputs([4, 16], [4, 2]))
    with Container(Package.open(foreign.plain, signature=narrow)) as container:
        foreign.check(container, foreign.weights())
        with pytest.raises(InvalidInput, match="dimension 0 is 2 instead of 4"):
            container.run([foreign.x[:2], foreign.age[:2]])


def test_a_package_without_its_code_or_with_unknown_code_is_refused(foreign: Elsewhere, tmp_path: Path) -> None:
    def drop(name: str, content: bytes) -> bytes | None:
        return None if name.endswith("wrapper.cpp") else content

    def garble(name: str, content: bytes) -> bytes:
        return b"int main() {}" if name.endswith("wrapper.cpp") else content

    with pytest.raises(UnreadablePackage, match="without its generated code"):
        Container(Package.open(rewritten(foreign.plain, tmp_path / "bare.pt2", drop), signature=DECLARED))
    with pytest.raises(UnreadablePackage, match="unknown kind"):
        Container(Package.open(rewritten(foreign.plain, tmp_path / "odd.pt2", garble), signature=DECLARED))


def test_a_constant_that_is_a_view_is_refused_by_name(foreign: Elsewhere, tmp_path: Path) -> None:
    def shift(name: str, content: bytes) -> bytes:
        return re.sub(rb"(constants_info_\[0\]\.offset = )0", rb"\g<1>8", content) if name.endswith(".cpp") else content

    with pytest.raises(IncompatiblePackage, match=r"constant '\S+' is a view"):
        Package.open(rewritten(foreign.plain, tmp_path / "view.pt2", shift), signature=DECLARED).signature  # noqa: B018


# Weights


@pytest.mark.parametrize("source", ["with_program", "plain"])
def test_built_in_weights_answer_and_a_trainers_replace_them(foreign: Elsewhere, source: str) -> None:
    known = Package.open(getattr(foreign, source), signature=None if source == "with_program" else DECLARED)
    with Container(known) as container:
        assert container.version == 0
        foreign.check(container, foreign.weights())
        weights = foreign.weights(0.5)
        if source == "plain":
            del weights["bias"]
        container.stage(weights)
        container.commit()
        foreign.check(container, weights)


def test_what_forward_makes_is_carried_or_changed(foreign: Elsewhere) -> None:
    with Container(Package.open(foreign.with_program)) as container:
        before = container(foreign.x, **foreign.kwargs)["z"][0]
        container.stage({"_tensor_constant0": torch.zeros(2, 4)}, partial=True)
        container.commit()
        after = container(foreign.x, **foreign.kwargs)["z"][0]
        torch.testing.assert_close(after, before - 3 * foreign.module.scale.sum())
        container.stage(foreign.weights())
        container.commit()
        foreign.check(container, foreign.weights())


def test_a_baked_constant_is_known_with_a_program(foreign: Elsewhere) -> None:
    with Container(Package.open(foreign.with_program)) as container:
        container.stage(foreign.weights())
        with pytest.raises(ConstantIsBaked, match="'bias'"):
            container.stage(foreign.weights() | {"bias": torch.zeros(4)})
        with pytest.warns(UserWarning, match="'bias'"):
            container.stage(foreign.weights() | {"bias": torch.zeros(4)}, strict=False)
        container.commit()
        foreign.check(container, foreign.weights())


def test_tied_names_must_agree_with_a_program(foreign: Elsewhere) -> None:
    with Container(Package.open(foreign.with_program)) as container, pytest.raises(TiedTensorsDiffer, match="table"):
        container.stage(foreign.weights() | {"table.weight": torch.zeros(10, 16)})


def test_without_a_program_a_baked_constant_is_refused_and_the_lines_say_why(foreign: Elsewhere) -> None:
    with Container(Package.open(foreign.plain, signature=DECLARED)) as container:
        with pytest.raises(UnknownOrBakedTensor, match=r"'bias'.*compiled in"):
            container.stage(foreign.weights())
        foreign.check(container, foreign.weights())
    with pytest.raises(UnknownSignature, match=r"compiled in(.|\n)*`unused:`"):
        Package.open(foreign.plain).signature  # noqa: B018
    passed_over = declared(unused=[*DECLARED.unused, "bias"])
    with Container(Package.open(foreign.plain, signature=passed_over)) as container:
        container.stage(foreign.weights())


def test_a_package_without_weights_takes_all_of_them(foreign: Elsewhere, apart: Path) -> None:
    with pytest.raises(IncompatiblePackage, match="offset"):
        Package.open(apart, signature=DECLARED).signature  # noqa: B018
    package = Package.open(apart, signature=APART)
    assert not package.carries_weights
    assert not any(spec.carried for spec in package.constants)
    weights = {name: tensor for name, tensor in foreign.weights(0.25).items() if name != "bias"}
    made = {"_tensor_constant0": foreign.module.scale, "_tensor_constant1": torch.tensor([[1.0, 2.0]])}
    with Container(package) as container:
        with pytest.raises(WeightsMissing):
            container.run([foreign.x, foreign.age])
        container.stage(weights | made | {"offset": foreign.module.offset})
        container.commit()
        foreign.check(container, weights)


def test_folded_constants_are_no_weights(foreign: Elsewhere, folding: Path) -> None:
    package = Package.open(folding, signature=DECLARED)
    names = {spec.name for spec in package.constants}
    assert "bias" in names
    assert not any("FOLDED" in name for name in names)
    with Container(package) as container:
        foreign.check(container, foreign.weights())
        for step in (0.5, -0.5, 1.0, 2.0):
            weights = foreign.weights(step)
            weights["bias"] = weights["bias"] + step
            container.stage(weights)
            container.commit()
            foreign.check(container, weights)
        container.rollback()
        foreign.check(container, foreign.weights(1.0) | {"bias": foreign.module.bias + 1.0})


# Archives


def test_each_of_several_models_in_one_archive_can_be_chosen(foreign: Elsewhere, threaded: Path) -> None:
    with zipfile.ZipFile(threaded) as archive:
        archive.extractall(foreign.folder / "unpacked")
    other = [str(file) for file in (foreign.folder / "unpacked").glob("*/data/aotinductor/model/*")]
    path = foreign.package("several", aoti_files={"a": [*foreign.files], "b": other, "a/b": [*other]})
    with pytest.raises(UnreadablePackage, match="model_name"):
        Package.open(path)
    with pytest.raises(UnreadablePackage, match="no model 'c'"):
        Package.open(path, "c")
    assert len(unknown_inputs(path, "b")) == 2
    with Container(Package.open(path, "a", signature=DECLARED)) as container:
        foreign.check(container, foreign.weights())
    assert (fixed_threads(path, "b"), fixed_threads(path, "a/b")) == (7, 7)


def unknown_inputs(path: Path, model: str) -> list[Any]:
    with pytest.raises(UnknownSignature) as refused:
        Package.open(path, model).signature  # noqa: B018
    entries: list[Any] = yaml.safe_load(refused.value.facts["snippet"])["signature"]["inputs"]
    return entries


def test_threads_that_were_compiled_in_are_told(mixed_path: Path, threaded: Path) -> None:
    assert fixed_threads(threaded, "model") == 7
    assert fixed_threads(mixed_path, "model") is None


@pytest.fixture(scope="session")
def mixed_path(mixed: Any) -> Path:
    path: Path = mixed.package.path
    return path


# Version 0


def configured(foreign: Elsewhere, **facts: Any) -> ModelConfig:
    signature = DECLARED.model_copy(update={"carried": None, "unused": ("table.weight", "bias")})
    return ModelConfig.model_validate({"name": "m", "package": foreign.plain, "signature": signature} | facts)


def test_a_plain_state_dict_fits_and_what_it_lacks_stays_as_it_is_built_in(foreign: Elsewhere) -> None:
    config = configured(foreign)
    with Container(Package.open(config.package, signature=config.signature)) as container:
        container.stage(foreign.weights(0.25))
        container.commit()
        foreign.check(container, foreign.weights(0.25) | {"bias": foreign.module.state_dict()["bias"]})


def test_a_partial_swap_on_version_0_keeps_what_is_built_in(foreign: Elsewhere, tmp_path: Path) -> None:
    config = configured(foreign)
    signature = Package.open(config.package, signature=config.signature).signature
    store = Store(tmp_path / "store", "m", 4)
    intake = Intake(store, "m", signature, WeightsLimits(), [], write_built_in=partial(write_built_in, config))
    name = next(spec.name for spec in signature.constants if spec.name in foreign.module.state_dict())
    changed = {name: foreign.module.state_dict()[name] + 0.5}
    save_file(changed, tmp_path / "changed")
    version = intake.of_file(tmp_path / "changed", SwapOptions(partial=True, base_version=0), BUILT_IN)
    with Container(Package.open(config.package, signature=config.signature)) as container:
        container.stage(load_file(str(store.file(version))))
        container.commit()
        foreign.check(container, foreign.module.state_dict() | changed)


def test_why_built_in_weights_cannot_be_read_is_said(foreign: Elsewhere, tmp_path: Path) -> None:
    with pytest.raises(IncompatiblePackage, match="its sha256 is"):
        write_built_in(configured(foreign, sha256="0" * 64), tmp_path / "built-in")
    with pytest.raises(IncompatiblePackage, match=r"loading it took 0\.1 s"):
        write_built_in(configured(foreign, stage_timeout_s=0.1), tmp_path / "built-in")
