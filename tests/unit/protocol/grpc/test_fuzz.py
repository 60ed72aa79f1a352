"""Requests in every form, whole and damaged: we read what protobuf reads, and refuse what it refuses."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import InvalidInput
from tests.unit.protocol.grpc.disguise import Disguise, damaged
from tests.unit.protocol.grpc.protobuf import parsed
from tests.unit.protocol.grpc.reference import Meaning, Refused, lost_an_entry, meaning, ours
from tests.unit.protocol.grpc.requests import RequestMaker

LIMITS = GatewayConfig()
COUNT = pytest.mark.parametrize("count", [2000, pytest.param(50_000, marks=pytest.mark.long)])


def verdict(data: bytes) -> str:
    """ "read", "refused" or "malformed", after what we say was compared with what protobuf says."""
    message = parsed("ModelInferRequest", data)
    found = said(data)
    if message is None:
        assert isinstance(found, str), data.hex()
        return "malformed"
    assert found != "malformed", data.hex()
    if not lost_an_entry(message):
        assert agree(found, message), data.hex()
    return found if isinstance(found, str) else "read"


def said(data: bytes) -> Meaning | str:
    """What we read, or how we refuse it: no other error comes out."""
    try:
        return ours(data, LIMITS)
    except InvalidInput as error:
        return "malformed" if str(error).startswith("the message is not protobuf") else "refused"


def agree(found: Meaning | str, message: Any) -> bool:
    try:
        meant = meaning(message)
    except Refused:
        return found == "refused"
    return not isinstance(found, str) and found.equals(meant)


@COUNT
def test_a_request_is_read_as_protobuf_reads_it_however_it_is_written(count: int) -> None:
    random = Random(count)
    found = []
    for _ in range(count):
        message = RequestMaker(random).request()
        data = Disguise(random).of(message)
        assert parsed("ModelInferRequest", data) is not None
        found += [verdict(message.SerializeToString()), verdict(data)]
    assert found[0::2] == found[1::2]
    assert found.count("read") > count  # of twice as many: most of them say something


@COUNT
def test_a_damaged_request_is_read_or_refused_as_by_protobuf(count: int) -> None:
    random = Random(count)
    found = []
    for _ in range(count):
        whole = Disguise(random).of(RequestMaker(random).request())
        found.append(verdict(damaged(whole, random)))
    assert min(map(found.count, ("read", "refused", "malformed"))) > count // 20


@COUNT
def test_bytes_at_random_are_read_or_refused_as_by_protobuf(count: int) -> None:
    random = Random(count)
    for _ in range(count):
        tags = bytes(random.choice((0x0A, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x0B, 0x0C)) for _ in range(3))
        octets = [*tags, *range(8), *random.randbytes(4)]
        verdict(bytes(random.choices(octets, k=random.randint(0, 24))))
