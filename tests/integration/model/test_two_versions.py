"""Two versions of one container answer at once: the active one, and the staged or the previous one behind it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from aoti_serve.errors import ContainerClosed, VersionNotResident
from aoti_serve.model.container import Container
from tests.integration.models import Compiled

Weights = dict[str, torch.Tensor]


def weights_of(mixed: Compiled, version: int) -> Weights:
    """Weights whose answers tell the version: a shift of the offset shifts all logits."""
    return mixed.weights() | {"offset": mixed.weights()["offset"] + 100.0 * version}


def commit(container: Container, mixed: Compiled, version: int) -> None:
    container.stage(weights_of(mixed, version), version)
    container.try_staged()
    container.commit()
    container.open_previous()


def computed_by(container: Container, mixed: Compiled, version: int | None = None) -> tuple[int, int]:
    """The version that the answer names, and the one that its numbers show."""
    named, outputs = container.infer(mixed.inputs, version)
    return named, round((outputs["logits"].mean().item() - base(mixed)) / 100.0)


def base(mixed: Compiled) -> float:
    with Container(mixed.package) as container:
        container.stage(weights_of(mixed, 0), 1)
        container.commit()
        return container.run(mixed.inputs)["logits"].mean().item()


@pytest.fixture
def container(mixed: Compiled) -> Container:
    container = Container(mixed.package, num_runners=2)
    commit(container, mixed, 1)
    return container


def test_a_staged_version_answers_who_asks_for_it(container: Container, mixed: Compiled) -> None:
    container.stage(weights_of(mixed, 2), 2)
    with pytest.raises(VersionNotResident):  # nobody has run it yet
        container.infer(mixed.inputs, 2)
    container.try_staged()
    for _ in range(3):
        assert computed_by(container, mixed, 2) == (2, 2)
        assert computed_by(container, mixed) == computed_by(container, mixed, 1) == (1, 1)
    container.commit()
    assert computed_by(container, mixed) == computed_by(container, mixed, 2) == (2, 2)


def test_the_previous_version_answers_who_asks_for_it(container: Container, mixed: Compiled) -> None:
    for version in range(2, 6):
        commit(container, mixed, version)
        assert computed_by(container, mixed, version - 1) == (version - 1, version - 1)
        assert computed_by(container, mixed) == (version, version)
    container.rollback()
    container.open_previous()
    assert computed_by(container, mixed, 5) == (5, 5)
    assert computed_by(container, mixed) == (4, 4)


@pytest.mark.parametrize("step", ["abort", "release", "stage", "close"])
def test_what_leaves_memory_answers_nobody(container: Container, mixed: Compiled, step: str) -> None:
    container.stage(weights_of(mixed, 2), 2)
    container.try_staged()
    container.stage(weights_of(mixed, 3), 3) if step == "stage" else getattr(container, step)()
    with pytest.raises(ContainerClosed if step == "close" else VersionNotResident):
        container.infer(mixed.inputs, 2)
    if step != "close":
        assert computed_by(container, mixed) == (1, 1)


def test_no_second_copy_of_the_weights(container: Container, mixed: Compiled) -> None:
    before = container.nbytes
    container.stage(weights_of(mixed, 2), 2)
    container.try_staged()
    assert container.nbytes == 2 * before


def test_a_step_waits_for_runs_on_the_version_that_it_takes_away(container: Container, mixed: Compiled) -> None:
    container.stage(weights_of(mixed, 2), 2)
    container.try_staged()
    aborting = threading.Thread(target=container.abort)
    with container._versions._second._gate:  # as a run that lasts
        aborting.start()
        aborting.join(0.2)
        assert aborting.is_alive()
        assert computed_by(container, mixed) == (1, 1)  # the active version answers meanwhile
    aborting.join(60)
    assert not aborting.is_alive()


def test_steps_amid_runs_of_both_versions_mix_nothing(container: Container, mixed: Compiled) -> None:
    """Runs on all resident versions go on while versions are staged, committed, rolled back and aborted."""
    zero, done = base(mixed), threading.Event()

    def ask() -> int:
        answered = 0
        while not done.is_set():
            for version in (None, container.staged, container.previous, container.version):
                try:
                    named, outputs = container.infer(mixed.inputs, version)
                except VersionNotResident:
                    continue
                assert version in (None, named)
                assert outputs["logits"].mean().item() == pytest.approx(zero + 100.0 * named, rel=1e-3)
                answered += 1
        return answered

    with ThreadPoolExecutor(3) as clients:
        asking = [clients.submit(ask) for _ in range(3)]
        try:
            for version in range(2, 30):
                commit(container, mixed, version)
                if version % 3 == 0:
                    container.rollback()
                    container.open_previous()
                if version % 4 == 0:
                    container.stage(weights_of(mixed, 100 + version), 100 + version)
                    container.try_staged()
                    container.abort()
        finally:
            done.set()
        assert all(future.result(60) > 0 for future in asking)
