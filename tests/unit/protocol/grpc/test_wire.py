"""The wire format at its edges: each message is read, or refused, as protobuf does it."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import InvalidBody, TooManyTensors
from aoti_serve.protocol.grpc.head import decode_infer_head
from aoti_serve.protocol.grpc.payloads import signed, unsigned
from aoti_serve.protocol.grpc.request import cut_request
from aoti_serve.protocol.grpc.wire import MAX_FIELDS, FieldBudget, fields_of
from aoti_serve.protocol.grpc.written import delimited, varint
from tests.unit.protocol.grpc.protobuf import parsed

LIMITS = GatewayConfig()
GROUP_100, GROUP_100_END = b"\xa3\x06", b"\xa4\x06"


def groups(depth: int) -> bytes:
    return GROUP_100 * depth + GROUP_100_END * depth


def typed(contents: bytes) -> bytes:
    """A request whose input has these contents, which should be two floats."""
    return delimited(5, delimited(2, b"FP32") + delimited(3, b"\x02") + delimited(5, contents))


def read(data: bytes) -> None:
    decode_infer_head(cut_request(data, LIMITS).head, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x0a\x00", id="an-empty-string"),
        pytest.param(b"\x8a\x80\x80\x80\x00\x01a", id="tag-of-5-bytes"),
        pytest.param(b"\xfa\xff\xff\xff\x0f\x00", id="greatest-tag"),
        pytest.param(b"\x0a\x81\x80\x80\x80\x00a", id="length-of-5-bytes"),
        pytest.param(b"\x98\x06" + b"\xff" * 9 + b"\x01", id="varint-of-10-bytes"),
        pytest.param(b"\x98\x06" + b"\xff" * 9 + b"\x7f", id="varint-beyond-64-bits"),
        pytest.param(b"\x98\x06" + b"\x80" * 9 + b"\x00", id="varint-of-zeros"),
        pytest.param(b"\x99\x06" + bytes(8), id="unknown-fixed64"),
        pytest.param(b"\x9d\x06" + bytes(4), id="unknown-fixed32"),
        pytest.param(b"\x9a\x06\x02\xff\xff", id="unknown-bytes"),
        pytest.param(b"\x08\x01", id="a-number-for-a-string"),
        pytest.param(groups(1), id="group"),
        pytest.param(b"\x0b\x0c", id="group-of-a-known-number"),
        pytest.param(GROUP_100 + b"\x0a\x01\xff\x08\x01\x0d\0\0\0\0\x09" + bytes(8) + GROUP_100_END, id="full-group"),
        pytest.param(GROUP_100 + b"\xa4\x86\x00", id="group-with-a-long-end"),
        pytest.param(GROUP_100 + b"\x00\x00" + GROUP_100_END, id="field-0-in-a-group"),
        pytest.param(groups(100), id="groups-100-deep"),
        pytest.param(delimited(5, b"\x12\x04FP32" + groups(99)), id="groups-99-deep-in-an-input"),
        pytest.param(delimited(4, groups(99)), id="groups-99-deep-in-an-entry"),
        pytest.param(delimited(4, delimited(2, groups(98))), id="groups-98-deep-in-a-parameter"),
        pytest.param(typed(delimited(6, bytes(8)) + groups(98)), id="groups-98-deep-in-contents"),
        pytest.param(typed(delimited(6, bytes(4)) + delimited(6, b"") + b"\x35" + bytes(4)), id="floats-in-pieces"),
        pytest.param(delimited(4, b""), id="an-empty-entry"),
        pytest.param(b"\x0a\x04\xf4\x8f\xbf\xbf", id="the-last-character"),
        pytest.param(b"\x0a\x01\x00", id="nul"),
    ],
)
def test_what_protobuf_reads_is_read(data: bytes) -> None:
    assert parsed("ModelInferRequest", data) is not None
    read(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x0a", id="no-length"),
        pytest.param(b"\x0a\x02a", id="length-beyond-the-end"),
        pytest.param(b"\x0a\x80", id="half-a-length"),
        pytest.param(b"\x8a", id="half-a-tag"),
        pytest.param(b"\x00\x01", id="field-0"),
        pytest.param(b"\x02\x00", id="field-0-with-bytes"),
        pytest.param(b"\x80\x00\x01", id="field-0-in-two-bytes"),
        pytest.param(b"\x8a\x80\x80\x80\x80\x00\x01a", id="tag-of-6-bytes"),
        pytest.param(b"\x8a\x80\x80\x80\x10\x01a", id="tag-beyond-32-bits"),
        pytest.param(b"\x0a\x81\x80\x80\x80\x80\x00a", id="length-of-6-bytes"),
        pytest.param(b"\x0a\xff\xff\xff\xff\x0f", id="length-of-4-GiB"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="length-minus-1"),
        pytest.param(b"\x98\x06" + b"\xff" * 10 + b"\x01", id="varint-of-11-bytes"),
        pytest.param(b"\x98\x06\x80", id="half-a-varint"),
        pytest.param(b"\x98\x06", id="no-varint"),
        pytest.param(b"\x99\x06" + bytes(7), id="short-fixed64"),
        pytest.param(b"\x9d\x06" + bytes(3), id="short-fixed32"),
        pytest.param(b"\x0e", id="wire-type-6"),
        pytest.param(b"\x0f", id="wire-type-7"),
        pytest.param(GROUP_100, id="group-without-an-end"),
        pytest.param(GROUP_100_END, id="end-without-a-group"),
        pytest.param(GROUP_100 + b"\xac\x06", id="end-of-another-group"),
        pytest.param(GROUP_100 + b"\x0f" + GROUP_100_END, id="wire-type-7-in-a-group"),
        pytest.param(GROUP_100 + b"\x0a\x05" + GROUP_100_END, id="length-beyond-the-end-in-a-group"),
        pytest.param(groups(101), id="groups-101-deep"),
        pytest.param(GROUP_100 * 100_000, id="groups-100000-deep"),
        pytest.param(delimited(5, b"\x12\x04FP32" + groups(100)), id="groups-100-deep-in-an-input"),
        pytest.param(delimited(4, groups(100)), id="groups-100-deep-in-an-entry"),
        pytest.param(delimited(4, delimited(2, groups(99))), id="groups-99-deep-in-a-parameter"),
        pytest.param(typed(delimited(6, bytes(8)) + groups(99)), id="groups-99-deep-in-contents"),
        pytest.param(typed(delimited(6, bytes(2)) + delimited(6, bytes(6))), id="a-float-in-two-pieces"),
        pytest.param(delimited(5, GROUP_100) + GROUP_100_END, id="group-that-ends-outside"),
        pytest.param(b"\x0a\x01\xff", id="name-not-utf8"),
        pytest.param(b"\x0a\x01\xff\x0a\x01a", id="earlier-name-not-utf8"),
        pytest.param(b"\x12\x02\xc0\x80", id="version-overlong-utf8"),
        pytest.param(b"\x1a\x03\xed\xa0\x80", id="id-a-surrogate"),
        pytest.param(b"\x1a\x04\xf4\x90\x80\x80", id="id-beyond-unicode"),
        pytest.param(delimited(4, b"\x0a\x01\xff"), id="key-not-utf8"),
        pytest.param(delimited(4, delimited(2, b"\x1a\x01\xff")), id="parameter-not-utf8"),
        pytest.param(delimited(6, b"\x0a\x01\xff"), id="output-not-utf8"),
        pytest.param(delimited(4, delimited(2, b"\x21\x00")), id="short-double"),
        pytest.param(delimited(5, b"\x0a\x05x"), id="an-input-cut-off"),
    ],
)
def test_what_protobuf_refuses_is_refused(data: bytes) -> None:
    assert parsed("ModelInferRequest", data) is None
    with pytest.raises(InvalidBody, match="not protobuf"):
        read(data)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 2**14 - 1, 2**14, 2**63, 2**64 - 1])
def test_a_varint_is_read_as_it_was_written(size: int) -> None:
    assert unsigned(varint(size)) == size


def test_a_negative_number_is_a_varint_of_ten_bytes() -> None:
    assert len(varint(-1)) == 10
    assert signed(varint(-(2**63))) == -(2**63)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(delimited(4, b"") * 1_000_000, id="parameters"),
        pytest.param(b"\x98\x06\x00" * 1_000_000, id="unknown-fields"),
        pytest.param(GROUP_100 + b"\x08\x00" * 1_000_000 + GROUP_100_END, id="fields-in-a-group"),
        pytest.param(delimited(5, b"\x12\x04FP32" + b"\x18\x01" * 1_000_000), id="sizes-one-by-one"),
        pytest.param(delimited(5, b"") * 1_000_000, id="inputs"),
        pytest.param(delimited(7, b"") * 1_000_000, id="raw-contents"),
    ],
)
def test_millions_of_fields_are_refused_before_they_cost_anything(data: bytes) -> None:
    tracemalloc.start()
    try:
        began = time.process_time()
        with pytest.raises(InvalidBody, match=f"more than {MAX_FIELDS} fields"):
            read(data)
        assert time.process_time() - began < 2.0
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data) + 32 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("number", "what"), [(5, "inputs"), (6, "outputs"), (7, "raw_input_contents")], ids=["inputs", "outputs", "raw"]
)
def test_too_many_tensors_are_refused_before_any_is_read(number: int, what: str) -> None:
    with pytest.raises(TooManyTensors, match=f"257 {what}, the limit is 256"):
        read(delimited(number, b"\xff") * 257)


def test_fields_count_over_all_the_messages_in_a_message() -> None:
    budget = FieldBudget(3)
    fields_of(b"\x0a\x00\x0a\x00", budget)
    with pytest.raises(InvalidBody, match="fields"):
        fields_of(b"\x0a\x00\x0a\x00", budget)


def test_all_but_raw_contents_is_limited() -> None:
    limits = GatewayConfig(max_json_bytes=100)
    cut_request(delimited(7, bytes(1000)), limits)
    with pytest.raises(InvalidBody, match="max_json_bytes"):
        cut_request(delimited(7, bytes(1000)) + delimited(5, bytes(100)), limits)
