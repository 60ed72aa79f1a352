"""What is wrong with a request has a status of its own, and a text that says so in JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.unit.gateway.http.conftest import MAX_BODY, MAX_QUEUED
from tests.unit.gateway.http.gateway import INFER, WEIGHTS, Gateway, assert_error, rows_of, tensor

BINARY = {"Inference-Header-Content-Length": "2"}
ERRORS = [
    pytest.param("POST", INFER, {"content": b""}, 400, id="nothing"),
    pytest.param("POST", INFER, {"content": b"{"}, 400, id="no JSON"),
    pytest.param("POST", INFER, {"content": b"\xff\xfe"}, 400, id="no UTF-8"),
    pytest.param("POST", INFER, {"json": []}, 400, id="no object"),
    pytest.param("POST", INFER, {"json": {"inputs": 5}}, 400, id="no list"),
    pytest.param("POST", INFER, {"json": {"inputs": []}}, 400, id="no input"),
    pytest.param("POST", INFER, {"content": b"{}", "headers": {"Content-Encoding": "gzip"}}, 400, id="compressed"),
    pytest.param("POST", INFER, {"content": b"{}" + bytes(MAX_BODY - 2), "headers": BINARY}, 400, id="the largest"),
    pytest.param("POST", INFER, {"content": bytes(MAX_BODY + 1), "headers": BINARY}, 413, id="too large"),
    pytest.param("GET", "/v2/models/doubling/nowhere", {}, 404, id="path"),
    pytest.param("GET", "/v2/" + "a" * 8000, {}, 404, id="long path"),
    pytest.param("GET", "/v2/models/other", {}, 404, id="model"),
    pytest.param("POST", "/v2/models/other/infer", {"content": b"{}"}, 404, id="model to infer"),
    pytest.param("GET", "/v2/models/doubling/versions/99", {}, 404, id="version"),
    pytest.param("GET", INFER, {}, 405, id="GET for POST"),
    pytest.param("DELETE", "/v2", {}, 405, id="DELETE"),
    pytest.param("GET", WEIGHTS, {}, 401, id="no token"),
    pytest.param("POST", WEIGHTS, {"headers": {"Authorization": "Bearer x"}}, 401, id="wrong token"),
    pytest.param("POST", f"{WEIGHTS}/rollback", {"headers": {"Authorization": "Basic x"}}, 401, id="no bearer"),
]


@pytest.mark.parametrize(("method", "path", "what", "status"), ERRORS)
async def test_an_error_has_its_true_status_and_says_why(
    gateway: Gateway, method: str, path: str, what: dict[str, Any], status: int
) -> None:
    assert_error(await gateway.client.request(method, path, **what), status)
    assert rows_of(await gateway.infer(1.0)).tolist() == [[2, 2]]


MISFITS = [
    pytest.param([tensor((1.0,), name="z")], "z", id="name"),
    pytest.param([tensor((1.0,), datatype="FP64")], "x", id="dtype"),
    pytest.param([tensor((1.0,), datatype="BYTES")], "x", id="dtype unknown"),
    pytest.param([tensor((1.0,), shape=[2, 1])], "x", id="shape"),
    pytest.param([tensor((1.0,), shape=[2])], "x", id="rank"),
    pytest.param([tensor((), shape=[0, 2])], "x", id="no row"),
    pytest.param([], "x", id="missing"),
    pytest.param([tensor((1.0,)), tensor((1.0,), name="extra")], "extra", id="extra"),
    pytest.param([tensor((1.0,), data=[1.0])], "x", id="data length"),
    pytest.param([tensor((1.0,), data=["a", "b"])], "x", id="data type"),
]


@pytest.mark.parametrize(("inputs", "named"), MISFITS)
async def test_an_input_that_does_not_fit_is_named(gateway: Gateway, inputs: list[Any], named: str) -> None:
    assert f"'{named}'" in assert_error(await gateway.client.post(INFER, json={"inputs": inputs}), 400)


async def test_an_error_names_its_class(gateway: Gateway) -> None:
    refused = await gateway.client.post("/v2/models/other/infer", json={"inputs": []})
    assert (refused.status_code, refused.json()["type"]) == (404, "UnknownModel")


async def test_json_beyond_its_limit_is_refused_with_the_way_out(gateway: Gateway) -> None:
    assert "binary" in assert_error(await gateway.client.post(INFER, content=b"[" * MAX_BODY), 413)


async def test_a_run_that_fails_is_a_500_and_the_next_one_does_not(gateway: Gateway) -> None:
    assert "its log has it" in assert_error(await gateway.infer(-1.0), 500)
    assert rows_of(await gateway.infer(1.0)).tolist() == [[2, 2]]


async def test_more_rows_than_may_wait_are_told_when_to_come_again(gateway: Gateway) -> None:
    gateway.runner.may_run.clear()
    asked = [asyncio.create_task(gateway.infer(float(row))) for row in range(2 * MAX_QUEUED)]
    refused: list[httpx.Response] = []
    while len(refused) < MAX_QUEUED - 2:  # one runs, one may be on its way to the runner
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        refused = [task.result() for task in done]
    gateway.runner.may_run.set()
    for row, response in enumerate(await asyncio.gather(*asked)):
        if response.status_code == 200:
            assert rows_of(response).tolist() == [[2 * row] * 2]
        else:
            assert_error(response, 503)
            assert int(response.headers["Retry-After"]) >= 1


async def test_the_last_error_says_the_names_of_what_is_there(gateway: Gateway) -> None:
    text = assert_error(await gateway.client.post("/v2/models/other/infer", content=json.dumps({})), 404)
    assert "doubling" in text
