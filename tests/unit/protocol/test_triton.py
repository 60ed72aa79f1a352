"""Triton's extensions: a model's configuration as its clients read it, and the index of the repository."""

from __future__ import annotations

import pytest

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import InvalidBody
from aoti_serve.protocol.grpc.messages import decode_message, encode_message
from aoti_serve.protocol.triton import decode_index_request, model_config, repository_index
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec

BATCH = Dim(symbol="batch", min=1, max=64)
BATCHED = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(BATCH, 4)),
        TensorSpec(name="i", dtype="int64", shape=(BATCH,)),
    ),
    outputs=(TensorSpec(name="y", dtype="bfloat16", shape=(BATCH, Dim(symbol="n", min=1, max=None))),),
    constants=(),
)
FIXED = Signature(
    inputs=(TensorSpec(name="x", dtype="bool", shape=(2, 3)),),
    outputs=(TensorSpec(name="y", dtype="float8_e5m2", shape=()),),
    constants=(),
)


def test_a_model_that_batches_leaves_the_batch_out_of_its_dims() -> None:
    config = model_config("m", BATCHED, BatchingConfig(max_batch_size=64, max_queue_delay_ms=1.5))
    assert config["max_batch_size"] == 64
    assert config["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [4]},
        {"name": "i", "data_type": "TYPE_INT64", "dims": []},
    ]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_BF16", "dims": [-1]}]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 1500


def test_a_model_that_does_not_has_its_whole_shapes() -> None:
    config = model_config("m", FIXED, BatchingConfig())
    assert (config["max_batch_size"], "dynamic_batching" in config) == (0, False)
    assert config["input"] == [{"name": "x", "data_type": "TYPE_BOOL", "dims": [2, 3]}]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_INVALID", "dims": []}]


@pytest.mark.parametrize("signature", [BATCHED, FIXED])
def test_protobuf_has_the_same_fields(signature: Signature) -> None:
    config = model_config("m", signature, BatchingConfig())
    read = decode_message("ModelConfigResponse", encode_message("ModelConfigResponse", {"config": config}))["config"]
    for key in ("name", "platform", "max_batch_size", "input", "output"):
        assert read[key] == config[key]
    assert read["version_policy"]["latest"] == {"num_versions": 1}


def test_the_index_says_what_is_ready_and_why_not() -> None:
    assert repository_index([("a", 3, None), ("b", 0, "no replica answers")]) == [
        {"name": "a", "version": "3", "state": "READY", "reason": ""},
        {"name": "b", "version": "0", "state": "UNAVAILABLE", "reason": "no replica answers"},
    ]


def test_an_index_may_be_asked_for_what_is_ready() -> None:
    assert [decode_index_request(body) for body in (b"", b"{}", b'{"ready": false}', b'{"ready": true}')] == [
        False,
        False,
        False,
        True,
    ]
    for body in (b"[]", b"{", b'{"ready": 1}', b"\xff"):
        with pytest.raises(InvalidBody):
            decode_index_request(body)
