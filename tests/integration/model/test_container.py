from __future__ import annotations

import json
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aoti_serve.errors import (
    ContainerClosed,
    IncompatiblePackage,
    InvalidInput,
    InvalidWeights,
    NotEnoughMemory,
    NothingStaged,
    NothingToRollBack,
    WeightsMissing,
)
from aoti_serve.model.container import Container
from aoti_serve.model.package import SIGNATURE_KEY, Package
from aoti_serve.weights.files.index import read_index
from tests.integration.models import Compiled

Weights = dict[str, torch.Tensor]


def changed(weights: Weights, by: float) -> Weights:
    return {name: tensor + by for name, tensor in weights.items()}


def expected(mixed: Compiled, weights: Weights) -> torch.Tensor:
    """What eager PyTorch answers with these weights."""
    known = {name: value for name, value in weights.items() if name not in ("scale", "lifted_tensor_0")}
    outputs = torch.func.functional_call(mixed.module, known, tuple(mixed.inputs.values()))
    hidden: torch.Tensor = outputs["hidden"][0]
    logits = hidden @ weights["last.weight"].T + weights["last.bias"]
    scaled = logits * weights["scale"] * weights["lifted_tensor_0"] + weights["offset"]
    return scaled + mixed.inputs["ids"].sum(-1, keepdim=True)


def logits(container: Container, mixed: Compiled) -> torch.Tensor:
    return container.run(mixed.inputs)["logits"]


def test_answers_as_eager_does(container: Container, mixed: Compiled) -> None:
    outputs = container.run(mixed.inputs)
    eager = mixed.module(*mixed.inputs.values())
    torch.testing.assert_close(outputs["logits"], eager["logits"])
    torch.testing.assert_close(outputs["hidden.1"], eager["hidden"][1])
    assert torch.equal(container.run(list(mixed.inputs.values()))["logits"], outputs["logits"])


def test_every_constant_can_be_swapped(container: Container, mixed: Compiled) -> None:
    before = logits(container, mixed)
    for name in mixed.weights():
        weights = mixed.weights()
        weights[name] += 1
        container.stage(weights)
        container.commit()
        torch.testing.assert_close(logits(container, mixed), expected(mixed, weights))
        assert not torch.equal(logits(container, mixed), before), name


def test_rollback_gives_the_same_bits_and_can_be_repeated(container: Container, mixed: Compiled) -> None:
    old = logits(container, mixed)
    container.stage(changed(mixed.weights(), 1), version=7)
    assert torch.equal(logits(container, mixed), old)
    container.commit()
    new = logits(container, mixed)
    assert (container.version, container.previous) == (7, 1)
    for want in (old, new, old):
        container.rollback()
        assert torch.equal(logits(container, mixed), want)


def test_abort_and_release_leave_the_active_version_alone(container: Container, mixed: Compiled) -> None:
    before = logits(container, mixed)
    container.stage(changed(mixed.weights(), 1))
    container.abort()
    with pytest.raises(NothingStaged):
        container.commit()
    container.stage(changed(mixed.weights(), 1))
    container.release()
    with pytest.raises(NothingToRollBack):
        container.rollback()
    assert torch.equal(logits(container, mixed), before)


def sliced(weights: Weights) -> Weights:
    """Views into one large storage: what flattened buckets look like."""
    flat = torch.cat([tensor.reshape(-1) for tensor in weights.values()])
    sizes = [tensor.numel() for tensor in weights.values()]
    parts = zip(weights.items(), torch.split(flat, sizes), strict=True)
    return {name: part.view(tensor.shape) for (name, tensor), part in parts}


def transposed(weights: Weights) -> Weights:
    return {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for name, tensor in weights.items()}


def oversize(weights: Weights) -> Weights:
    return {name: torch.stack([tensor, tensor])[0] for name, tensor in weights.items()}


@pytest.mark.parametrize("layout", [sliced, transposed, oversize])
def test_a_tensor_of_any_layout_is_taken_for_what_it_is(
    container: Container, mixed: Compiled, layout: Callable[[Weights], Weights]
) -> None:
    weights = changed(mixed.weights(), 0.5)
    container.stage(layout(weights))
    container.commit()
    torch.testing.assert_close(logits(container, mixed), expected(mixed, weights))


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def replaced(name: str, value: torch.Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: value}


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        pytest.param("last.bias", without("last.bias"), id="missing"),
        pytest.param("stranger", replaced("stranger", torch.ones(3)), id="unknown"),
        pytest.param("last.bias", replaced("last.bias", torch.ones(5)), id="shape"),
        pytest.param("last.bias", replaced("last.bias", torch.ones(4, dtype=torch.float64)), id="dtype"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    container: Container, mixed: Compiled, name: str, spoil: Callable[[Weights], Weights]
) -> None:
    before = logits(container, mixed)
    with pytest.raises(InvalidWeights, match=f"'{name}'"):
        container.stage(spoil(mixed.weights()))
    assert torch.equal(logits(container, mixed), before)


