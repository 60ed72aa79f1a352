"""All that torch's `AOTIModelPackageLoader` offers, reached through the product: docs/internals/binding.md."""

from __future__ import annotations

import threading
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export.pt2_archive._package import package_pt2

import aoti_serve
from aoti_serve.config import ModelConfig
from aoti_serve.errors import IncompatiblePackage, MissingTensor, UnreadablePackage
from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.container import Container
from aoti_serve.model.package import BASELINE, Package, configured_package
from tests.integration.models import Compiled

ROOT = Path(aoti_serve.__file__).parent.parent


@pytest.fixture(scope="module")
def loader(mixed: Compiled) -> Any:
    """torch's own, for comparison; without weights it must not run."""
    aoti: Any = torch._C._aoti
    return aoti.AOTIModelPackageLoader(str(mixed.package.path), "model", False, 1, -1)


def logits(container: Container, mixed: Compiled) -> torch.Tensor:
    return container.run(mixed.inputs)["logits"]


def changed(mixed: Compiled, by: float) -> dict[str, torch.Tensor]:
    return {name: tensor + by for name, tensor in mixed.weights().items()}


def test_every_row_of_the_page_names_a_test_that_is_here() -> None:
    rows = (ROOT / "docs" / "internals" / "binding.md").read_text().splitlines()
    named = [row.split("|")[3].strip(" `") for row in rows if row.startswith("| `")]
    here = {name for name in globals() if name.startswith("test_")}
    assert set(named) == here - {"test_every_row_of_the_page_names_a_test_that_is_here"}


# The constructor


def test_model_package_path(mixed: Compiled) -> None:
    with Container(mixed.package.path) as container:
        container.stage(mixed.weights())
        container.commit()
        want = mixed.module(*mixed.inputs.values())["logits"]
        torch.testing.assert_close(logits(container, mixed), want)


def test_model_name(mixed: Compiled, tmp_path: Path) -> None:
    with zipfile.ZipFile(mixed.package.path) as archive:
        archive.extractall(tmp_path)
    files = [str(file) for file in tmp_path.glob("*/data/aotinductor/model/*")]
    path = tmp_path / "several.pt2"
    package_pt2(str(path), aoti_files={"a": [*files], "b": [*files]})
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(next(tmp_path.glob("*/extra/aoti_serve/*")), f"several/{BASELINE}")
    with pytest.raises(UnreadablePackage, match="a, b"):
        Package.open(path)
    config = ModelConfig(name="m", package=path, model_name="b", weights=mixed.package.path)
    for package in (Package.open(path, "a"), configured_package(config)):
        with Container(package) as container:
            container.stage(mixed.weights())
            container.commit()
            want = mixed.module(*mixed.inputs.values())["logits"]
            torch.testing.assert_close(logits(container, mixed), want)


def test_run_single_threaded(mixed: Compiled, container: Container) -> None:
    with Container(mixed.package, num_runners=3, run_single_threaded=True) as single:
        single.stage(mixed.weights())
        single.commit()
        assert single.num_runners == 1
        assert torch.equal(logits(single, mixed), logits(container, mixed))


