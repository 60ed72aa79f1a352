"""Every dtype that Triton's clients know, through each of them, unmodified, in each form in which it can send it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio

from tests.e2e import dtypes
from tests.e2e.dtypes import Tensors
from tests.e2e.served import Server

FORMS = ["JSON", "binary"]
CODINGS = [None, "gzip", "deflate"]


@pytest.fixture
def http(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


@pytest.fixture
def grpc(server: Server, grpc_port: int) -> str:
    return f"127.0.0.1:{grpc_port}"


class Answers:
    """What a client calls back with."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def take(self, result: Any, error: Any) -> None:
        self._queue.put((result, error))

    def next(self) -> Any:
        result, error = self._queue.get(timeout=60)
        assert error is None
        return result


def assert_answers(sent: Tensors, result: Any) -> None:
    for name, wanted in dtypes.eager(sent).items():
        found = result.as_numpy(name)
        assert found.dtype == wanted.dtype, name
        np.testing.assert_array_equal(found, wanted, name)


def over_http(sent: Tensors, form: str, coding: str | None) -> dict[str, Any]:
    """The arguments of `infer`. As the client itself says, bfloat16 is sent as binary data only."""
    inputs = []
    for name, array in sent.items():
        given = http_client.InferInput(f"tensors.{name}", list(array.shape), name.upper())
        inputs.append(given.set_data_from_numpy(array, binary_data=form == "binary" or name == "bf16"))
    outputs = [http_client.InferRequestedOutput(name, binary_data=form == "binary") for name in sent]
    codings = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
    return {"model_name": dtypes.NAME, "inputs": inputs, "outputs": outputs, **codings}


def over_grpc(sent: Tensors) -> dict[str, Any]:
    inputs = []
    for name, array in sent.items():
        given = grpc_client.InferInput(f"tensors.{name}", list(array.shape), name.upper())
        inputs.append(given.set_data_from_numpy(array))
    return {"model_name": dtypes.NAME, "inputs": inputs}


def test_the_model_says_all_of_its_datatypes(server: Server) -> None:
    metadata = server.http.get(f"/v2/models/{dtypes.NAME}").json()
    for which in ("inputs", "outputs"):
        assert {tensor["datatype"].lower() for tensor in metadata[which]} == set(dtypes.KNOWN)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("form", FORMS)
def test_over_http(http: str, form: str, coding: str | None) -> None:
    sent = dtypes.extremes(rows=3)
    with http_client.InferenceServerClient(http) as client:
        assert_answers(sent, client.infer(**over_http(sent, form, coding)))
        assert_answers(sent, client.async_infer(**over_http(sent, form, coding)).get_result())


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("form", FORMS)
async def test_over_http_with_asyncio(http: str, form: str, coding: str | None) -> None:
    given = [dtypes.extremes(rows) for rows in range(1, 9)]
    async with http_aio.InferenceServerClient(http) as client:
        results = await asyncio.gather(*(client.infer(**over_http(sent, form, coding)) for sent in given))
    for sent, result in zip(given, results, strict=True):
        assert_answers(sent, result)


@pytest.mark.parametrize("coding", CODINGS)
def test_over_grpc(grpc: str, coding: str | None) -> None:
    sent = dtypes.extremes(rows=3)
    with grpc_client.InferenceServerClient(grpc) as client:
        assert_answers(sent, client.infer(**over_grpc(sent), compression_algorithm=coding))
        answers = Answers()
        client.async_infer(**over_grpc(sent), callback=answers.take)
        assert_answers(sent, answers.next())


def test_over_a_stream(grpc: str) -> None:
    given = [dtypes.extremes(rows) for rows in range(1, 9)]
    answers = Answers()
    with grpc_client.InferenceServerClient(grpc) as client:
        client.start_stream(answers.take)
        for sent in given:
            client.async_stream_infer(**over_grpc(sent))
        for sent in given:
            assert_answers(sent, answers.next())


async def test_over_grpc_with_asyncio(grpc: str) -> None:
    given = [dtypes.extremes(rows) for rows in range(1, 9)]
    async with grpc_aio.InferenceServerClient(grpc) as client:
        results = await asyncio.gather(*(client.infer(**over_grpc(sent)) for sent in given))
    for sent, result in zip(given, results, strict=True):
        assert_answers(sent, result)


async def test_over_a_stream_with_asyncio(grpc: str) -> None:
    given = [dtypes.extremes(rows) for rows in range(1, 9)]

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for sent in given:
            yield over_grpc(sent)

    async with grpc_aio.InferenceServerClient(grpc) as client:
        answers = client.stream_infer(requests())
        for sent in given:
            result, error = await anext(answers)
            assert error is None
            assert_answers(sent, result)
