"""Compressed bodies and messages, bounded before they are made: a megabyte of zeros takes a kilobyte.

`deflate` is zlib's format, as RFC 9110 (8.4.1.2) says, and as Triton's clients and gRPC write it.
"""

from __future__ import annotations

import zlib

from aoti_serve.errors import InvalidBody
from aoti_serve.gateway.in_flight import BodyLimits, Share
from aoti_serve.gateway.offload import Offload

INFLATED_BYTES = 2**20  # bytes that are made at once, and that are taken at once: zlib copies what it does not use
INLINE_BYTES = 2**16  # bytes: less than a millisecond, so that a thread would cost more
ZLIB_WINDOWS = {b"gzip": 31, b"deflate": 15}  # zlib's wbits


async def decompressed(
    body: bytes | bytearray | memoryview, coding: bytes, bound: BodyLimits, share: Share, offload: Offload
) -> bytes:
    """The body as it was before. Raises the error of `bound`, ReadingTooMuch, or InvalidBody.

    No more than a step is made before the limits are looked at; a large body is made in a thread.
    """
    inflation, pieces, size = zlib.decompressobj(ZLIB_WINDOWS[coding]), [b""], 0
    left, rest = memoryview(body), b""
    try:
        while not inflation.eof and (rest or left or pieces[-1]):
            if not rest:
                rest, left = bytes(left[:INFLATED_BYTES]), left[INFLATED_BYTES:]
            if size or len(body) > INLINE_BYTES:
                pieces.append(await offload.run(inflation.decompress, rest, INFLATED_BYTES))
            else:
                pieces.append(inflation.decompress(rest, INLINE_BYTES))
            rest, size = inflation.unconsumed_tail, size + len(pieces[-1])
            bound.check(size)
            share.grow(size)
    except zlib.error as error:
        raise InvalidBody(detail=f"the body is not {coding.decode()}: {error}") from None
    if not inflation.eof or inflation.unused_data or left:
        wrong = "bytes follow its end" if inflation.eof else "its end is missing"
        raise InvalidBody(detail=f"the body is {coding.decode()}, and {wrong}")
    return b"".join(pieces)
