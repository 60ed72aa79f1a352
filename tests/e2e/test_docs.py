"""What a server says of its routes, and what a stock client is told of those that it lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tritonclient.http as triton
from openapi_spec_validator import validate
from tritonclient.utils import InferenceServerException

from tests.e2e.served import Server


def test_the_document_is_valid_and_its_example_can_be_sent(server: Server) -> None:
    assert server.http.get("/docs").status_code == 200
    assert server.http.get("/docs/swagger-ui-bundle.js").status_code == 200
    document = server.http.get("/openapi.json").json()
    validate(document)
    body = document["paths"]["/v2/models/digits/infer"]["post"]["requestBody"]["content"]["application/json"]
    response = server.http.post("/v2/models/digits/infer", json=body["example"])
    assert response.json()["outputs"][0]["shape"] == [1, 10]
    path = "/v2/models/digits/versions/{version}"
    version = document["paths"][path]["get"]["parameters"][0]["example"]
    assert version == str(server.status()["current"]["number"])


CALLS: list[tuple[Callable[[triton.InferenceServerClient], Any], str]] = [
    (lambda client: client.load_model("digits"), "POST /v2/models/{model}/weights"),
    (lambda client: client.unload_model("digits"), "the configuration names the models"),
    (lambda client: client.get_trace_settings("digits"), "X-Request-ID"),
    (lambda client: client.update_trace_settings(settings={"trace_rate": "1"}), "X-Request-ID"),
    (lambda client: client.get_log_settings(), "in the configuration"),
    (lambda client: client.update_log_settings({"log_info": False}), "in the configuration"),
    (lambda client: client.get_system_shared_memory_status(), "as binary data"),
    (lambda client: client.register_system_shared_memory("r", "/key", 64), "as binary data"),
    (lambda client: client.unregister_system_shared_memory("r"), "as binary data"),
    (lambda client: client.register_cuda_shared_memory("r", b"handle", 0, 64), "as binary data"),
    (lambda client: client.unregister_cuda_shared_memory(), "as binary data"),
]


@pytest.mark.parametrize(("call", "instead"), CALLS)
def test_tritons_client_is_told_what_is_not_served_and_what_to_do(
    server: Server, call: Callable[[triton.InferenceServerClient], Any], instead: str
) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        with pytest.raises(InferenceServerException) as caught:
            call(client)
        assert instead in caught.value.message()
        assert client.is_model_ready("digits")
