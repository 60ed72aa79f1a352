"""Which stores another server leads: a sign of life that changes, not one that is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aoti_serve.cluster.coordinator.succession.standby import LEADER_SILENT_S
from aoti_serve.config import ModelConfig
from aoti_serve.launcher.configuration.leaders import NEWS_S, led_now
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.store.term import home_of


class Clock:
    """The time of day, which goes on when somebody waits."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


HOME = home_of("10.0.0.1:6379", "default")


@pytest.fixture
def model(tmp_path: Path) -> ModelConfig:
    return ModelConfig(name="m", package=tmp_path / "m.pt2", store=str(tmp_path / "store"))


def led(model: ModelConfig, clock: Clock, meanwhile: Callable[[], object] = lambda: None) -> dict[str, str]:
    def pause(seconds: float) -> None:
        clock.now += seconds
        meanwhile()

    return led_now([model], clock, pause)


def test_a_coordinator_that_lives_leads(model: ModelConfig) -> None:
    store = Store(model.store_root, "m", 4, home=HOME)
    store.beat()
    assert led(model, Clock(time.time()), store.beat) == {"m": HOME}


def test_one_that_has_just_ended_does_not_and_the_wait_for_it_has_an_end(model: ModelConfig) -> None:
    Store(model.store_root, "m", 4, home=HOME).beat()
    clock = Clock(began := time.time())
    assert led(model, clock) == {}
    assert clock() - began < NEWS_S + 1


def test_nobody_waits_for_one_that_has_ended_long_ago(model: ModelConfig) -> None:
    Store(model.store_root, "m", 4, home=HOME).beat()
    clock = Clock(later := time.time() + LEADER_SILENT_S)
    assert led(model, clock) == {}
    assert clock() == later


def test_nor_where_there_is_no_store(model: ModelConfig) -> None:
    clock = Clock(now := time.time())
    assert led(model, clock) == {}
    assert clock() == now


def test_a_clock_that_is_ahead_makes_no_longer_wait(model: ModelConfig) -> None:
    Store(model.store_root, "m", 4, home=HOME).beat()
    clock = Clock(early := time.time() - 1e6)
    assert led(model, clock) == {}
    assert clock() - early < NEWS_S + 1


@pytest.mark.parametrize("content", [b"", b"?", b"\xff", b"1e999 x"])
def test_a_sign_that_is_none_is_silence(model: ModelConfig, content: bytes) -> None:
    store = Store(model.store_root, "m", 4)
    (Path(model.store_root) / "BEAT").write_bytes(content)
    assert led(model, Clock(time.time())) == {}
    assert store.last_beat() == content
