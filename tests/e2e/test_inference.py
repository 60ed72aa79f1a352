from __future__ import annotations

from itertools import product

import numpy as np
import tritonclient.http as triton
from numpy.typing import NDArray

from tests.e2e.served import Eager, Server, binary_request, json_request

Images = NDArray[np.float32]


def test_the_server_and_the_model_describe_themselves(server: Server) -> None:
    about = server.http.get("/v2").json()
    assert about["name"] == "aoti-serve"
    assert {"binary_tensor_data", "weights"} <= set(about["extensions"])
    for path in ("/v2/health/live", "/v2/health/ready", "/ready", "/v2/models/digits/ready"):
        assert server.http.get(path).status_code == 200, path
    model = server.http.get("/v2/models/digits").json()
    sizes = {"dim_0": "batch", "dim_0_min": 1, "dim_0_max": 1024}
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8], "parameters": sizes}]
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10], "parameters": sizes}]
    assert str(server.status()["current"]["number"]) in model["versions"]
    for version in model["versions"]:
        assert server.http.get(f"/v2/models/digits/versions/{version}").json() == model


def test_all_images_get_the_eager_models_classes_through_swap_and_rollback(
    server: Server, eager: Eager, images: Images
) -> None:
    assert server.swap(eager.files["v1"]).status_code == 200
    check_all(server, eager, "v1", images)
    assert server.swap(eager.files["v2"]).status_code == 200
    check_all(server, eager, "v2", images)
    assert server.rollback().status_code == 200
    check_all(server, eager, "v1", images)


def check_all(server: Server, eager: Eager, name: str, images: Images) -> None:
    current = server.status()["current"]["number"]
    want = eager.logits(name, images)
    for binary in (False, True):
        for rows in (1, 64):
            for start in range(0, len(images), rows):
                version, logits = server.infer(images[start : start + rows], binary=binary)
                expected = want[start : start + rows]
                assert version == current
                assert np.array_equal(logits.argmax(1), expected.argmax(1)), (binary, rows, start)
                np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_more_rows_than_the_model_takes_come_back_in_order(server: Server, eager: Eager, images: Images) -> None:
    """It was compiled for up to 1024 of them, and a batch holds 64."""
    assert server.swap(eager.files["v2"]).status_code == 200
    many = np.tile(images, (6, 1, 1, 1))
    version, logits = server.infer(many, binary=True)
    assert version == server.status()["current"]["number"]
    np.testing.assert_allclose(logits, np.tile(eager.logits("v2", images), (6, 1)), atol=1e-4)


def test_a_gateway_does_without_torch(server: Server, images: Images) -> None:
    """It would be loaded in the middle of a request, for seconds, and stay."""
    server.infer(images[:1])
    (gateway,) = [process for process in server.launched.family() if "default:gateway" in "".join(process.cmdline())]
    assert not [entry.path for entry in gateway.memory_maps() if "libtorch" in entry.path]


def test_an_unmodified_triton_client_reads_metadata_and_infers(server: Server, eager: Eager, images: Images) -> None:
    assert server.swap(eager.files["v2"]).status_code == 200
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.get_server_metadata()["name"] == "aoti-serve"
    assert client.get_model_metadata("digits")["inputs"][0]["name"] == "image"
    for binary, coding in product((False, True), (None, "gzip", "deflate")):
        tensor = triton.InferInput("image", [64, 1, 8, 8], "FP32")
        tensor.set_data_from_numpy(images[:64], binary_data=binary)
        wanted = [triton.InferRequestedOutput("logits", binary_data=binary)]
        codings = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
        result = client.infer("digits", [tensor], outputs=wanted, request_id="seven", **codings)
        np.testing.assert_allclose(result.as_numpy("logits"), eager.logits("v2", images[:64]), atol=1e-4)
        assert result.get_response()["id"] == "seven"
        assert result.get_response()["model_version"] == str(server.status()["current"]["number"])
    client.close()


def test_a_request_that_does_not_fit_gets_a_400_that_names_the_input(server: Server, images: Images) -> None:
    """tests/unit/gateway/http has all the ways not to fit."""
    body, headers = json_request(images[:1].reshape(1, 1, 4, 16))
    response = server.post_infer(body, headers)
    assert response.status_code == 400
    assert response.json()["type"] == "WrongInputShape"
    assert "'image'" in response.json()["error"]
    assert server.infer(images[:1])[1].shape == (1, 10)


def test_binary_data_of_the_wrong_length_gets_a_400_that_names_the_input(server: Server, images: Images) -> None:
    body, headers = binary_request(images[:2])
    response = server.post_infer(body[:-4], headers)
    assert response.status_code == 400
    assert "'image'" in response.json()["error"]


def test_what_is_not_there_gets_a_404(server: Server, images: Images) -> None:
    body, headers = json_request(images[:1])
    for path in ("/v2/models/other/infer", "/v2/models/digits/versions/99999/infer"):
        response = server.http.post(path, content=body, headers=headers)
        assert response.status_code == 404
        assert "error" in response.json()
    for path in ("/v2/models/other", "/v2/models/digits/versions/99999", "/v2/nowhere"):
        response = server.http.get(path)
        assert response.status_code == 404
        assert "error" in response.json()


def test_a_body_above_the_limit_gets_a_413(server: Server) -> None:
    response = server.post_infer(b"x" * (64 * 2**20 + 1), {})
    assert response.status_code == 413
    assert "max_json_bytes" in response.json()["error"]