def test_num_runners(mixed: Compiled, container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = threading.Barrier(container.num_runners, timeout=30)
    runtime = container._versions.runtime
    native_run = runtime.run

    def meet_inside(inputs: list[torch.Tensor], stream: int | None) -> list[torch.Tensor | None]:
        inside.wait()
        return native_run(inputs, stream)

    monkeypatch.setattr(runtime, "run", meet_inside)
    threads = [threading.Thread(target=container.run, args=(mixed.inputs,)) for _ in range(container.num_runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not inside.broken


def test_device_index(mixed: Compiled) -> None:
    with Container(mixed.package, device="cpu") as container:
        assert container.device == torch.device("cpu")
    with pytest.raises(IncompatiblePackage, match="asked to run on cuda:1"):
        Container(mixed.package, device="cuda:1")


# What it tells


def test_get_metadata(mixed: Compiled, loader: Any) -> None:
    """torch's loader reads a kernel's metadata if it finds those first."""
    assert loader.get_metadata().items() <= mixed.package.metadata.items()


def test_load_metadata_from_package(mixed: Compiled, loader: Any) -> None:
    theirs = loader.load_metadata_from_package(str(mixed.package.path), "model")
    assert Package.open(mixed.package.path, "model").metadata == theirs


def test_get_call_spec(mixed: Compiled, loader: Any) -> None:
    takes, gives = mixed.package.signature.takes, mixed.package.signature.gives
    assert takes is not None
    assert gives is not None
    assert [takes.spec, gives.spec] == loader.get_call_spec()


def test_get_constant_fqns(mixed: Compiled, loader: Any) -> None:
    assert {spec.name for spec in mixed.package.constants} == set(loader.get_constant_fqns())


# Runs


def test_run(mixed: Compiled, container: Container) -> None:
    want = container.run(mixed.inputs)
    assert list(want) == ["logits", "hidden.0", "hidden.1"]
    in_order = container.run(list(mixed.inputs.values()))
    nested = container(**mixed.inputs)
    version, outputs = container.infer(mixed.inputs)
    assert version == container.version
    for got in (in_order["logits"], nested["logits"], outputs["logits"]):
        assert torch.equal(got, want["logits"])


def test_boxed_run(mixed: Compiled, container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody in Python holds them any more: when native code returns, they are gone."""
    inputs = [tensor.clone() for tensor in mixed.inputs.values()]
    watched = [weakref.ref(tensor) for tensor in inputs]
    held: list[bool] = []
    call = NativeContainer._call

    def noted(self: NativeContainer, name: str, *arguments: Any, **options: Any) -> None:
        call(self, name, *arguments, **options)
        held.extend(watch() is not None for watch in watched if name == "Run")

    monkeypatch.setattr(NativeContainer, "_call", noted)
    outputs = container.boxed_run(inputs)
    assert inputs == []
    assert held == [False, False]
    assert torch.equal(outputs["logits"], logits(container, mixed))


def test_stream_handle(mixed: Compiled, container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime is given the stream of the runner that was free; on a CPU there is none."""
    runtime, streams = container._versions.runtime, []
    native_run = runtime.run

    def noted(inputs: list[torch.Tensor], stream: int | None) -> list[torch.Tensor | None]:
        streams.append(stream)
        return native_run(inputs, None)

    @contextmanager
    def runner() -> Iterator[int | None]:
        yield 7

    monkeypatch.setattr(runtime, "run", noted)
    container.run(mixed.inputs)
    monkeypatch.setattr(container._versions._device, "runner", runner)
    container.run(mixed.inputs)
    assert streams == [None, 7]


# Weights: `load_constants`, and `update_constant_buffer`, which is the same by the names of torch's own


@pytest.mark.parametrize("tensors", ["a trainer's", "all"])
def test_constants_map(mixed: Compiled, container: Container, tensors: str) -> None:
    """By FQN; what only the package has may be left out."""
    before = logits(container, mixed)
    weights = mixed.module.state_dict() if tensors == "a trainer's" else mixed.weights()
    container.stage(weights)
    container.commit()
    assert torch.equal(logits(container, mixed), before)


def test_use_inactive(mixed: Compiled, container: Container) -> None:
    before = logits(container, mixed)
    container.stage(changed(mixed, 1.0))
    assert torch.equal(logits(container, mixed), before)
    container.commit()
    assert not torch.equal(logits(container, mixed), before)
    container.rollback()
    assert torch.equal(logits(container, mixed), before)


def test_check_full_update(mixed: Compiled, container: Container) -> None:
    bias = {"last.bias": torch.full((4,), 9.0)}
    with pytest.raises(MissingTensor):
        container.stage(bias)
    container.stage(bias, partial=True)
    container.commit()
    partly = logits(container, mixed)
    container.stage(mixed.weights() | bias)
    container.commit()
    assert torch.equal(logits(container, mixed), partly)


def test_user_managed(mixed: Compiled, container: Container) -> None:
    """Never: what was handed over can be changed or freed at once."""
    weights, before = mixed.weights(), logits(container, mixed)
    container.stage(weights)
    for tensor in weights.values():
        tensor.zero_()
    container.commit()
    assert torch.equal(logits(container, mixed), before)
    assert container.nbytes >= 2 * sum(spec.nbytes for spec in mixed.package.constants)
    container.release()
    assert container.nbytes < 2 * sum(spec.nbytes for spec in mixed.package.constants)


def test_tensor_map(mixed: Compiled, container: Container, loader: Any) -> None:
    """The same tensors, by the same names, as torch's loader takes them."""
    weights = {name: tensor + 1 for name, tensor in mixed.weights().items()}
    loader.load_constants(weights, use_inactive=False, check_full_update=True)
    theirs = loader.run(list(mixed.inputs.values()))[0]
    container.stage(weights)
    container.commit()
    torch.testing.assert_close(logits(container, mixed), theirs)
