"""What is fuzzed: each takes any bytes, and lets no error out but those that its reader is said to raise."""

from __future__ import annotations

import asyncio
import io
import struct
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save

from aoti_serve.errors import IncompatiblePackage, InvalidInput, LinkBroken, UnreadablePackage, UnreadableWeights
from aoti_serve.gateway.http2.frames import BrokenConnection, FrameReader, FrameType, block_in, settings_in
from aoti_serve.gateway.http2.headers import HeaderReader, Malformed
from aoti_serve.gateway.in_flight import BodyLimits, ReadingBudget, Share
from aoti_serve.gateway.inflation import decompressed
from aoti_serve.gateway.offload import Offload
from aoti_serve.link.frames import Frame, Kind, header
from aoti_serve.link.incoming import Incoming
from aoti_serve.link.messages import BatchMessage, batch_bytes, batch_of
from aoti_serve.model.archive import preflight, reading
from aoti_serve.protocol.strings import strings_from_raw
from aoti_serve.signature.tensors import BY_OIP, BYTES
from aoti_serve.weights.files.index import index_in
from tests.unit.gateway.http2.echoing import whole
from tests.unit.link.test_frames import feed
from tests.unit.model.archive.test_library import SHIMS, elf
from tests.unit.model.archive.test_reading import written
from tests.unit.protocol.grpc.requests import RequestMaker
from tests.unit.protocol.grpc.test_fuzz import verdict
from tests.unit.protocol.test_decode import only_invalid_input

PACKAGE = Path("model.pt2")


class Target(NamedTuple):
    """`seeds` are inputs to begin with."""

    take: Callable[[bytes], object]
    seeds: list[bytes]


def json_request(data: bytes) -> None:
    """The first byte is the length of the JSON before binary data, unless it is 0."""
    only_invalid_input(data[1:], str(data[0]) if data[:1] > b"\0" else None)


def grpc_request(data: bytes) -> None:
    """It means what Google's protobuf reads, or is refused as there."""
    verdict(data)


def http2(data: bytes) -> None:
    headers = HeaderReader(max_bytes=2**14, max_headers=64)
    with suppress(BrokenConnection):
        for kind, flags, _, payload in FrameReader().feed(data):
            if kind == FrameType.HEADERS:
                with suppress(Malformed):
                    headers.read(block_in(flags, payload))
            elif kind == FrameType.SETTINGS:
                list(settings_in(payload))


def strings(data: bytes) -> None:
    """The first byte says how many there should be."""
    with suppress(InvalidInput):
        found = strings_from_raw("x", memoryview(data[1:]), (data[0] if data else 0,))
        assert sum(4 + len(each) for each in found.tolist()) == len(data[1:])


def compressed(data: bytes) -> None:
    coding = b"deflate" if data[:1] < b"\x80" else b"gzip"
    bound = BodyLimits(2**16, "gateway.max_body_bytes")
    with suppress(InvalidInput), Share(ReadingBudget(2**20)) as share:
        found = loop().run_until_complete(decompressed(data[1:], coding, bound, share, Offload()))
        assert len(found) <= bound.limit


def safetensors(data: bytes) -> None:
    with suppress(UnreadableWeights):
        for span in index_in(io.BytesIO(data), len(data)).values():
            assert 8 <= span.begin <= span.end <= len(data)


def package(data: bytes) -> None:
    path = scratch() / "model.pt2"
    path.write_bytes(data)
    with suppress(UnreadablePackage):
        reading.check_whole(path)
        for name in reading.names_in_archive(path):
            reading.metadata(path, name)
        for member in reading.members(path, ""):
            reading.read(path, member)


def library(data: bytes) -> None:
    (scratch() / "abc.wrapper.so").write_bytes(data)
    with suppress(UnreadablePackage, IncompatiblePackage):
        preflight.check_library(PACKAGE, scratch(), built="2.13.0", here="2.13.0", has_symbol={*SHIMS}.__contains__)


def link(data: bytes) -> None:
    """Frames of a peer, and the message of a batch in them."""
    with suppress(LinkBroken):
        feed(Incoming(_read), data)


def _read(frame: Frame) -> None:
    if frame.kind is Kind.BATCH:
        batch_of(frame.message)


def scratch() -> Path:
    return Path(_folder().name)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzzing")


@cache
def loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _whole_package() -> bytes:
    return written(scratch() / "seed.pt2").read_bytes()


def _batch() -> bytes:
    message = b"".join(batch_bytes(BatchMessage([np.zeros((2, 3), np.float32)], 1, 1.0, 2, 1)))
    return header(Kind.BATCH, 1, length=len(message), total=len(message)) + message


def _requests() -> list[bytes]:
    """A request of each datatype, as JSON and as binary data; `json_request` says what the first byte is."""
    found = []
    for dtype in (*BY_OIP.values(), BYTES):
        element, tail = ('"a"', struct.pack("<I1s", 1, b"a")) if dtype is BYTES else ("1", bytes(dtype.itemsize))
        tensor = f'{{"inputs":[{{"name":"x","datatype":"{dtype.oip}","shape":[1],%s}}]}}'
        head = tensor % f'"parameters":{{"binary_data_size":{len(tail)}}}'
        found += [b"\0" + (tensor % f'"data":[{element}]').encode(), bytes([len(head)]) + head.encode() + tail]
    return found


def _grpc_requests() -> list[bytes]:
    return [RequestMaker(Random(number)).request().SerializeToString() for number in range(32)]


JSON = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2.5]}],"outputs":[{"name":"y"}],"id":"a"}'
TARGETS = {
    "json_request": Target(json_request, [b"\0" + JSON, *_requests()]),
    "grpc_request": Target(grpc_request, _grpc_requests()),
    "http2": Target(http2, [whole(1, b"body")]),
    "strings": Target(strings, [b"\x02" + struct.pack("<I1sI", 1, b"a", 0)]),
    "compressed": Target(compressed, [b"\0" + zlib.compress(JSON), b"\xff" + zlib.compress(JSON, wbits=31)]),
    "safetensors": Target(safetensors, [save({"w": torch.zeros(2, 3), "b": torch.zeros(2)})]),
    "package": Target(package, [_whole_package()]),
    "library": Target(library, [elf()]),
    "link": Target(link, [_batch()]),
}
