"""Compressed bodies, bounded before they are made: a megabyte of zeros takes a kilobyte.

`deflate` is zlib's format, as RFC 9110 (8.4.1.2) says and Triton's clients write it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from aoti_serve.errors import InvalidBody
from aoti_serve.gateway.http.bodies import BodyLimits, BodyStream, Headers
from aoti_serve.gateway.in_flight import Share
from aoti_serve.gateway.offload import Offload
from aoti_serve.protocol.elements import shown_value

INFLATED_BYTES = 2**20  # bytes that are made at once
INLINE_BYTES = 2**16  # bytes: less than a millisecond, so that a thread would cost more
_WINDOWS = {b"gzip": 31, b"deflate": 15}  # zlib's wbits
_FASTEST = 1


def coding_of(headers: Headers) -> bytes | None:
    """How the body is compressed; None if it is not. Raises InvalidBody."""
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding == b"identity":
        return None
    if coding not in _WINDOWS:
        what = shown_value(coding.decode("latin-1"))
        raise InvalidBody(detail=f"Content-Encoding {what} is not supported; available: identity, gzip, deflate")
    return coding


def wished_coding(headers: Headers) -> bytes | None:
    """How the answer is to be compressed, if the client names one way and no other.

    A list of all that it understands, as most clients send with each request, is no wish: on a fast network
    compression costs more than it saves.
    """
    coding = headers.get(b"accept-encoding", b"").strip().lower()
    return coding if coding in _WINDOWS else None


async def decompressed(body: BodyStream, coding: bytes, bound: BodyLimits, share: Share, offload: Offload) -> bytes:
    """The body as it was before. Raises the error of `bound`, ReadingTooMuch, or InvalidBody.

    No more than a step is made before the limits are looked at; a large body is made in a thread.
    """
    inflation, rest, pieces, size = zlib.decompressobj(_WINDOWS[coding]), bytes(body), [b""], 0
    try:
        while not inflation.eof and (rest or pieces[-1]):
            if size or len(rest) > INLINE_BYTES:
                pieces.append(await offload.run(inflation.decompress, rest, INFLATED_BYTES))
            else:
                pieces.append(inflation.decompress(rest, INLINE_BYTES))
            rest, size = inflation.unconsumed_tail, size + len(pieces[-1])
            bound.check(size)
            share.grow(size)
    except zlib.error as error:
        raise InvalidBody(detail=f"the body is not {coding.decode()}: {error}") from None
    if not inflation.eof or inflation.unused_data:
        wrong = "bytes follow its end" if inflation.eof else "its end is missing"
        raise InvalidBody(detail=f"the body is {coding.decode()}, and {wrong}")
    return b"".join(pieces)


async def compressed(pieces: Iterable[bytes | memoryview], coding: bytes, offload: Offload) -> bytes:
    """A whole body, compressed; in a thread if it is large."""
    body = b"".join(pieces)
    if len(body) > INLINE_BYTES:
        return await offload.run(_compressed, body, coding)
    return _compressed(body, coding)


def _compressed(body: bytes, coding: bytes) -> bytes:
    return zlib.compress(body, _FASTEST, _WINDOWS[coding])
