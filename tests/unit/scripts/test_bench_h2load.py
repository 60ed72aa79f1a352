"""scripts/bench http: what h2load says, and gRPC's bytes."""

from __future__ import annotations

import numpy as np
import pytest
from httpbench.bodies import answered, request, rows_of, unframed
from httpbench.contenders import Endpoint
from httpbench.h2load import parsed

from aoti_serve.config import GatewayConfig
from aoti_serve.protocol.grpc.head import decode_infer_head
from aoti_serve.protocol.grpc.request import cut_request, raw_arrays
from aoti_serve.protocol.grpc.response import encode_infer_response
from aoti_serve.protocol.messages import InferResponse
from aoti_serve.signature.tensors import TensorSpec

OUTPUT = """\
finished in 2.29s, 100.00 req/s, 7.85MB/s
requests: 200 total, 264 started, 200 done, 200 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 15.69MB (16456642) total, 16.27KB (16656) headers (space savings 94.80%), 15.46MB ({data}) data
"""
LOG = "".join(f"1795964039890476\t200\t{milliseconds * 1000}\n" for milliseconds in range(1, 201))


def test_a_sample_has_its_rate_and_the_latencies_of_the_log() -> None:
    sample = parsed(OUTPUT.format(data=200 * 4100), LOG, 4096)
    assert (sample.rate, sample.refused, sample.broken) == (100.0, 0, 0)
    assert sample.p50 == pytest.approx(100.5)
    assert sample.p99 == pytest.approx(198, abs=1)


def test_answers_without_a_body_are_errors_of_grpc() -> None:
    sample = parsed(OUTPUT.format(data=150 * 4100), LOG, 4096)
    assert (sample.rate, sample.refused) == (75.0, 50)


def test_a_request_over_grpc_is_read_and_its_answer_too() -> None:
    rows = rows_of(3)
    cut = cut_request(unframed(request("grpc", rows)), GatewayConfig())
    (sent,) = raw_arrays(decode_infer_head(cut.head, GatewayConfig()), cut.raw)
    np.testing.assert_array_equal(sent, rows)
    spec = TensorSpec(name="y", dtype="float32", shape=rows.shape)
    answer = encode_infer_response(InferResponse("mlp", 1, None, [(spec, rows)]))
    np.testing.assert_array_equal(answered("grpc", {}, answer), rows)


def test_an_endpoint_may_have_a_port_of_its_own() -> None:
    assert Endpoint("a", "/p", "v2").url("http://127.0.0.1:8000") == "http://127.0.0.1:8000/p"
    assert Endpoint("a", "/p", "grpc", port=9).url("http://127.0.0.1:8000") == "http://127.0.0.1:9/p"
