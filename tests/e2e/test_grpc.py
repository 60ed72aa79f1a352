"""Stock gRPC clients against a real server, through swaps."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.e2e.served import Eager, Server

Images = NDArray[np.float32]


@pytest.fixture
def client(server: Server, grpc_port: int) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        yield client


def tensor(images: Images, module: Any = triton) -> Any:
    given = module.InferInput("image", list(images.shape), "FP32")
    given.set_data_from_numpy(images)
    return given


def test_an_unmodified_triton_client_finds_what_it_asks_for(client: Any, server: Server) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.get_server_metadata().name == "aoti-serve"
    metadata = client.get_model_metadata("digits", as_json=True)
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]}]
    config = client.get_model_config("digits", as_json=True)["config"]
    over_http = server.http.get("/v2/models/digits/config").json()
    assert config["max_batch_size"] == over_http["max_batch_size"] > 0
    assert config["input"][0]["dims"] == [str(size) for size in over_http["input"][0]["dims"]] == ["1", "8", "8"]
    models = client.get_model_repository_index().models
    assert [(model.name, model.state) for model in models] == [("digits", "READY"), ("dtypes", "READY")]
    assert [model["name"] for model in server.http.post("/v2/repository/index").json()] == ["digits", "dtypes"]


def test_answers_are_those_of_the_eager_model_through_a_swap(
    client: Any, server: Server, eager: Eager, images: Images
) -> None:
    for name in ("v2", "v1"):
        assert server.swap(eager.files[name]).status_code == 200
        number = server.status()["current"]["number"]
        for rows in (1, 64, len(images)):
            wanted = [triton.InferRequestedOutput("logits")]
            result = client.infer("digits", [tensor(images[:rows])], outputs=wanted, request_id="seven")
            np.testing.assert_allclose(result.as_numpy("logits"), eager.logits(name, images[:rows]), atol=1e-4)
            assert (result.get_response().id, result.get_response().model_version) == ("seven", str(number))


def test_errors_have_true_statuses_and_name_what_is_wrong(client: Any, images: Images) -> None:
    for model, version, given, status, text in (
        ("letters", "", tensor(images[:1]), "NOT_FOUND", "'letters' is not served here; available: digits, dtypes"),
        ("digits", "999", tensor(images[:1]), "NOT_FOUND", "holds no version 999"),
        ("digits", "", tensor(images[:1, :, :4]), "INVALID_ARGUMENT", "input 'image': shape [1, 1, 4, 8]"),
    ):
        with pytest.raises(InferenceServerException, match=status) as caught:
            client.infer(model, [given], model_version=version)
        assert text in str(caught.value)


def test_a_stream_is_answered_request_by_request(client: Any, server: Server, eager: Eager, images: Images) -> None:
    assert server.swap(eager.files["v2"]).status_code == 200
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for index in range(20):
        client.async_stream_infer("digits", [tensor(images[index : index + 1])], request_id=str(index))
    client.async_stream_infer("letters", [tensor(images[:1])], request_id="wrong")
    client.async_stream_infer("digits", [tensor(images[:1])], request_id="last")
    found = [answers.get(timeout=60) for _ in range(22)]
    client.stop_stream()
    for index, (result, error) in enumerate(found[:20]):
        assert error is None
        assert result.get_response().id == str(index)
        np.testing.assert_allclose(result.as_numpy("logits"), eager.logits("v2", images[index : index + 1]), atol=1e-4)
    assert "letters" in str(found[20][1])
    assert found[21][0].get_response().id == "last"


async def test_the_asynchronous_client_infers_many_at_once(
    server: Server, grpc_port: int, eager: Eager, images: Images
) -> None:
    assert server.swap(eager.files["v2"]).status_code == 200
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        results = await asyncio.gather(
            *(client.infer("digits", [tensor(images[i : i + 1], triton_aio)]) for i in range(64))
        )
    found = np.concatenate([result.as_numpy("logits") for result in results])
    np.testing.assert_allclose(found, eager.logits("v2", images[:64]), atol=1e-4)


def test_a_health_probe_hears_who_serves(server: Server, grpc_port: int) -> None:
    """gRPC's own client, as grpc_health_probe asks."""
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        probe = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService", "digits", "dtypes"):
            answer = probe.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            probe.Check(health_pb2.HealthCheckRequest(service="letters"), timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_up_says_what_the_port_is_for(server: Server, grpc_port: int) -> None:
    assert any(str(grpc_port) in line and "gRPC" in line for line in server.launched.lines), server.launched.output
