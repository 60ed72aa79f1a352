"""How many replicas and gateways: by what they have in hand."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from aoti_serve.cluster.scaling import FORGOTTEN_S, METRIC, Loads, by_load


def test_a_replica_sums_the_newest_load_of_each_gateway() -> None:
    loads = Loads()
    for gateway, rows in (("a", 10.0), ("b", 3.0), ("a", 4.0)):
        loads.note(gateway, rows)
    assert loads.rows == 7.0


def test_a_gateway_that_says_nothing_any_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads()
    loads.note("a", 10.0)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + FORGOTTEN_S + 1)
    loads.note("b", 1.0)
    assert loads.rows == 1.0


@pytest.mark.parametrize(
    ("metrics", "wanted"),
    [
        pytest.param({METRIC: {"one": 64.0, "two": 64.0}}, 4.0, id="twice-the-target"),
        pytest.param({METRIC: {"one": 0.0}}, 0.0, id="idle"),
        pytest.param({}, 0.0, id="before-any-metric"),
        pytest.param(None, 0.0, id="no-metrics"),
    ],
)
def test_as_many_as_what_is_in_hand_needs(metrics: Any, wanted: float) -> None:
    config = SimpleNamespace(get_target_ongoing_requests=lambda: 32.0)
    context: Any = SimpleNamespace(aggregated_metrics=metrics, config=config)
    assert by_load(context) == (wanted, {})
