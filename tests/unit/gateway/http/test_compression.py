"""Compressed bodies: what they hold is bounded before it is made, and no damage raises anything but our own errors."""

from __future__ import annotations

import contextlib
import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.errors import BodyTooLarge, InvalidBody, ReadingTooMuch
from aoti_serve.gateway.http.compression import (
    coding_of,
    compressed,
    wished_coding,
)
from aoti_serve.gateway.in_flight import BodyLimits, ReadingBudget, Share
from aoti_serve.gateway.inflation import INFLATED_BYTES, INLINE_BYTES, decompressed
from aoti_serve.gateway.offload import Offload

Bytes = Callable[[bytes], bytes]
SQUEEZED: dict[bytes, Bytes] = {b"gzip": gzip.compress, b"deflate": zlib.compress}
OPENED: dict[bytes, Bytes] = {b"gzip": gzip.decompress, b"deflate": zlib.decompress}


async def opened(body: bytes, coding: bytes = b"gzip", limit: int = 2**30, budget: int = 2**30) -> bytes:
    with Share(ReadingBudget(budget)) as share:
        return await decompressed(body, coding, BodyLimits(limit, "gateway.max_body_bytes"), share, Offload())


@pytest.mark.parametrize("coding", SQUEEZED)
@pytest.mark.parametrize(
    "size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, INFLATED_BYTES + INLINE_BYTES, 3 * INFLATED_BYTES + 7]
)
async def test_a_body_is_what_it_was(coding: bytes, size: int) -> None:
    for body in (bytes(size), bytes(range(256)) * (size // 256 + 1)):
        assert await opened(SQUEEZED[coding](body), coding, len(body)) == body
        assert OPENED[coding](await compressed([body[:1], memoryview(body)[1:]], coding, Offload())) == body


class Steps:
    """What zlib was given, and what it was allowed to make, in bytes."""

    def __init__(self) -> None:
        self.given = self.allowed = 0


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    counted, real = Steps(), zlib.decompressobj

    class Counted:
        def __init__(self, window: int) -> None:
            self.inner = real(window)

        def decompress(self, data: bytes, most: int) -> bytes:
            counted.given += len(data)
            counted.allowed += most
            return self.inner.decompress(data, most)

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    monkeypatch.setattr(zlib, "decompressobj", Counted)
    return counted


@pytest.mark.parametrize("limit", [10, INLINE_BYTES, 2 * INFLATED_BYTES])
async def test_what_would_be_too_large_is_not_made(limit: int, steps: Steps) -> None:
    with pytest.raises(BodyTooLarge, match=f"larger than {limit} bytes"):
        await opened(gzip.compress(bytes(64 * INFLATED_BYTES)), limit=limit)
    assert steps.allowed <= limit + INFLATED_BYTES + INLINE_BYTES


@pytest.mark.parametrize("coding", SQUEEZED)
async def test_of_a_large_body_nothing_is_read_again_and_again(coding: bytes, steps: Steps) -> None:
    body = SQUEEZED[coding](random.Random(0).randbytes(8 * INFLATED_BYTES))
    assert len(await opened(body, coding)) == 8 * INFLATED_BYTES
    assert steps.given < 1.1 * len(body)
    with pytest.raises(InvalidBody, match="bytes follow its end"):
        await opened(body + bytes(2 * INFLATED_BYTES), coding)


async def test_it_takes_from_the_budget_what_it_becomes() -> None:
    with pytest.raises(ReadingTooMuch):
        await opened(gzip.compress(bytes(8 * INFLATED_BYTES)), budget=2 * INFLATED_BYTES)


@pytest.mark.parametrize("coding", SQUEEZED)
async def test_what_is_damaged_is_told(coding: bytes) -> None:
    whole = SQUEEZED[coding](b"a body" * 100)
    for body, text in (
        (b"", "its end is missing"),
        (whole[:-1], "its end is missing"),
        (whole + b"x", "bytes follow its end"),
        (b"{}" + whole, "the body is not"),
    ):
        with pytest.raises(InvalidBody, match=text):
            await opened(body, coding)


@given(body=st.binary(max_size=200), at=st.integers(0, 300), coding=st.sampled_from(list(SQUEEZED)))
async def test_no_damage_raises_anything_else(body: bytes, at: int, coding: bytes) -> None:
    whole = bytearray(SQUEEZED[coding](body))
    whole[at % len(whole)] ^= 0x55
    with contextlib.suppress(InvalidBody, BodyTooLarge):
        await opened(bytes(whole), coding, limit=1000)


def test_codings_are_named_as_clients_name_them() -> None:
    assert [coding_of({b"content-encoding": name}) for name in (b"gzip", b" GZIP", b"deflate", b"identity")] == [
        *(b"gzip", b"gzip", b"deflate"),
        None,
    ]
    assert coding_of({}) is None
    for name in (b"br", b"gzip, gzip", b"x" * 5000):
        with pytest.raises(InvalidBody, match="available: identity, gzip, deflate") as caught:
            coding_of({b"content-encoding": name})
        assert len(str(caught.value)) < 250


def test_only_who_names_one_coding_gets_it() -> None:
    assert wished_coding({b"accept-encoding": b"gzip"}) == b"gzip"
    assert wished_coding({b"accept-encoding": b"Deflate"}) == b"deflate"
    for name in (b"", b"gzip, deflate", b"gzip, deflate, br", b"*", b"identity", b"gzip;q=0"):
        assert wished_coding({b"accept-encoding": name}) is None
    assert wished_coding({}) is None
