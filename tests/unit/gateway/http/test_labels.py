"""Labels over HTTP: their routes, and inference that names one."""

from __future__ import annotations

from typing import Any

import pytest

from aoti_serve.errors import LabelMoved
from aoti_serve.weights.labels import LabelChange
from aoti_serve.weights.swap.target import Target
from aoti_serve.weights.version import Committed, Version
from tests.unit.gateway.http.gateway import NAME, VERSION, WEIGHTS, Gateway, assert_error, rows_of, tensor
from tests.unit.gateway.http.test_weights_api import ADMIN, STATUS, methods

STABLE = f"{WEIGHTS}/labels/stable"


@pytest.mark.parametrize(
    ("body", "expected"),
    [({"version": 7}, "any"), ({"version": 7, "expected": 5}, 5), ({"version": 7, "expected": None}, None)],
)
async def test_a_label_is_moved_as_the_request_says(gateway: Gateway, body: dict[str, Any], expected: Any) -> None:
    gateway.coordinator.answers["relabel"] = {"stable": 7}
    response = await gateway.client.put(STABLE, json=body, headers=ADMIN)
    assert (response.status_code, response.json()) == (200, {"stable": 7})
    [(method, change, who)] = gateway.coordinator.calls
    assert (method, change) == ("relabel", LabelChange(name="stable", version=7, expected=expected))
    assert "127.0.0.1" in who


@pytest.mark.parametrize(("query", "expected"), [({}, "any"), ({"expected": 5}, 5), ({"expected": "none"}, None)])
async def test_a_label_is_deleted_and_what_is_expected_stands_in_the_query(
    gateway: Gateway, query: dict[str, Any], expected: Any
) -> None:
    gateway.coordinator.answers["relabel"] = {}
    response = await gateway.client.delete(STABLE, params=query, headers=ADMIN)
    assert (response.status_code, response.json()) == (200, {})
    assert gateway.coordinator.calls[0][1] == LabelChange(name="stable", version=None, expected=expected)


async def test_they_are_listed(gateway: Gateway) -> None:
    gateway.coordinator.answers["status"] = STATUS.model_copy(update={"labels": {"stable": 7}})
    response = await gateway.client.get(f"{WEIGHTS}/labels", headers=ADMIN)
    assert (response.status_code, response.json()) == (200, {"stable": 7})


async def test_a_label_that_has_moved_is_a_409(gateway: Gateway) -> None:
    gateway.coordinator.answers["relabel"] = error = LabelMoved(model=NAME, label="stable", version=6, expected=5)
    response = await gateway.client.put(STABLE, json={"version": 7, "expected": 5}, headers=ADMIN)
    assert assert_error(response, 409) == str(error)


@pytest.mark.parametrize(
    ("method", "path", "request_part", "says"),
    [
        pytest.param("PUT", "stable", {"json": {}}, "version", id="no version"),
        pytest.param("PUT", "stable", {"json": {"version": True}}, "version", id="true for 1"),
        pytest.param("PUT", "stable", {"json": {"version": 1, "expected": "one"}}, "expected", id="no number"),
        pytest.param("PUT", "stable", {"json": {"version": 1, "if": 1}}, "if: there is no such key", id="misspelt"),
        pytest.param("PUT", "stable", {"json": {"version": 1}, "params": {"expected": 1}}, "'expected'", id="query"),
        pytest.param("PUT", "12", {"json": {"version": 1}}, "name: it would be taken for a version's", id="digits"),
        pytest.param("PUT", "active", {"json": {"version": 1}}, "name: the server itself says", id="reserved"),
        pytest.param("PUT", "a%20b", {"json": {"version": 1}}, "name: a label has 1 to 64", id="a blank"),
        pytest.param("DELETE", "stable", {"params": {"expected": "one"}}, "expected", id="delete: no number"),
        pytest.param("DELETE", "stable", {"params": {"version": 1}}, "'version'", id="delete: of a version"),
        pytest.param("DELETE", "stable", {"json": {"expected": 1}}, "without a body", id="delete: a body"),
    ],
)
async def test_what_is_no_change_is_a_400_and_changes_nothing(
    gateway: Gateway, method: str, path: str, request_part: dict[str, Any], says: str
) -> None:
    response = await gateway.client.request(method, f"{WEIGHTS}/labels/{path}", headers=ADMIN, **request_part)
    assert says in assert_error(response, 400)
    assert methods(gateway) == set()


async def test_without_a_token_no_label_is_shown_or_moved(gateway: Gateway) -> None:
    for method, path in (("GET", f"{WEIGHTS}/labels"), ("PUT", STABLE), ("DELETE", STABLE)):
        assert_error(await gateway.client.request(method, path), 401)
    assert methods(gateway) <= {"refused"}


async def test_inference_may_name_a_label_of_the_version_that_answers(labelled: Gateway) -> None:
    for version in ("stable", str(VERSION)):
        path = f"/v2/models/{NAME}/versions/{version}"
        response = await labelled.client.post(f"{path}/infer", json={"inputs": [tensor((1.0,))]})
        assert rows_of(response).tolist() == [[2.0, 2.0]]
        assert response.json()["model_version"] == str(VERSION)
        for rest in ("", "/ready", "/config"):
            assert (await labelled.client.get(path + rest)).status_code == 200


async def test_a_label_whose_version_does_not_answer_is_a_404_that_says_so(labelled: Gateway) -> None:
    asked = {"inputs": [tensor((1.0,))]}
    response = await labelled.client.post(f"/v2/models/{NAME}/versions/canary/infer", json=asked)
    said = f"model '{NAME}' holds no version {VERSION + 1}, which is labelled 'canary': version {VERSION} answers"
    assert assert_error(response, 404) == said
    response = await labelled.client.post(f"/v2/models/{NAME}/versions/unknown/infer", json=asked)
    assert assert_error(response, 404) == f"model '{NAME}' holds no version unknown: version {VERSION} answers"


@pytest.fixture
async def labelled(gateway: Gateway) -> Gateway:
    """`stable` names the version that answers, `canary` the one after it."""
    labels = {"stable": VERSION, "canary": VERSION + 1}
    await gateway.served.reconcile(Target(1, 2, Committed(epoch=1, version=Version(number=VERSION)), labels=labels))
    return gateway
