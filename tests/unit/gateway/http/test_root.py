"""Who opens the server's address learns where to go on: a person in a browser, and a program."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest

from aoti_serve import __version__
from aoti_serve.config import BatchingConfig, GatewayConfig
from tests.unit.gateway.http.gateway import Gateway, assert_error, running

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
WHO = {"name": "aoti-serve", "version": __version__}


async def test_a_program_is_told_which_routes_there_are(gateway: Gateway) -> None:
    answer = await gateway.client.get("/")
    found = answer.json()
    assert (answer.status_code, answer.headers["vary"]) == (200, "Accept")
    places = {"protocol": "/v2", "models": "/v2/models", "console": "/console", "docs": "/docs"}
    assert found == WHO | places
    for place in places:
        assert (await gateway.client.get(found[place])).status_code == 200
    assert (await gateway.client.head("/")).content == b""
    assert "GET, HEAD, OPTIONS" in assert_error(await gateway.client.post("/"), 405)


@pytest.mark.parametrize("prefix", ["", "/of/the/proxy"])
@pytest.mark.parametrize("slash", ["/", ""])
async def test_a_browser_is_led_to_the_console_also_behind_a_prefix(gateway: Gateway, prefix: str, slash: str) -> None:
    gateway.app.root_path = prefix
    at = (prefix + slash) or "/"
    answer = await gateway.client.get(at, headers=BROWSER)
    assert (answer.status_code, answer.headers["vary"]) == (307, "Accept")
    assert urljoin(at, answer.headers["location"]) == f"{prefix}/console"
    assert (await gateway.client.get(at)).json()["console"] == f"{prefix}/console"


async def test_it_names_only_what_is_switched_on() -> None:
    async with running(GatewayConfig(console=False), BatchingConfig()) as gateway:
        assert (await gateway.client.get("/", headers=BROWSER)).headers["location"] == "docs"
        assert "console" not in (await gateway.client.get("/")).json()
    async with running(GatewayConfig(console=False, docs=False), BatchingConfig()) as gateway:
        answer = await gateway.client.get("/", headers=BROWSER)
        assert answer.json() == WHO | {"protocol": "/v2", "models": "/v2/models"}
