"""What the bare runtime does with weights."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from tests.integration import foreign
from tests.integration.foreign import eager, inputs, weights
from tests.integration.raw import Raw, loader, row, same


@row
def inlined(folder: Path) -> dict[str, Any]:
    runner = loader(folder / "plain.pt2")
    known, new = runner.get_constant_fqns(), weights(0.5)
    runner.load_constants({name: new[name] for name in known}, False, True)
    old = {name: value for name, value in weights().items() if name not in known}
    answer = runner.run(inputs())[0]
    return {"lost": sorted(old), "new": same(answer, eager(new)), "mixed": same(answer, eager(new | old))}


@row
def folded(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    sizes = {constant.fqn: constant.nbytes for constant in native.constants if constant.folded}
    return {"listed": sorted(loader(folder / "folded.pt2").get_constant_fqns()), "folded": sizes}


@row
def partial_first(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    native.activate({"last.weight": weights(0.5)["last.weight"]})
    return {"new": same(native.answer(), eager(weights() | {"last.weight": weights(0.5)["last.weight"]}))}


@row
def partial_later(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    versions = [weights(by) for by in (0.25, 0.5, 0.75)]
    for version in versions[:2]:
        native.activate(version)
    change = {"last.weight": versions[2]["last.weight"]}
    native.activate(change)
    buffers = {name: versions[1][name] for name in ("offset", "norm.running_mean", "norm.running_var")}
    answer = native.answer()
    return {
        "new": same(answer, eager(versions[1] | change)),
        "mix": same(answer, eager(versions[0] | buffers | change)),
    }


@row
def in_two_calls(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2", managed=True)
    new, buffers = weights(0.5), ("offset", "norm.running_mean", "norm.running_var")
    native._register({name: new[name] for name in buffers})
    native.activate({name: value for name, value in new.items() if name not in buffers})
    answer, old = native.answer(), {name: weights()[name] for name in buffers}
    return {"new": same(answer, eager(new)), "old buffers": same(answer, eager(new | old))}


def spoiled(folder: Path, **changes: torch.Tensor) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2", managed=True)
    new = weights(0.5)
    native.activate(new | {name.replace("__", "."): value for name, value in changes.items()})
    return {"new": same(native.answer(), eager(new))}


@row
def view_of_a_large_storage(folder: Path) -> dict[str, Any]:
    return spoiled(folder, first__weight=torch.zeros(1 << 26)[: 64 * 64].view(64, 64))


@row
def not_contiguous(folder: Path) -> dict[str, Any]:
    return spoiled(folder, first__weight=weights(0.5)["first.weight"].t().contiguous().t())


@row
def wrong_dtype(folder: Path) -> dict[str, Any]:
    return spoiled(folder, **{name.replace(".", "__"): value.double() for name, value in weights(0.5).items()})


@row
def wrong_shape(folder: Path) -> dict[str, Any]:
    return spoiled(folder, first__weight=torch.ones(2, 2))


@row
def unknown_name(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    native._names["stranger"] = b"stranger"
    native.activate(weights(0.5) | {"stranger": torch.ones(3)})
    accepted = same(native.answer(), eager(weights(0.5)))
    try:
        loader(folder / "folded.pt2").load_constants({"stranger": torch.ones(3)}, False, False)
    except RuntimeError as error:
        return {"accepted": accepted, "loader": str(error)}
    return {"accepted": accepted, "loader": ""}


@row
def plain_state_dict(folder: Path) -> dict[str, Any]:
    try:
        loader(folder / "folded.pt2").load_constants(foreign.seeded(foreign.Net).state_dict(), False, True)
    except RuntimeError as error:
        return {"loader": str(error)}
    return {"loader": ""}


@row
def every_update_is_kept(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    alive: set[int] = set()
    for number in range(6):
        array = np.full((64, 64), float(number), dtype=np.float32)
        alive.add(number)
        weakref.finalize(array, alive.discard, number)
        native.activate(weights() | {"first.weight": torch.from_numpy(array)})
        del array
    native.free_inactive()
    return {"alive": len(alive)}


@row
def freed_and_swapped_back(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2", managed=True)
    native.activate(weights(0.5))
    native.free_inactive()
    native.swap()
    return {"old": same(native.answer(), eager(weights()))}


@row
def freed_and_updated(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    native.activate(weights(0.25))
    native.activate(weights(0.5))
    native.free_inactive()
    native.activate(weights(0.75))
    return {"new": same(native.answer(), eager(weights(0.75)))}


@row
def ours_given_up_and_updated(folder: Path) -> dict[str, Any]:
    """In a process of its own, since it would crash as the bare runtime does."""
    with Container(Package.open(folder / "folded.pt2", signature=foreign.NET)) as container:
        container.stage(weights(0.25))
        container.commit()
        active = container.run(inputs())["logits"]
        for give_up in (container.abort, container.release, container.abort):
            container.stage(weights(0.5))
            give_up()
        kept = torch.equal(container.run(inputs())["logits"], active)
        container.stage(weights(0.5))
        container.commit()
        new = container.run(inputs())["logits"]
        container.release()
        container.stage(weights(0.25))
        container.commit()
        again = torch.equal(container.run(inputs())["logits"], active)
        return {"kept": kept, "new": same(new, eager(weights(0.5))), "again": again}


@row
def no_weights_yet(folder: Path) -> dict[str, Any]:
    return {"answer": Raw(folder / "lifted.pt2").answer(torch.zeros(4, 16)).tolist()}


def lifted(folder: Path, fold_first: bool) -> dict[str, Any]:
    """Two versions that differ in the tensor that forward() makes."""
    native, module = Raw(folder / "lifted.pt2"), foreign.seeded(foreign.Lifted)
    values = dict(module.state_dict())
    (name,) = {constant.fqn for constant in native.constants if not constant.folded} - values.keys()
    native._register(values | {name: torch.ones(16)})
    if fold_first:
        native.fold(inactive=True)
    native.swap()
    native.activate(values | {name: torch.full((16,), 2.0)})
    with torch.no_grad():
        layer = module.get_submodule("layer")(torch.ones(4, 16))
    answer = native.answer(torch.ones(4, 16))
    return {"new": same(answer, layer * 2), "old": same(answer, layer)}


@row
def lifted_folded_first(folder: Path) -> dict[str, Any]:
    return lifted(folder, fold_first=True)


@row
def lifted_folded_later(folder: Path) -> dict[str, Any]:
    return lifted(folder, fold_first=False)
