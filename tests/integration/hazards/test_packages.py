"""What a package may hold: what the bare runtime makes of it, and what we do."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch

from aoti_serve.errors import (
    ConstantIsBaked,
    InvalidWeights,
    PackageError,
    UnknownSignature,
    UnreadablePackage,
)
from aoti_serve.model.archive.preflight import extern_operators
from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from tests.integration import foreign
from tests.integration.foreign import eager, inputs, weights
from tests.integration.models import Compiled
from tests.integration.raw import Lab, Raw


def plain(lab: Lab) -> Container:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its fixed threads
        return Container(Package.open(lab.package("plain_known")))


def test_constants_that_the_compiler_fixed_are_known(lab: Lab, mixed: Compiled) -> None:
    lost = ["last.bias", "offset"]
    assert lab.endings["inlined"] == (0, {"lost": lost, "new": False, "mixed": True})
    with plain(lab) as container:
        assert [spec.name for spec in container.signature.baked] == lost
        before = container.run(inputs())["logits"]
        with pytest.raises(ConstantIsBaked, match=r"'last\.bias'"):
            container.stage(weights(0.5))
        assert torch.equal(container.run(inputs())["logits"], before)
        fixed = {name: weights()[name] for name in lost}
        container.stage(weights(0.5) | fixed)
        container.commit()
        answer = container.run(inputs())["logits"]
        torch.testing.assert_close(answer, eager(weights(0.5) | fixed), rtol=1e-4, atol=1e-4)
        with pytest.warns(UserWarning, match="compiled into the package"):
            container.stage(weights(0.5), strict=False)
        container.commit()
        assert torch.equal(container.run(inputs())["logits"], answer)
    assert not mixed.package.signature.baked


def test_our_packages_keep_no_folded_copies(lab: Lab, mixed: Compiled) -> None:
    sizes = lab.endings["folded"].said["folded"]
    assert sizes["_FOLDED_CONST_permute"] == 64 * 64 * 4, "a second copy of first.weight"
    native = Raw(mixed.package.path)
    assert not any(constant.folded for constant in native.constants)
    native.delete()


def test_tensors_that_forward_makes_survive_folding(lab: Lab) -> None:
    assert lab.endings["lifted_folded_first"].crashed
    assert lab.endings["lifted_folded_later"] == (0, {"new": False, "old": True})
    module = foreign.seeded(foreign.Lifted)
    state, x = module.state_dict(), torch.ones(4, 16)
    with torch.no_grad():
        layer = module.get_submodule("layer")(x)
    with Container(Package.open(lab.package("lifted"), signature=foreign.ONE)) as container:
        (name,) = {spec.name for spec in container.signature.constants} - state.keys()
        for factor in (1.0, 2.0, 3.0):
            container.stage(state | {name: torch.full((16,), factor)})
            container.commit()
            torch.testing.assert_close(container.run([x])["output"], layer * factor, rtol=1e-4, atol=1e-4)
        for factor in (2.0, 3.0):
            container.rollback()
            torch.testing.assert_close(container.run([x])["output"], layer * factor, rtol=1e-4, atol=1e-4)


def loaded_or_refused(package: Package, name: str) -> Container | None:
    """Either is right; what is refused is named."""
    try:
        return Container(package)
    except PackageError as error:
        named = f"'{name}'" in str(error)
    assert named
    return None


def test_a_foreign_package_with_an_expanded_constant_swaps_it_or_is_refused_by_name(lab: Lab) -> None:
    module = foreign.seeded(foreign.Expanded)
    x = torch.arange(64, dtype=torch.float32).reshape(4, 16)
    container = loaded_or_refused(Package.open(lab.package("expanded"), signature=foreign.ONE), "row")
    if container is None:
        return
    with container, torch.no_grad():
        torch.testing.assert_close(container.run([x])["output"], module(x))
        row = torch.randn(1, 16).expand(4, 16)
        container.stage({"row": row})
        container.commit()
        torch.testing.assert_close(container.run([x])["output"], x * row)


def test_a_foreign_package_that_was_exported_with_other_strides_is_not_answered_wrongly(lab: Lab) -> None:
    assert lab.endings["other_strides_than_the_example"] == (0, {"right": False})
    module, image = foreign.seeded(foreign.Image), foreign.image()
    container = loaded_or_refused(Package.open(lab.package("image_known")), "image")
    if container is None:
        return
    with container, torch.no_grad():
        torch.testing.assert_close(container.run([image])["output"], module(image), check_stride=False)


def test_an_operator_that_only_torch_can_call_is_called(lab: Lab) -> None:
    ending = lab.endings["extern_operator"]
    assert ending.crashed or "error" in ending.said
    package = Package.open(lab.package("sampler_known"))
    assert extern_operators(package.path, package.extract()) == ("aten::multinomial",)
    x, mix = torch.eye(16)[:4], torch.eye(16) * 1000
    with Container(package) as container:
        assert container.run([x])["output"].flatten().tolist() == [0, 1, 2, 3]
        container.stage({"mix": mix.roll(1, 1)})
        container.commit()
        assert container.run([x])["output"].flatten().tolist() == [1, 2, 3, 4]
        with pytest.raises(InvalidWeights, match="'mix'"):
            container.stage({"mix": mix[:2]})
        container.stage({"mix": mix.roll(2, 1)})
        container.abort()
        container.stage({"mix": mix.roll(3, 1)})
        container.commit()
        assert container.run([x])["output"].flatten().tolist() == [3, 4, 5, 6]
        with pytest.raises(InvalidWeights, match="'mix'"):
            container.stage({"mix": mix.double()})
        container.rollback()


def test_of_several_models_in_an_archive_the_named_one_is_loaded(lab: Lab) -> None:
    path = lab.package("two")
    with pytest.raises(UnreadablePackage, match="folded, plain"):
        Package.open(path)
    with Container(Package.open(path, "folded", signature=foreign.NET)) as container:
        torch.testing.assert_close(container.run(inputs())["logits"], eager(weights()))


def test_metadata_is_read_as_torch_reads_it(mixed: Compiled) -> None:
    loader: Any = torch._C._aoti.AOTIModelPackageLoader
    assert loader.load_metadata_from_package(str(mixed.package.path), "model") == mixed.package.metadata
    assert json.loads(mixed.package.metadata["aoti_serve.signature"])["inputs"][0]["name"] == "x"


def test_a_package_that_does_not_tell_its_inputs_is_refused_with_the_lines_to_add(lab: Lab) -> None:
    with pytest.raises(UnknownSignature, match="signature:\n  inputs:"):
        Container(Package.open(lab.package("folded")))
    known = Package.open(lab.package("folded_known")).signature
    assert [spec.name for spec in known.inputs] == ["x", "ids"]
    assert [spec.name for spec in known.outputs] == ["logits", "hidden"]
