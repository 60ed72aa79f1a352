"""The time that a client gives its request: it counts while the request waits and while it runs. And what limits it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aoti_serve.config import BatchingConfig, GatewayConfig
from tests.unit.gateway.http.gateway import NAME, Gateway, assert_error, rows_of, running

SHORT_S = 0.2
WAYS = [
    pytest.param({"parameters": {"timeout": int(SHORT_S * 1e6)}}, {}, id="parameter"),
    pytest.param({}, {"X-Request-Timeout-Seconds": str(SHORT_S)}, id="header"),
]


@pytest.mark.parametrize(("request_part", "headers"), WAYS)
async def test_a_deadline_that_passes_while_a_request_waits_is_a_504_and_costs_no_run(
    gateway: Gateway, request_part: dict[str, Any], headers: dict[str, str]
) -> None:
    gateway.runner.may_run.clear()
    first = asyncio.create_task(gateway.infer(1.0))
    await gateway.runner.has_begun(1.0)
    waiting = asyncio.create_task(gateway.infer(2.0))  # it may be on its way to the replica already
    assert_error(await gateway.infer(3.0, headers=headers, **request_part), 504)
    assert not first.done()
    gateway.runner.may_run.set()
    assert [rows_of(await task)[0, 0] for task in (first, waiting)] == [2, 4]
    assert rows_of(await gateway.infer(4.0))[0, 0] == 8
    assert gateway.runner.begun == [1, 2, 4]


@pytest.mark.parametrize(("request_part", "headers"), WAYS)
async def test_a_deadline_that_passes_during_the_run_is_a_504_and_harms_nobody(
    gateway: Gateway, request_part: dict[str, Any], headers: dict[str, str]
) -> None:
    gateway.runner.may_run.clear()
    assert_error(await gateway.infer(1.0, headers=headers, **request_part), 504)
    gateway.runner.may_run.set()
    assert rows_of(await gateway.infer(2.0))[0, 0] == 4


async def test_without_a_live_replica_the_answer_is_a_503_that_says_when_to_come_again() -> None:
    async with running(GatewayConfig(), BatchingConfig(max_queue_wait_ms=200)) as gateway:
        gateway.served.route(())
        for link in gateway.served._pool._links.values():
            link.transport.abort()
        response = await asyncio.wait_for(gateway.infer(1.0), 10)
        assert f"model '{NAME}': no replica of it lives" in assert_error(response, 503)
        assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("given", ["soon", "nan", ""])
async def test_a_deadline_that_is_no_number_is_refused(gateway: Gateway, given: str) -> None:
    answer = await gateway.infer(1.0, headers={"X-Request-Timeout-Seconds": given})
    assert "X-Request-Timeout-Seconds" in assert_error(answer, 400)
