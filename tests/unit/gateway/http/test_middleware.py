"""The inference token over HTTP, and web pages of other origins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from aoti_serve.config import BatchingConfig, GatewayConfig
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.http.middleware import TokenMiddleware
from aoti_serve.token import TokenSet
from tests.unit.gateway.http.gateway import INFER, NAME, TOKEN, WEIGHTS, Gateway, assert_error, rows_of, running

ASKER = "asker-0123456789abcdef"
ASKS, ADMIN, WRONG = ({"Authorization": f"Bearer {token}"} for token in (ASKER, TOKEN, "wrong"))
PAGE, OTHER_PAGE = "https://app.example", "https://other.example"
MODEL = f"/v2/models/{NAME}"


@asynccontextmanager
async def running_with(**gateway: Any) -> AsyncIterator[Gateway]:
    async with running(GatewayConfig(**gateway), BatchingConfig()) as made:
        yield made


def token_file(folder: Path) -> Path:
    path = folder / "tokens"
    path.write_text(ASKER)
    path.chmod(0o600)
    return path


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[Gateway]:
    """It asks for an inference token."""
    async with running_with(inference_tokens=token_file(tmp_path)) as made:
        yield made


@pytest.fixture
async def crossed() -> AsyncIterator[Gateway]:
    """A page of one other origin may ask."""
    async with running_with(cors_origins=[PAGE]) as made:
        yield made


async def preflight(gateway: Gateway, origin: str, method: str = "POST") -> httpx.Response:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization",
    }
    return await gateway.client.options(INFER, headers=asked)


@pytest.mark.parametrize("headers", [pytest.param({}, id="no token"), pytest.param(WRONG, id="a wrong one")])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", INFER),
        ("POST", f"{MODEL}/versions/7/infer"),
        ("GET", "/v2"),
        ("GET", "/v2/models"),
        ("GET", MODEL),
        ("GET", f"{MODEL}/config"),
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/what-comes-later"),
        ("GET", "/openapi.json"),
    ],
)
async def test_without_a_token_nothing_of_models_is_told(
    closed: Gateway, method: str, path: str, headers: dict[str, str]
) -> None:
    response = await closed.client.request(method, path, headers=headers, content=b"x" * 1000)
    assert "Bearer <inference token>" in assert_error(response, 401)


@pytest.mark.parametrize("headers", [pytest.param(ASKS, id="an inference token"), pytest.param(ADMIN, id="an admin's")])
async def test_with_one_everything_is(closed: Gateway, headers: dict[str, str]) -> None:
    assert rows_of(await closed.infer(1.0, headers=headers))[0, 0] == 2.0
    for path in ("/v2", "/v2/models", MODEL, f"{MODEL}/config"):
        assert (await closed.client.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/ready", f"{MODEL}/ready"])
async def test_probes_need_no_token(closed: Gateway, path: str) -> None:
    assert (await closed.infer(1.0, headers=ASKS)).status_code == 200  # then it is ready
    for method in ("GET", "HEAD"):
        for headers in ({}, WRONG):
            assert (await closed.client.request(method, path, headers=headers)).status_code == 200
    assert_error(await closed.client.get("/elsewhere"), 404)


async def test_the_page_of_the_routes_is_open_and_tells_nothing_of_models(closed: Gateway) -> None:
    for page in ("/", "/docs", "/console"):
        shown = await closed.client.get(page)
        assert (shown.status_code, NAME in shown.text) == (200, False)
    assert (await closed.client.get("/openapi.json", headers=ASKS)).status_code == 200


@pytest.mark.parametrize(
    ("root_path", "path", "needs_one"),
    [
        ("", "/v2/health/live", False),
        ("/prefix", "/prefix/v2/health/live", False),
        ("/prefix", "/prefix/v2/models", True),
        ("/v", "/v2/models", True),
        ("", f"{MODEL}/ready/infer", True),
        ("", f"{MODEL}/infer/ready", True),
        ("", "/v2/models/a\n/infer", True),
        ("", "/v2", True),
        ("", "/v2x", True),
    ],
)
async def test_paths_are_read_as_the_routes_read_them(
    tmp_path: Path, root_path: str, path: str, needs_one: bool
) -> None:
    passed: list[Scope] = []
    access = Access(GatewayConfig(inference_tokens=token_file(tmp_path)), TokenSet(b"key"))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope)

    async def send(message: Message) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": path, "root_path": root_path, "headers": []}
    await TokenMiddleware(app, access)(scope, None, send)  # type: ignore[arg-type]  # nothing is read
    assert not passed if needs_one else passed == [scope]


async def test_an_inference_token_changes_no_weights(closed: Gateway) -> None:
    assert "Bearer <admin token>" in assert_error(await closed.client.get(WEIGHTS, headers=ASKS), 401)
    assert (await closed.client.get(WEIGHTS, headers=ADMIN)).status_code == 200


async def test_who_guesses_is_told_when_to_come_again(closed: Gateway) -> None:
    while (response := await closed.infer(1.0, headers=WRONG)).status_code == 401:
        pass
    assert "try again in 1 s" in assert_error(response, 429)
    assert response.headers["Retry-After"] == "1"


async def test_pages_of_other_origins_may_not_ask_unless_it_is_said(gateway: Gateway) -> None:
    response = await preflight(gateway, PAGE)
    assert "access-control-allow-origin" not in response.headers
    response = await gateway.infer(1.0, headers={"Origin": PAGE})
    assert not any(name.startswith("access-control") for name in response.headers)


async def test_a_page_of_a_named_origin_asks_and_reads_what_belongs_to_the_answer(crossed: Gateway) -> None:
    answer = await preflight(crossed, PAGE)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization"
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD, POST"
    response = await crossed.infer(1.0, headers={"Origin": PAGE})
    assert rows_of(response)[0, 0] == 2.0
    assert response.headers["Access-Control-Allow-Origin"] == PAGE
    exposed = response.headers["Access-Control-Expose-Headers"]
    assert {"X-Request-ID", "Inference-Header-Content-Length"} <= set(exposed.split(", "))
    assert "Access-Control-Allow-Credentials" not in response.headers


async def test_a_page_of_any_other_does_not(crossed: Gateway) -> None:
    for origin, method in ((OTHER_PAGE, "POST"), ("null", "POST"), (PAGE, "DELETE")):
        assert (await preflight(crossed, origin, method)).status_code == 400
    response = await crossed.infer(1.0, headers={"Origin": OTHER_PAGE})
    assert "access-control-allow-origin" not in response.headers


async def test_any_origin_may_ask_but_never_with_the_browsers_credentials() -> None:
    async with running_with(cors_origins=["*"]) as gateway:
        for response in (await preflight(gateway, PAGE), await gateway.infer(1.0, headers={"Origin": PAGE})):
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers


async def test_a_page_hears_that_it_needs_a_token(tmp_path: Path) -> None:
    """Its browser asks whether it may ask, without a token."""
    async with running_with(cors_origins=[PAGE], inference_tokens=token_file(tmp_path)) as gateway:
        assert (await preflight(gateway, PAGE)).status_code == 200
        response = await gateway.infer(1.0, headers={"Origin": PAGE})
        assert (response.status_code, response.headers["Access-Control-Allow-Origin"]) == (401, PAGE)
        assert (await gateway.infer(1.0, headers=ASKS | {"Origin": PAGE})).status_code == 200
