"""The page that shows all routes: it works without the internet, and can be switched off."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest

from aoti_serve.config import BatchingConfig, GatewayConfig
from tests.unit.gateway.http.gateway import INFER, NAME, VERSION, Gateway, assert_error, rows_of, running


async def test_the_page_loads_nothing_from_elsewhere(gateway: Gateway) -> None:
    page = await gateway.client.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "://" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert "http" not in page.headers["content-security-policy"]
    loaded = re.findall(r"""(?:src|href|url)\W+(?:=\s*)?["']([^"']+)""", page.text)
    assert sorted(loaded) == [
        *("docs/favicon-32x32.png", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "openapi.json")
    ]
    for name in loaded:
        there = await gateway.client.get(urljoin("/docs", name))
        assert there.status_code == 200
        assert there.content


async def test_a_browser_takes_its_files_for_what_they_are(gateway: Gateway) -> None:
    script = await gateway.client.get("/docs/swagger-ui-bundle.js")
    style = await gateway.client.get("/docs/swagger-ui.css")
    assert script.headers["content-type"].startswith("text/javascript")
    assert style.headers["content-type"].startswith("text/css")
    assert b"SwaggerUIBundle" in script.content
    assert b"@import" not in style.content
    kept = await gateway.client.get("/docs/swagger-ui.css", headers={"Range": "bytes=0-9"})
    assert (kept.status_code, kept.content) == (206, style.content[:10])


async def test_its_example_can_be_sent_as_it_is(gateway: Gateway) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    for path in (INFER, f"/v2/models/{NAME}/versions/{{version}}/infer"):
        operation = document["paths"][path]["post"]
        named = {entry["name"]: entry["example"] for entry in operation.get("parameters", ()) if "example" in entry}
        body = operation["requestBody"]["content"]["application/json"]["example"]
        assert rows_of(await gateway.client.post(path.format_map(named), json=body)).tolist() == [[0, 0]]
    assert named == {"version": str(VERSION)}


async def test_a_load_balancer_may_ask_for_the_head_of_them(gateway: Gateway) -> None:
    for path in ("/docs", "/openapi.json", "/docs/swagger-ui.css"):
        assert (await gateway.client.head(path)).status_code == 200


async def test_the_document_knows_where_a_proxy_has_put_it(gateway: Gateway) -> None:
    assert "servers" not in (await gateway.client.get("/openapi.json")).json()
    gateway.app.root_path = "/models"
    assert (await gateway.client.get("/models/openapi.json")).json()["servers"] == [{"url": "/models"}]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/docs/swagger-ui.css", "/redoc"])
async def test_switched_off_it_is_not_there(path: str) -> None:
    async with running(GatewayConfig(docs=False), BatchingConfig()) as gateway:
        assert_error(await gateway.client.get(path), 404)
