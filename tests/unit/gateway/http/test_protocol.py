"""The protocol, clause by clause, through the gateway's real application; the model gives back what it takes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from aoti_serve.config import BatchingConfig, GatewayConfig
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import DTYPES, Dim, TensorSpec
from tests.unit.gateway.http.gateway import INFER, NAME, VERSION, Gateway, assert_error, echoed, running

KINDS = sorted(DTYPES)
ROWS = 3


def specs(prefix: str) -> tuple[TensorSpec, ...]:
    batch = Dim(symbol="batch", min=1, max=64)
    return tuple(TensorSpec(name=f"{prefix}_{kind}", dtype=kind, shape=(batch, 2)) for kind in KINDS)


SIGNATURE = Signature(inputs=specs("in"), outputs=specs("out"), constants=())


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with running(GatewayConfig(), BatchingConfig(), SIGNATURE, echoed) as made:
        parted(await made.client.post(INFER, **request_of(tensors())))  # by now its replica is known
        yield made


def tensors() -> dict[str, NDArray[Any]]:
    """Bits of every kind; those of a raw type as the integers that hold them."""
    bits = np.arange(2 * ROWS, dtype=np.uint8).reshape(ROWS, 2)
    return {kind: (bits % 2 if kind == "bool" else bits).astype(DTYPES[kind].numpy) for kind in KINDS}


def request_of(arrays: dict[str, NDArray[Any]], *outputs: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """What a client posts: all inputs as binary data."""
    inputs = [
        {
            "name": f"in_{kind}",
            "datatype": DTYPES[kind].oip,
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for kind, array in arrays.items()
    ]
    head = json.dumps({"inputs": inputs, "outputs": list(outputs), **rest}).encode()
    content = b"".join([head, *(array.tobytes() for array in arrays.values())])
    return {"content": content, "headers": {"Inference-Header-Content-Length": str(len(head))}}


def parted(response: httpx.Response) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The head of an answer, and the bytes of its binary outputs by name."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get("Inference-Header-Content-Length", len(response.content)))
    head, tail, found = json.loads(response.content[:length]), response.content[length:], {}
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            found[output["name"]], tail = tail[:size], tail[size:]
    assert not tail
    return head, found


async def test_every_type_goes_in_and_comes_out_bit_by_bit(gateway: Gateway) -> None:
    arrays = tensors()
    asked = [{"name": f"out_{kind}", "parameters": {"binary_data": True}} for kind in KINDS]
    head, found = parted(await gateway.client.post(INFER, **request_of(arrays, *asked)))
    assert [output["datatype"] for output in head["outputs"]] == [DTYPES[kind].oip for kind in KINDS]
    assert found == {f"out_{kind}": array.tobytes() for kind, array in arrays.items()}


async def test_outputs_are_those_that_were_asked_for_in_that_order_each_in_its_form(gateway: Gateway) -> None:
    asked: list[dict[str, Any]] = [
        {"name": "out_int64", "parameters": {"binary_data": True}},
        {"name": "out_bool"},
        {"name": "out_bfloat16", "parameters": {"binary_data": True}},
        {"name": "out_float16", "parameters": {"binary_data": False}},
    ]
    arrays = tensors()
    response = await gateway.client.post(INFER, **request_of(arrays, *asked))
    head, found = parted(response)
    assert response.headers["content-type"] == "application/octet-stream"
    assert [output["name"] for output in head["outputs"]] == [output["name"] for output in asked]
    assert found == {f"out_{kind}": arrays[kind].tobytes() for kind in ("int64", "bfloat16")}
    assert [output.get("data") for output in head["outputs"]] == [
        *(None, arrays["bool"].ravel().tolist(), None, arrays["float16"].ravel().tolist())
    ]


async def test_binary_data_output_is_for_all_outputs_if_none_is_named(gateway: Gateway) -> None:
    head, found = parted(
        await gateway.client.post(INFER, **request_of(tensors(), parameters={"binary_data_output": True}))
    )
    assert [output["name"] for output in head["outputs"]] == list(found) == [f"out_{kind}" for kind in KINDS]


@pytest.mark.parametrize("sent", ["7", "", "\N{SNOWMAN}", "x" * 3000, None])
async def test_the_id_comes_back_as_it_was_sent(gateway: Gateway, sent: str | None) -> None:
    head, _ = parted(await gateway.client.post(INFER, **request_of(tensors(), id=sent)))
    assert head.get("id") == sent
    assert ("id" in head) == (sent is not None)
    assert (head["model_name"], head["model_version"]) == (NAME, str(VERSION))


async def test_strings_are_refused_in_words(gateway: Gateway) -> None:
    entry = {"name": "in_int64", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    text = assert_error(await gateway.client.post(INFER, json={"inputs": [entry]}), 400)
    assert text.startswith(
        "input 'in_int64': BYTES are strings, and a compiled model takes numbers only; send token ids"
    )


async def test_a_version_that_does_not_answer_is_a_404_that_says_which_does(gateway: Gateway) -> None:
    here = f"/v2/models/{NAME}/versions"
    for version in ("6", "99", "0", "07", "latest", "7 "):
        asked = [gateway.client.get(f"{here}/{version}{path}") for path in ("", "/ready", "/config")]
        asked.append(gateway.client.post(f"{here}/{version}/infer", **request_of(tensors())))
        for response in asked:
            assert f"holds no version {version}: version {VERSION} answers" in assert_error(await response, 404)
    for path in ("", "/ready", "/config"):
        assert (await gateway.client.get(f"{here}/{VERSION}{path}")).status_code == 200
    parted(await gateway.client.post(f"{here}/{VERSION}/infer", **request_of(tensors())))


async def test_the_extensions_are_those_that_are_served(gateway: Gateway) -> None:
    about = (await gateway.client.get("/v2")).json()
    paths = {
        "binary_tensor_data": None,  # the tests above
        "model_configuration": f"/v2/models/{NAME}/config",
        "schedule_policy": None,  # priority and timeout: tests/unit/gateway/batching
        "statistics": f"/v2/models/{NAME}/stats",
        "weights": f"/v2/models/{NAME}/weights",
    }
    assert set(about["extensions"]) == set(paths)
    for path in filter(None, paths.values()):
        assert (await gateway.client.get(path)).status_code != 404


@pytest.mark.parametrize("path", ["", "/health/live", "/health/ready", "/models", f"/models/{NAME}"])
async def test_who_asks_for_the_head_gets_that_of_the_answer(gateway: Gateway, path: str) -> None:
    whole = await gateway.client.get(f"/v2{path}")
    head = await gateway.client.head(f"/v2{path}")
    assert (head.status_code, head.headers["content-length"]) == (200, whole.headers["content-length"])
