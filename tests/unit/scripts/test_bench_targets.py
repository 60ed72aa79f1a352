"""scripts/bench http: how what was measured becomes ratios and verdicts."""

from __future__ import annotations

import pytest
from httpbench.contenders import BARE, GRPC, HTTP, NOOP, OURS, PEERS
from httpbench.found import Found
from httpbench.loads import ALONE, BUSY, HEAVY, Load
from httpbench.targets import Target, cells, ratios, targets
from httpbench.wrk import Sample


def _found(**rates: float) -> Found:
    """So many requests per second of each at 64 connections."""
    found = Found()
    for name, rate in rates.items():
        found.add(name, BUSY, Sample(rate, 1.0, 1.0, 1000.0 / rate))
    return found


def _by_name(made: list[Target]) -> dict[str, Target]:
    return {target.what: target for target in made}


def test_a_ratio_is_over_the_best_setting_of_a_peer() -> None:
    found = _found(**{OURS: 600.0, "pytriton, 0 ms": 200.0, "pytriton, 2 ms": 300.0})
    assert ratios(found)["pytriton"] == pytest.approx(2.0)


def test_there_is_a_ratio_for_every_peer_and_none_where_nothing_was_measured() -> None:
    made = ratios(_found(**{OURS: 600.0, NOOP: 1200.0}))
    assert made == dict.fromkeys(PEERS) | {NOOP: pytest.approx(0.5)}


def test_a_cell_is_ours_over_the_best_of_all_peers_and_limits_are_no_peers() -> None:
    found = _found(**{OURS: 600.0, "fastapi": 100.0, "litserve": 200.0, NOOP: 5000.0, BARE: 9000.0})
    assert cells(found) == {"64 connections": pytest.approx(3.0)}


def test_a_cell_without_a_peer_is_left_out() -> None:
    found = _found(**{OURS: 600.0, "fastapi": 100.0})
    found.add(OURS, Load(8, 64), Sample(10.0, 1.0, 1.0, 1.0))
    assert list(cells(found)) == ["64 connections"]


def test_other_settings_of_ours_count_for_nothing() -> None:
    found = _found(**{OURS: 600.0, f"{OURS}, 2 gateways": 6000.0, "fastapi": 600.0})
    assert cells(found) == {"64 connections": pytest.approx(1.0)}


def test_a_target_is_met_or_missed_or_was_not_measured() -> None:
    found = _found(**{OURS: 1800.0, "ray_serve": 100.0, "litserve": 900.0})
    made = _by_name(targets(found, Found()))
    assert made["64 connections: requests/s over ray_serve"].met is True
    assert made["64 connections: p99 over ray_serve"].met is True
    assert made["64 connections: requests/s over litserve"].met is False
    assert made["64 connections: requests/s over pytriton"].met is None


def test_latency_alone_is_compared_by_its_median() -> None:
    found = Found()
    found.add(OURS, ALONE, Sample(900.0, 1.1, 2.0, 3.0))
    found.add("fastapi", ALONE, Sample(1000.0, 1.0, 1.0, 1.0))
    target = _by_name(targets(found, Found()))["1 connection: p50 over fastapi"]
    assert target.reached == pytest.approx(1.1)
    assert target.met


def test_grpc_is_compared_with_http_by_the_same_client() -> None:
    found = _found(**{OURS: 900.0, HTTP: 600.0, GRPC: 400.0})
    found.add(HTTP, ALONE, Sample(500.0, 2.0, 3.0, 4.0))
    found.add(GRPC, ALONE, Sample(400.0, 3.0, 4.0, 5.0))
    made = _by_name(targets(found, Found()))
    assert made["64 connections: requests/s of gRPC over HTTP"].reached == pytest.approx(2 / 3)
    assert made["1 connection: p50 of gRPC over HTTP"].reached == pytest.approx(1.5)


def test_rows_are_compared_with_those_of_the_bare_container() -> None:
    heavy = Found()
    heavy.add(BARE, BUSY, Sample(800.0, 0, 0, 0))
    heavy.add(OURS, HEAVY["whole batches"], Sample(90.0, 1.0, 1.0, 1.0))
    target = _by_name(targets(Found(), heavy))["heavy model, whole batches: rows/s over the bare container"]
    assert target.reached == pytest.approx(0.9)
    assert target.met


def test_the_median_of_rounds_adds_up_their_failures() -> None:
    found = Found()
    for rate, refused in ((10.0, 1), (30.0, 0), (20.0, 2)):
        found.add(OURS, BUSY, Sample(rate, 1.0, 1.0, 1.0, refused))
    median = found.median(OURS)
    assert median is not None
    assert (median.rate, median.refused) == (20.0, 3)
    assert found.spread(OURS) == pytest.approx(3.0)
