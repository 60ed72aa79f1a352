"""The weights API: who may use it, what the coordinator is asked, and what a client is answered."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import SwapInProgress
from aoti_serve.signature.golden.file import MAX_GOLDEN_BYTES
from aoti_serve.weights.adapter_config import AdapterConfig
from aoti_serve.weights.assets import MAX_ASSETS_BYTES
from aoti_serve.weights.swap.target import Exposure
from aoti_serve.weights.swap_options import ExposureOptions
from aoti_serve.weights.version import GoldenFile, Version
from tests.unit.gateway.http.gateway import NAME, TOKEN, VERSION, WEIGHTS, Coordinator, Gateway, assert_error

ADMIN = {"Authorization": f"Bearer {TOKEN}"}
OCTETS = {"Content-Type": "application/octet-stream"}
STATUS = WeightsStatus(
    model=NAME,
    revision=1,
    epoch=1,
    settled=True,
    current=Version(number=VERSION),
    previous=None,
    replicas=(),
    candidate=None,
    swap=None,
    last=None,
)


def methods(gateway: Gateway) -> set[str]:
    return {method for method, *_ in gateway.coordinator.calls}


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic abc"}, {"Authorization": TOKEN}]
)
async def test_without_the_right_token_the_coordinator_is_asked_nothing(
    gateway: Gateway, headers: dict[str, str]
) -> None:
    asked = [("GET", ""), ("GET", "/versions"), ("GET", "/events"), ("POST", ""), ("POST", "/rollback")]
    asked += [("POST", "/candidate"), ("POST", "/promote"), ("POST", "/withdraw")]
    asked += [("POST", "/golden"), ("POST", "/assets")]
    for method, path in asked:
        response = await gateway.client.request(method, WEIGHTS + path, headers=headers)
        assert TOKEN not in assert_error(response, 401)
    assert methods(gateway) <= {"refused"}


async def test_events_end_when_the_gateway_takes_its_leave(gateway: Gateway) -> None:
    """It answers on meanwhile, and waits for its connections to end."""
    statuses = iter([STATUS, STATUS.model_copy(update={"revision": 2})])

    async def status(_: int) -> WeightsStatus:
        if (found := next(statuses, None)) is None:
            raise AssertionError("asked after it has left")
        if found.revision == 2:
            gateway.plane.leave()
        return found

    gateway.coordinator.answers["status"] = status
    response = await gateway.client.get(f"{WEIGHTS}/events", headers=ADMIN)
    assert response.text.count("event: weights") == 2
    assert gateway.plane.door.open


async def test_a_status_is_what_the_coordinator_says(gateway: Gateway) -> None:
    gateway.coordinator.answers["status"] = STATUS
    response = await gateway.client.get(WEIGHTS, headers=ADMIN)
    assert (response.status_code, WeightsStatus.model_validate_json(response.content)) == (200, STATUS)


@pytest.mark.parametrize(("wait", "status"), [("true", 200), ("false", 202)])
async def test_a_change_that_has_only_begun_is_a_202(gateway: Gateway, wait: str, status: int) -> None:
    gateway.coordinator.answers |= {"rollback": STATUS, "swap_uri": STATUS}
    for path, body in (("/rollback", {"version": 3}), ("", {"uri": "v2.safetensors", "label": "new"})):
        response = await gateway.client.post(WEIGHTS + path, json=body, headers=ADMIN, params={"wait": wait})
        assert response.status_code == status, response.text
    rollback, swap = gateway.coordinator.calls
    assert (rollback[:2], rollback[-1]) == (("rollback", 3), wait == "true")
    assert (swap[:2], swap[2].label, swap[-1]) == (("swap_uri", "v2.safetensors"), "new", wait == "true")


async def test_the_settings_of_an_adapter_reach_the_coordinator(gateway: Gateway) -> None:
    gateway.coordinator.answers |= {"open_upload": SwapInProgress(model=NAME, phase="staging"), "swap_uri": STATUS}
    settings = {"r": 4, "lora_alpha": 16, "bias": "none", "use_dora": False}
    query = {"adapter": "true", "adapter_config": json.dumps(settings)}
    sent = ADMIN | {"Content-Type": "application/octet-stream"}
    assert_error(await gateway.client.post(WEIGHTS, content=b"bytes", headers=sent, params=query), 409)
    for more in ({"adapter_config": settings}, {}):
        await gateway.client.post(WEIGHTS, json={"uri": "a", "adapter": True} | more, headers=ADMIN)
    options = [call[1 if call[0] == "open_upload" else 2] for call in gateway.coordinator.calls]
    config = AdapterConfig(r=4, lora_alpha=16)
    assert [(asked.adapter, asked.adapter_config) for asked in options] == [
        (True, config),
        (True, config),
        (True, None),
    ]


async def test_a_delta_is_asked_for_in_the_query_or_in_the_json(gateway: Gateway) -> None:
    gateway.coordinator.answers |= {"open_upload": SwapInProgress(model=NAME, phase="staging"), "swap_uri": STATUS}
    sent = ADMIN | {"Content-Type": "application/octet-stream"}
    await gateway.client.post(WEIGHTS, content=b"bytes", headers=sent, params={"delta": "true", "base_version": 3})
    await gateway.client.post(WEIGHTS, json={"uri": "a", "delta": True}, headers=ADMIN)
    options = [call[1 if call[0] == "open_upload" else 2] for call in gateway.coordinator.calls]
    assert [(asked.delta, asked.base_version) for asked in options] == [(True, 3), (True, None)]


@pytest.mark.parametrize(
    ("query", "rename", "drop"),
    [
        pytest.param(r"rename=bert\.=", (r"bert\.=",), None, id="one"),
        pytest.param("rename=a=b&rename=b=c&drop=x", ("a=b", "b=c"), ("x",), id="each-a-parameter"),
        pytest.param('rename=["a=b","b=c"]&drop=[]', ("a=b", "b=c"), (), id="json"),
    ],
)
async def test_how_a_checkpoint_is_read_stands_in_the_query(
    gateway: Gateway, query: str, rename: tuple[str, ...], drop: tuple[str, ...] | None
) -> None:
    gateway.coordinator.answers |= {"open_upload": SwapInProgress(model=NAME, phase="staging")}
    sent = ADMIN | {"Content-Type": "application/octet-stream"}
    await gateway.client.post(f"{WEIGHTS}?{query}&cast=true", content=b"bytes", headers=sent)
    (call,) = gateway.coordinator.calls
    assert (call[1].rename, call[1].drop, call[1].cast) == (rename, drop, True)


async def test_how_a_checkpoint_is_read_stands_in_the_json(gateway: Gateway) -> None:
    gateway.coordinator.answers |= {"swap_uri": STATUS}
    await gateway.client.post(WEIGHTS, json={"uri": "a", "rename": ["=model."], "drop": ["b"]}, headers=ADMIN)
    options = gateway.coordinator.calls[0][2]
    assert (options.rename, options.drop, options.cast) == (("=model.",), ("b",), None)


async def test_a_candidate_is_a_swap_with_its_shares_in_the_body_or_in_the_query(gateway: Gateway) -> None:
    gateway.coordinator.answers |= {"open_upload": SwapInProgress(model=NAME, phase="staging"), "swap_uri": STATUS}
    asked: dict[str, Any] = {"candidate": True, "share": "5%", "shadow": 0.1}
    assert (await gateway.client.post(WEIGHTS, json={"uri": "a"} | asked, headers=ADMIN)).status_code == 200
    sent = ADMIN | {"Content-Type": "application/octet-stream"}
    assert_error(await gateway.client.post(WEIGHTS, content=b"bytes", headers=sent, params=asked), 409)
    options = [call[1 if call[0] == "open_upload" else 2] for call in gateway.coordinator.calls]
    assert [found.exposure for found in options] == [Exposure(share=0.05, shadow=0.1)] * 2


async def test_a_candidate_is_exposed_promoted_and_withdrawn(gateway: Gateway) -> None:
    gateway.coordinator.answers |= dict.fromkeys(("expose", "promote", "withdraw"), STATUS)
    for body in ({"share": "20%"}, {"shadow": 0}, {}, None):
        assert (await gateway.client.post(f"{WEIGHTS}/candidate", json=body, headers=ADMIN)).status_code == 200
    for path, wait, status in (("promote", "true", 200), ("withdraw", "false", 202)):
        response = await gateway.client.post(f"{WEIGHTS}/{path}", headers=ADMIN, params={"wait": wait})
        assert (response.status_code, WeightsStatus.model_validate_json(response.content)) == (status, STATUS)
    *exposed, promoted, withdrawn = gateway.coordinator.calls
    assert [options for _, options, _ in exposed] == [
        ExposureOptions(share=0.2),
        ExposureOptions(shadow=0.0),
        *[ExposureOptions()] * 2,
    ]
    assert [(call[0], call[-1]) for call in (promoted, withdrawn)] == [("promote", True), ("withdraw", False)]
    assert "from 127.0.0.1" in promoted[1]


async def test_an_error_of_the_coordinator_arrives_as_itself(gateway: Gateway) -> None:
    gateway.coordinator.answers["rollback"] = error = SwapInProgress(model=NAME, phase="staging")
    response = await gateway.client.post(f"{WEIGHTS}/rollback", headers=ADMIN)
    assert assert_error(response, 409) == str(error)


@pytest.mark.parametrize(
    ("path", "request_part", "says"),
    [
        pytest.param("", {"content": b"bytes"}, "Content-Type", id="no kind"),
        pytest.param("", {"json": {"uri": "v2", "url": "misspelt"}}, "url", id="misspelt"),
        pytest.param("", {"json": {"label": "no uri"}}, "uri", id="no uri"),
        pytest.param("", {"json": {"uri": "v2", "label": "\x1b[2J"}}, "label", id="control characters"),
        pytest.param("", {"json": {"uri": "a", "adapter_config": {}}}, "adapter", id="no adapter"),
        pytest.param(
            "",
            {
                "params": {"adapter": "true", "adapter_config": '{"r": 1, "lora_alpha": 1, "use_dora": true}'},
                "content": b"",
                "headers": ADMIN | {"Content-Type": "application/octet-stream"},
            },
            "adapter_config: use_dora True is not supported; merge it where it was trained",
            id="no plain adapter",
        ),
        pytest.param("", {"json": {"uri": "a", "partial": "yes"}}, "partial", id="a word for true"),
        pytest.param("", {"json": {"uri": "a"}, "params": {"label": "b"}}, "'label'", id="options in two places"),
        pytest.param("/candidate", {"json": {"share": "much"}}, "share: 'much' is no share: write 5%", id="no share"),
        pytest.param("/candidate", {"json": {"shadow": 1.5}}, "shadow: 1.5 is more than the whole", id="above all"),
        pytest.param("/candidate", {"params": {"share": "5%"}}, "'share'", id="a share in the query"),
        pytest.param("", {"json": {"uri": "a", "share": "5%"}}, "say candidate=true as well", id="no candidate"),
        pytest.param("/promote", {"json": {"version": 3}}, "version", id="promote what is no candidate"),
        pytest.param("/withdraw", {"params": {"version": 3}}, "'version'", id="withdraw what is no candidate"),
        pytest.param("/rollback", {"json": {"version": "one"}}, "version", id="no number"),
        pytest.param("/rollback", {"json": {"version": True}}, "version", id="true for 1"),
        pytest.param("/rollback", {"params": {"version": 3}}, "'version'", id="a version in the query"),
        pytest.param("/rollback", {"content": b"{"}, "JSON", id="no JSON"),
    ],
)
async def test_what_is_no_order_is_a_400_and_changes_nothing(
    gateway: Gateway, path: str, request_part: dict[str, Any], says: str
) -> None:
    response = await gateway.client.post(WEIGHTS + path, **({"headers": ADMIN} | request_part))
    assert says in assert_error(response, 400)
    assert methods(gateway) <= {"refused"}


async def test_golden_requests_are_uploaded_as_they_are(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    transfer, found = Coordinator(), GoldenFile(digest="a" * 64, nbytes=5, requests=1)
    gateway.coordinator.answers |= {
        "open_upload": ("upload", SimpleNamespace(path="path", transfer=transfer)),
        "offer_golden": found,
    }
    response = await gateway.client.post(f"{WEIGHTS}/golden", content=b"bytes", headers=ADMIN | OCTETS)
    assert (response.status_code, GoldenFile.model_validate_json(response.content)) == (200, found)
    assert transfer.calls == [("append", "path", b"bytes")]
    opened, offered = gateway.coordinator.calls
    assert (opened[0], opened[-1], offered) == ("open_upload", "golden", ("offer_golden", "upload"))


async def test_an_upload_that_loses_its_process_is_not_said_to_have_lost_the_coordinator(gateway: Gateway) -> None:
    transfer = Coordinator()
    transfer.answers["append"] = RayActorError()
    gateway.coordinator.answers |= {"open_upload": ("upload", SimpleNamespace(path="path", transfer=transfer))}
    response = await gateway.client.post(WEIGHTS, content=b"bytes", headers=ADMIN | OCTETS)
    assert "the process that takes uploads" in assert_error(response, 503)
    assert "drop_upload" in methods(gateway)


async def test_assets_are_uploaded_as_they_are_and_known_by_their_sha256(gateway: Gateway) -> None:
    transfer = Coordinator()
    gateway.coordinator.answers |= {
        "open_upload": ("upload", SimpleNamespace(path="path", transfer=transfer)),
        "offer_asset": "a" * 64,
    }
    response = await gateway.client.post(f"{WEIGHTS}/assets", content=b"bytes", headers=ADMIN | OCTETS)
    assert (response.status_code, response.json()) == (200, {"digest": "a" * 64})
    assert transfer.calls == [("append", "path", b"bytes")]
    headers = ADMIN | OCTETS | {"Content-Length": str(MAX_ASSETS_BYTES + 1)}
    large = await gateway.client.post(f"{WEIGHTS}/assets", content=b"", headers=headers)
    assert "the most that assets take" in assert_error(large, 413)


@pytest.mark.parametrize(
    ("request_part", "says"),
    [
        ({"headers": ADMIN | {"Content-Type": "application/json"}}, "application/octet-stream"),
        ({"headers": ADMIN | OCTETS, "params": {"label": "x"}}, "'label'"),
    ],
)
async def test_golden_requests_come_in_one_way_only(gateway: Gateway, request_part: dict[str, Any], says: str) -> None:
    response = await gateway.client.post(f"{WEIGHTS}/golden", content=b"{}", **request_part)
    assert says in assert_error(response, 400)
    assert methods(gateway) <= {"refused"}


async def test_golden_requests_that_are_too_large_are_not_read(gateway: Gateway) -> None:
    gateway.coordinator.answers["open_upload"] = "upload", SimpleNamespace(path="path", transfer=Coordinator())
    headers = ADMIN | OCTETS | {"Content-Length": str(MAX_GOLDEN_BYTES + 1)}
    response = await gateway.client.post(f"{WEIGHTS}/golden", content=b"", headers=headers)
    assert "the most that golden requests take" in assert_error(response, 413)
    assert {"open_upload", "drop_upload"} <= methods(gateway) <= {"open_upload", "drop_upload", "refused"}
