"""Changing the weights of a package that answers: what the bare runtime makes of it, and what we do."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch

from aoti_serve.errors import (
    NothingToRollBack,
    RuntimeFailed,
    WeightsMissing,
)
from aoti_serve.model.container import Container
from aoti_serve.model.resident.buffers import padded
from tests.integration.foreign import Weights, eager, inputs, weights
from tests.integration.models import Compiled
from tests.integration.raw import Lab

NAME = "first.weight"


def logits(container: Container) -> torch.Tensor:
    return container.run(inputs())["logits"]


def update(container: Container, values: Weights, **how: Any) -> torch.Tensor:
    container.stage(values, **how)
    container.commit()
    return logits(container)


def test_staging_moves_nothing_that_answers_and_a_commit_all(lab: Lab, folded: Container) -> None:
    ending = lab.endings["loader_cannot_activate"]
    assert ending == (0, {"lacks": ["swap_constant_buffer", "free_inactive_constant_buffer"], "same": True})
    assert lab.endings["loader_writes_what_answers"] == (0, {"new": True})
    before = logits(folded)
    folded.stage(weights(0.5))
    assert torch.equal(logits(folded), before)
    folded.commit()
    torch.testing.assert_close(logits(folded), eager(weights(0.5)), rtol=1e-4, atol=1e-4)


def test_a_partial_update_starts_from_what_is_active(lab: Lab, folded: Container) -> None:
    assert lab.endings["partial_first"].crashed
    assert lab.endings["partial_later"] == (0, {"new": False, "mix": True})
    change = {"last.weight": weights(0.75)["last.weight"]}
    torch.testing.assert_close(update(folded, change, partial=True), eager(weights() | change))
    first = update(folded, weights(0.25))
    second = update(folded, weights(0.5))
    changed = update(folded, change, partial=True)
    assert torch.equal(changed, update(folded, weights(0.5) | change))
    folded.rollback()
    folded.rollback()
    update(folded, weights(0.5))
    update(folded, weights(0.25))
    folded.rollback()
    assert torch.equal(logits(folded), second)
    assert torch.equal(update(folded, change, partial=True), changed)
    folded.rollback()
    assert torch.equal(logits(folded), second)
    assert not torch.equal(first, second)


def test_a_stage_is_one_update_whole_in_itself(lab: Lab, folded: Container) -> None:
    assert lab.endings["in_two_calls"] == (0, {"new": False, "old buffers": True})
    update(folded, weights(0.25))
    buffers = ("offset", "norm.running_mean", "norm.running_var")
    for change in (
        {name: weights(0.5)[name] for name in buffers},
        {name: value for name, value in weights(0.5).items() if name not in buffers},
    ):
        folded.stage({NAME: weights(9.0)[NAME]}, partial=True)
        assert torch.equal(update(folded, change, partial=True), logits(folded))
    assert torch.equal(logits(folded), update(folded, weights(0.5)))


def test_nothing_of_what_was_staged_is_kept_and_a_buffer_is_registered_once(
    lab: Lab, folded: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Six before torch 2.15 (upstream #194480); from then on the two that are in the buffers.
    assert lab.endings["every_update_is_kept"] in ((0, {"alive": 6}), (0, {"alive": 2}))
    alive, calls = set(), recorded(folded, monkeypatch)
    for number in range(6):
        array = np.full((64, 64), float(number), dtype=np.float32)
        alive.add(number)
        weakref.finalize(array, alive.discard, number)
        update(folded, weights() | {NAME: torch.from_numpy(array)})
        del array
    assert not alive
    assert calls.count("UpdateUserManagedConstantBufferPairs") == 2 - 1  # the active one has been, since loading


def recorded(container: Container, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the C functions that are called from now on."""
    (variant,) = container._versions.runtime._variants
    native: Any = variant.runtime
    calls, call = [], native._call

    def record(name: str, *arguments: Any, **how: Any) -> None:
        calls.append(name)
        call(name, *arguments, **how)

    monkeypatch.setattr(native, "_call", record)
    return calls


def test_folding_is_done_when_staging_and_not_by_the_first_run(
    folded: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded(folded, monkeypatch)
    folded.stage(weights(0.5))
    assert calls[-1] == "RunConstantFolding"
    calls.clear()
    folded.commit()
    logits(folded)
    assert calls == ["SwapConstantBuffer", "Run"]


@pytest.mark.parametrize("staged", [False, True])
def test_after_a_failed_fold_it_answers_as_before(
    folded: Container, monkeypatch: pytest.MonkeyPatch, staged: bool
) -> None:
    active = update(folded, weights(0.25), version=5)
    if staged:
        folded.stage(weights(0.75))
    (variant,) = folded._versions.runtime._variants
    native: Any = variant.runtime
    really_fold = native.fold

    def fail(inactive: bool) -> None:
        really_fold(inactive)
        raise RuntimeFailed(call="RunConstantFolding", detail="no memory")

    monkeypatch.setattr(native, "fold", fail)
    with pytest.raises(RuntimeFailed, match="no memory"):
        folded.stage(weights(0.5))
    assert (folded.version, folded.previous, folded.staged) == (5, None, None)
    assert torch.equal(logits(folded), active)
    torch.testing.assert_close(update(folded, weights(0.5)), eager(weights(0.5)), rtol=1e-4, atol=1e-4)
    folded.rollback()
    assert torch.equal(logits(folded), active)


def test_after_a_stage_is_given_up_the_next_one_is_taken(lab: Lab) -> None:
    assert lab.endings["freed_and_updated"].crashed
    assert lab.endings["ours_given_up_and_updated"] == (0, {"kept": True, "new": True, "again": True})


def test_a_release_ends_rollback_in_words(lab: Lab, folded: Container) -> None:
    assert "ConstantState::NONE" in lab.endings["freed_and_swapped_back"].said["error"]
    active = update(folded, weights(0.5))
    folded.release()
    with pytest.raises(NothingToRollBack):
        folded.rollback()
    assert torch.equal(logits(folded), active)


def test_without_weights_nothing_runs_until_there_are_some(lab: Lab, mixed: Compiled) -> None:
    assert lab.endings["no_weights_yet"].crashed
    with Container(mixed.package) as container:
        for _ in range(2):
            with pytest.raises(WeightsMissing):
                container.run(mixed.inputs)
            with pytest.raises(WeightsMissing):
                container.stage({}, partial=True)
        container.stage(mixed.weights())
        container.commit()
        container.release()
        assert container.nbytes == sum(padded(spec.nbytes) for spec in mixed.package.constants)
        answer = container.run(mixed.inputs)["logits"]
    torch.testing.assert_close(answer, mixed.module(*mixed.inputs.values())["logits"])


def test_weights_inside_the_library_are_version_0_and_held_once(folded: Container) -> None:
    once = sum(padded(spec.nbytes) for spec in folded.signature.constants)
    assert (folded.version, folded.nbytes) == (0, once)
    built_in = logits(folded)
    torch.testing.assert_close(built_in, eager(weights()))
    update(folded, weights(0.5))
    assert folded.nbytes == 2 * once
    folded.rollback()
    assert folded.version == 0
    assert torch.equal(logits(folded), built_in)
    folded.release()
    assert folded.nbytes == once
