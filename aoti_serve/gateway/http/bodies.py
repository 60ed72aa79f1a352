"""Request bodies, bounded before they are read, each by itself and all together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from aoti_serve.errors import InvalidBody, shown_value
from aoti_serve.gateway.in_flight import SMALL, BodyLimits, Share
from aoti_serve.link.memory import MEMORY

MAX_LENGTH_DIGITS = 18  # of a 64-bit length; Python refuses to read numbers of thousands of digits

Headers = Mapping[bytes, bytes]
BodyStream = bytes | bytearray | memoryview


async def read_body(receive: Receive, headers: Headers, bound: BodyLimits, share: Share) -> BodyStream:
    """Read the whole body, as it comes. Its announced length is checked, and taken from the budget, before it is read.

    Raises the error of `bound` without having read more than that, or ReadingTooMuch.
    """
    announced = _announced(headers, bound)
    share.grow(announced)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        whole: bytes = message.get("body", b"")
        bound.check(len(whole))
        share.grow(len(whole))
        return whole
    if announced > SMALL:
        return await _fill(MEMORY.take(announced), _pieces(receive, message))
    body = bytearray()  # writable: a tensor that is a view of it need not be copied to be run
    async for piece in _pieces(receive, message):
        bound.check(len(body) + len(piece))
        share.grow(len(body) + len(piece))
        body += piece
    return body


async def _fill(body: memoryview, pieces: AsyncIterator[bytes]) -> memoryview:
    """Read a body of the announced length. Raises InvalidBody if the length differs."""
    filled = 0
    async for piece in pieces:
        body[filled : filled + len(piece)] = piece[: len(body) - filled]
        filled += len(piece)
        if filled > len(body):
            break
    if filled != len(body):
        raise InvalidBody(detail=f"its Content-Length is {len(body)}, and it has another length")
    return body


async def stream_body(receive: Receive, headers: Headers, bound: BodyLimits) -> AsyncIterator[bytes]:
    """Read the body piece by piece. Raises the error of `bound`, at once if the announced length is beyond it.

    Only one piece is held at a time, so nothing is taken from the budget. Raises InvalidBody for a compressed body.
    """
    if (encoding := headers.get(b"content-encoding", b"identity")) != b"identity":
        what = shown_value(encoding.decode("latin-1"))
        raise InvalidBody(detail=f"Content-Encoding {what} is not supported here; send it as it is")
    _announced(headers, bound)
    size = 0
    async for piece in _pieces(receive, await receive()):
        size += len(piece)
        bound.check(size)
        if piece:
            yield piece


async def _pieces(receive: Receive, message: Mapping[str, object]) -> AsyncIterator[bytes]:
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        assert isinstance(piece, bytes)
        yield piece
        if not message.get("more_body"):
            return
        message = await receive()


def _announced(headers: Headers, bound: BodyLimits) -> int:
    """The Content-Length; 0 if there is none."""
    digits = headers.get(b"content-length", b"0")
    if not digits.isdigit():
        return 0
    length = int(digits) if len(digits) <= MAX_LENGTH_DIGITS else bound.limit + 1
    bound.check(length)
    return length
