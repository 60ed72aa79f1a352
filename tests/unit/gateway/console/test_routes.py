"""The console's files over HTTP: they come from the gateway alone, are kept by digest, and can be switched off."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from aoti_serve.config import BatchingConfig, GatewayConfig
from aoti_serve.errors import TryAgain
from aoti_serve.weights.swap.target import Exposure, Staging, Target
from aoti_serve.weights.version import Committed, Version
from tests.unit.gateway.http.gateway import NAME, VERSION, Gateway, assert_error, running


async def page_of(gateway: Gateway) -> tuple[str, list[str]]:
    answer = await gateway.client.get("/console")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["cache-control"] == "no-store"
    return answer.text, sorted(set(re.findall(r'(?:src|href)="([^"#][^"]*)"', answer.text)))


async def test_the_page_loads_nothing_from_elsewhere_and_nothing_inline() -> None:
    async with running(GatewayConfig(), BatchingConfig()) as gateway:
        text, loaded = await page_of(gateway)
        policy = (await gateway.client.get("/console")).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"://|<style|style=|onclick|<script(?! type=\"module\" src=)", text)
        assert [name.rpartition("/")[2] for name in loaded] == ["console.css", "main.js", "mark.svg"]


async def test_every_module_that_one_of_them_imports_is_there_and_may_be_kept() -> None:
    async with running(GatewayConfig(), BatchingConfig()) as gateway:
        (main,) = [name for name in (await page_of(gateway))[1] if name.endswith("main.js")]
        folder, wanted, seen = f"/{main.rpartition('/')[0]}", ["main.js"], set[str]()
        while wanted:
            name = wanted.pop()
            answer = await gateway.client.get(f"{folder}/{name}")
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/javascript; charset=utf-8"), name
            assert "immutable" in answer.headers["cache-control"]
            seen.add(name)
            wanted += set(re.findall(r'from "\./([^"]+)"', answer.text)) - seen
        assert len(seen) > 5


@pytest.mark.parametrize("path", ["/console", "/console/0/main.js"])
async def test_switched_off_it_is_not_there(path: str) -> None:
    async with running(GatewayConfig(console=False), BatchingConfig()) as gateway:
        assert_error(await gateway.client.get(path), 404)


async def figures(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.client.get(f"/v2/models/{NAME}/figures")).json()
    return found


async def test_figures_count_what_was_answered_and_what_was_refused() -> None:
    async with running(GatewayConfig(), BatchingConfig()) as gateway:
        before = await figures(gateway)
        await gateway.infer(1.0, 2.0)
        await gateway.infer(1.0, outputs=[{"name": "nothing"}])
        after = await figures(gateway)
        assert after["answered"] - before["answered"] == 1
        assert sum(after["failed"].values()) - sum(before["failed"].values()) == 1
        assert (after["all"]["answered"], after["all"]["rows"], after["all"]["failed"]) == (1, 2, 1)
        assert sum(after["latency"]["counts"]) - sum(before["latency"]["counts"]) == 1
        assert len(after["latency"]["counts"]) == len(after["latency"]["bounds"]) + 1
        (replica,) = after["replicas"]
        assert (replica["replica"], replica["usable"], replica["fault"]) == ("replica", True, None)


async def test_figures_name_the_version_that_answers_and_not_a_candidate() -> None:
    async with running(GatewayConfig(), BatchingConfig()) as gateway:
        out = Staging("9c0f", Version(number=VERSION + 1), Exposure(share=0.5))
        committed = Committed(epoch=1, version=Version(number=VERSION))
        await gateway.served.reconcile(Target(1, 2, committed, staging=out))
        listed = (await gateway.client.get(f"/v2/models/{NAME}")).json()["versions"]
        assert listed == [str(VERSION), str(VERSION + 1)]
        assert (await figures(gateway))["version"] == VERSION


@pytest.mark.parametrize(
    "error",
    [TryAgain(detail="it is being started again"), DeploymentUnavailableError(DeploymentID("coordinator", "default"))],
)
async def test_without_a_coordinator_figures_are_the_gateways_own(error: Exception) -> None:
    async with running(GatewayConfig(), BatchingConfig()) as gateway:
        gateway.coordinator.answers["exchange_statistics"] = error
        await gateway.infer(1.0)
        found = await figures(gateway)
        assert (found["all"], found["answered"]) == (None, 1)
