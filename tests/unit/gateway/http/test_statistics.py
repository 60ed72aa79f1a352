"""Triton's statistics over HTTP, of a real gateway whose coordinator is played."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aoti_serve.cluster.coordinator.gathered import Gathered
from aoti_serve.config import BatchingConfig, GatewayConfig
from aoti_serve.errors import TryAgain
from aoti_serve.protocol.statistics import VersionStatistics
from tests.unit.gateway.http.gateway import NAME, VERSION, Gateway, assert_error, running

STATS = f"/v2/models/{NAME}/stats"


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with running(GatewayConfig(), BatchingConfig(max_batch_size=4)) as found:
        yield found


async def stats(gateway: Gateway, path: str = STATS) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await gateway.client.get(path)).json()["model_stats"]
    return rows


async def test_requests_count_when_they_are_answered_and_large_ones_once(gateway: Gateway) -> None:
    await gateway.infer(1, 2)
    await gateway.infer(*range(10))
    assert (await gateway.infer(-1)).status_code == 500
    assert (await gateway.infer(1, inputs=[])).status_code == 400
    (row,) = await stats(gateway)
    assert (row["name"], row["version"], row["inference_count"]) == (NAME, str(VERSION), 12)
    assert row["execution_count"] == 4, "one, and three pieces"
    assert row["inference_stats"]["success"]["count"] == row["inference_stats"]["queue"]["count"] == 2
    assert row["inference_stats"]["fail"]["count"] == 2
    batches = {each["batch_size"]: each["compute_infer"]["count"] for each in row["batch_stats"]}
    assert batches == {2: 1, 3: 2, 4: 1}


async def test_what_other_gateways_have_counted_is_added(gateway: Gateway) -> None:
    others = [VersionStatistics(3, inference_count=5), VersionStatistics(VERSION, inference_count=7)]
    gateway.coordinator.answers["exchange_statistics"] = Gathered(others, [])
    await gateway.infer(1)
    for path in (STATS, "/v2/models/stats"):
        assert [(row["version"], row["inference_count"]) for row in await stats(gateway, path)] == [("3", 5), ("7", 8)]
    assert [row["version"] for row in await stats(gateway, f"/v2/models/{NAME}/versions/3/stats")] == ["3"]


async def test_a_part_is_never_given_for_the_whole(gateway: Gateway) -> None:
    gateway.coordinator.answers["exchange_statistics"] = TryAgain(detail="it is being started again")
    assert_error(await gateway.client.get(STATS), 503)


async def test_what_is_not_there_is_a_404(gateway: Gateway) -> None:
    for path in ("/v2/models/letters/stats", f"/v2/models/{NAME}/versions/99/stats"):
        assert_error(await gateway.client.get(path), 404)
