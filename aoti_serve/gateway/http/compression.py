"""How bodies are compressed over HTTP, as their headers say, and the compression of answers."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from aoti_serve.errors import InvalidBody, shown_value
from aoti_serve.gateway.http.bodies import Headers
from aoti_serve.gateway.inflation import INLINE_BYTES, ZLIB_WINDOWS
from aoti_serve.gateway.offload import Offload

_FASTEST = 1


def coding_of(headers: Headers) -> bytes | None:
    """How the body is compressed; None if it is not. Raises InvalidBody."""
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding == b"identity":
        return None
    if coding not in ZLIB_WINDOWS:
        what = shown_value(coding.decode("latin-1"))
        raise InvalidBody(detail=f"Content-Encoding {what} is not supported; available: identity, gzip, deflate")
    return coding


def wished_coding(headers: Headers) -> bytes | None:
    """How the answer is to be compressed, if the client names one way and no other.

    A list of all that it understands, as most clients send with each request, is no wish: on a fast network
    compression costs more than it saves.
    """
    coding = headers.get(b"accept-encoding", b"").strip().lower()
    return coding if coding in ZLIB_WINDOWS else None


async def compressed(pieces: Iterable[bytes | memoryview], coding: bytes, offload: Offload) -> bytes:
    """A whole body, compressed; in a thread if it is large."""
    body = b"".join(pieces)
    if len(body) > INLINE_BYTES:
        return await offload.run(_compressed, body, coding)
    return _compressed(body, coding)


def _compressed(body: bytes, coding: bytes) -> bytes:
    return zlib.compress(body, _FASTEST, ZLIB_WINDOWS[coding])
