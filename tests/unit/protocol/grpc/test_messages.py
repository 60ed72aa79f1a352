"""The messages beside inference: both directions against protobuf, and their tables against Triton's own."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict  # type: ignore[import-untyped, unused-ignore]
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_serve.errors import InvalidBody
from aoti_serve.protocol.grpc.messages import decode_message, encode_message
from aoti_serve.protocol.grpc.schema import ENUMS, MESSAGES
from aoti_serve.protocol.grpc.written import delimited, varint
from tests.unit.protocol.grpc.disguise import Disguise, damaged
from tests.unit.protocol.grpc.protobuf import message_class, parsed

NUMBERS = {
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "bool": st.booleans(),
    "string": st.text(st.characters(codec="utf-8"), max_size=5),
}
CHOICE = {"latest", "all", "specific"}  # only one of them is sent
KINDS = [pytest.param(kind, id=kind) for kind in MESSAGES]
COUNT = pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.long)])


def descriptor(kind: str) -> Any:
    return message_class(kind).DESCRIPTOR


def is_whole(kind: str) -> bool:
    """Whether the table has all of the message's fields."""
    return len(MESSAGES[kind]) == len(descriptor(kind).fields) and all(
        is_whole(field.type) for field in MESSAGES[kind] if field.type in MESSAGES
    )


# Without those that have no fields: in them protobuf's Python lets a field 0 pass, its other parsers do not, nor do we.
# And without the one with a choice, which is written only.
WHOLE = [
    pytest.param(kind, id=kind)
    for kind in MESSAGES
    if is_whole(kind) and MESSAGES[kind] and not descriptor(kind).oneofs
]


def values_of(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    if kind == "ModelVersionPolicy":
        return st.sampled_from(sorted(CHOICE)).flatmap(
            lambda name: st.fixed_dictionaries({name: values_of(name.title())})
        )
    found = {}
    for field in MESSAGES[kind]:
        one = value_of(field.type)
        found[field.name] = st.lists(one, max_size=3) if field.repeated else one
    return st.fixed_dictionaries({}, optional=found)


def value_of(kind: str) -> st.SearchStrategy[Any]:
    if kind in ENUMS:
        return st.sampled_from(ENUMS[kind])
    return NUMBERS[kind] if kind in NUMBERS else values_of(kind)


def as_read(kind: str, message: Any) -> dict[str, Any]:
    """A message of protobuf's as `decode_message` gives it."""
    found: dict[str, Any] = {}
    for field in MESSAGES[kind]:
        value = getattr(message, field.name)
        if field.type in MESSAGES and not field.repeated:
            found[field.name] = as_read(field.type, value) if message.HasField(field.name) else None
        elif field.type in MESSAGES:
            found[field.name] = [as_read(field.type, one) for one in value]
        elif field.type in ENUMS:
            found[field.name] = dict(enumerate(ENUMS[field.type])).get(value, value)
        else:
            found[field.name] = list(value) if field.repeated else value
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_says_what_the_proto_says(kind: str) -> None:
    for field in MESSAGES[kind]:
        theirs = descriptor(kind).fields_by_name[field.name]
        of = theirs.message_type or theirs.enum_type
        names = {member: name for name, member in vars(type(theirs)).items() if name.startswith("TYPE_")}
        assert field.type == (of.name if of else names[theirs.type].removeprefix("TYPE_").lower())
        assert (field.number, field.repeated) == (theirs.number, theirs.is_repeated)
        if theirs.enum_type:
            assert ENUMS[field.type] == tuple(
                theirs.enum_type.values_by_number[n].name for n in range(len(ENUMS[of.name]))
            )
            assert len(ENUMS[field.type]) == len(of.values)


@COUNT
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_protobuf_reads_and_what_it_writes_is_read(kind: str, count: int) -> None:
    @settings(max_examples=count)
    @given(values_of(kind))
    def check(values: dict[str, Any]) -> None:
        theirs = ParseDict(values, message_class(kind)())
        written = encode_message(kind, values)
        assert message_class(kind).FromString(written) == theirs
        assert decode_message(kind, theirs.SerializeToString()) == as_read(kind, theirs)
        assert decode_message(kind, written) == as_read(kind, theirs)

    check()


@COUNT
@pytest.mark.parametrize("kind", WHOLE)
def test_a_message_in_any_form_whole_or_damaged_is_read_as_by_protobuf(kind: str, count: int) -> None:
    @settings(max_examples=count)
    @given(values_of(kind), st.integers(0, 2**32))
    def check(values: dict[str, Any], seed: int) -> None:
        random = Random(seed)
        whole = Disguise(random).of(ParseDict(values, message_class(kind)()))
        for data in (whole, *[damaged(whole, random) for _ in range(5)]):
            message = parsed(kind, data)
            if message is None:
                with pytest.raises(InvalidBody, match="not protobuf"):
                    decode_message(kind, data)
            else:
                assert decode_message(kind, data) == as_read(kind, message)

    check()


def test_bits_beyond_those_of_a_number_are_dropped() -> None:
    data = delimited(1, varint(2**32 + 5) + varint(2**31)) + b"\x18" + varint(2**32)
    message = message_class("ModelDynamicBatching").FromString(data)
    assert decode_message("ModelDynamicBatching", data) == as_read("ModelDynamicBatching", message)


def test_the_requests_are_whole() -> None:
    assert {kind for kind in MESSAGES if kind.endswith("Request")} <= {kind for kind in MESSAGES if is_whole(kind)}


def test_a_models_configuration_is_written_in_full() -> None:
    config = {
        "name": "m",
        "platform": "pytorch_aotinductor",
        "version_policy": {"specific": {"versions": [3]}},
        "max_batch_size": 64,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 1024]}],
        "output": [{"name": "y", "data_type": "TYPE_BF16", "dims": [10]}],
        "dynamic_batching": {},
        "backend": "aoti",
    }
    message = message_class("ModelConfigResponse").FromString(encode_message("ModelConfigResponse", {"config": config}))
    found = MessageToDict(message, preserving_proto_field_name=True)["config"]
    assert message.config.HasField("dynamic_batching")
    assert found["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1", "1024"]}]
    assert (found["version_policy"], found["max_batch_size"]) == ({"specific": {"versions": ["3"]}}, 64)


def test_a_name_that_the_table_does_not_have_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        encode_message("ServerLiveResponse", {"alive": True})