def test_a_trainers_unused_counters_are_passed_over(container: Container, mixed: Compiled) -> None:
    assert mixed.package.signature.unused == ("norm.num_batches_tracked",)
    container.stage(mixed.weights() | {"norm.num_batches_tracked": torch.tensor(5)})
    container.commit()
    assert container.version == 2


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        pytest.param("x", {"x": torch.zeros(4, 17)}, id="dimension"),
        pytest.param("x", {"x": torch.zeros(4, 16, dtype=torch.float64)}, id="dtype"),
        pytest.param("ids", {"ids": torch.zeros(2, 3, dtype=torch.int64)}, id="unequal batches"),
        pytest.param("x", {"x": torch.zeros(65, 16), "ids": torch.zeros(65, 3, dtype=torch.int64)}, id="range"),
        pytest.param("y", {"y": torch.zeros(1)}, id="unknown"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(
    container: Container, mixed: Compiled, name: str, spoil: Weights
) -> None:
    before = logits(container, mixed)
    with pytest.raises(InvalidInput, match=f"'{name}'"):
        container.run(mixed.inputs | spoil)
    with pytest.raises(InvalidInput):
        container.run([mixed.inputs["x"]])
    assert torch.equal(logits(container, mixed), before)


def test_without_weights_or_after_close_it_refuses_to_run(mixed: Compiled) -> None:
    container = Container(mixed.package)
    with pytest.raises(WeightsMissing):
        container.run(mixed.inputs)
    container.close()
    container.close()
    with pytest.raises(ContainerClosed):
        container.run(mixed.inputs)
    with pytest.raises(ContainerClosed):
        container.stage(mixed.weights())


def test_runs_during_swaps_answer_with_exactly_one_version(mixed: Compiled) -> None:
    """4 threads on 4 runners, 100 swaps between two versions: every answer is one of the two, the one it names."""
    versions = [mixed.weights(), changed(mixed.weights(), 0.25)]
    with Container(mixed.package, num_runners=4) as container:
        want = {}
        for number, weights in enumerate(versions):
            container.stage(weights, version=number)
            container.commit()
            want[number] = logits(container, mixed)
        stop, wrong, seen = threading.Event(), [], set()

        def ask() -> None:
            while not stop.is_set():
                version, outputs = container.infer(mixed.inputs)
                seen.add(version % 2)
                if not torch.equal(outputs["logits"], want[version % 2]):
                    wrong.append(version)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(2, 102):
            container.stage(versions[number % 2], version=number)
            container.commit()
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert seen == {0, 1}


def test_two_runners_hold_two_runs_at_once(mixed: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run starts and ends while the first is inside native code: no GIL, no common lock."""
    inside = threading.Barrier(2, timeout=30)
    with Container(mixed.package, num_runners=2) as container:
        container.stage(mixed.weights())
        container.commit()
        runtime = container._versions.runtime
        native_run = runtime.run

        def meet_inside(inputs: list[torch.Tensor], stream: int | None) -> list[torch.Tensor | None]:
            inside.wait()
            return native_run(inputs, stream)

        monkeypatch.setattr(runtime, "run", meet_inside)
        threads = [threading.Thread(target=container.run, args=(mixed.inputs,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not inside.broken


def doctored(package: Package, target: Path, change: Callable[[dict[str, str]], None]) -> Package:
    """A copy of the package with other metadata."""
    with zipfile.ZipFile(package.path) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("wrapper_metadata.json"):
                metadata = json.loads(content)
                change(metadata)
                content = json.dumps(metadata).encode()
            copy.writestr(entry, content)
    return Package.open(target)


def test_a_library_that_differs_from_its_signature_is_refused(mixed: Compiled, tmp_path: Path) -> None:
    def drop_constant(metadata: dict[str, str]) -> None:
        signature = json.loads(metadata[SIGNATURE_KEY])
        signature["constants"] = signature["constants"][1:]
        metadata[SIGNATURE_KEY] = json.dumps(signature)

    with pytest.raises(IncompatiblePackage, match=r"first\.weight"):
        Container(doctored(mixed.package, tmp_path / "other.pt2", drop_constant))


def test_a_package_for_another_device_or_machine_is_refused(mixed: Compiled, tmp_path: Path) -> None:
    with pytest.raises(IncompatiblePackage, match="compiled for cpu"):
        Container(mixed.package, device="cuda")
    other = doctored(mixed.package, tmp_path / "arm.pt2", lambda metadata: metadata.update(AOTI_MACHINE="aarch64"))
    with pytest.raises(IncompatiblePackage, match="aarch64"):
        Container(other)


def test_a_package_is_unpacked_once_for_all_containers(mixed: Compiled) -> None:
    folder = mixed.package.extract()
    library = next(folder.glob("*.so"))
    before = library.stat()
    with Container(mixed.package), Container(mixed.package):
        after = library.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    shutil.rmtree(folder.parents[3])
    with Container(mixed.package) as container:
        assert container.signature == mixed.package.signature


@pytest.mark.parametrize("way", ["tensors", "bytes"])
def test_weights_that_do_not_fit_into_memory_change_nothing(
    mixed: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(mixed.weights(), path)

    def stage(container: Container) -> None:
        if way == "tensors":
            container.stage(mixed.weights())
        else:
            container.stage_bytes(read_index(path), [np.fromfile(path, np.uint8)])

    with Container(mixed.package) as container:
        stage(container)
        container.commit()
        want = container.run(mixed.inputs)["logits"]
        with monkeypatch.context() as full:
            full.setattr("aoti_serve.model.device.cpu.available_memory", lambda: 100)
            with pytest.raises(NotEnoughMemory, match="100 are available") as caught:
                stage(container)
        assert caught.value.http_status == 507
        assert (container.version, container.previous, container.staged) == (1, None, None)
        assert container.nbytes == container._versions.active.nbytes
        stage(container)
        container.commit()
        with monkeypatch.context() as full:
            full.setattr("aoti_serve.model.device.cpu.available_memory", lambda: 0)
            stage(container)  # into the memory of the previous version
        assert torch.equal(container.run(mixed.inputs)["logits"], want)
