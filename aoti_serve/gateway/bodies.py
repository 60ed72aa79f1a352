"""Request bodies, bounded before they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request

from aoti_serve.errors import BodyTooLarge, InvalidBody

MAX_DIGITS = 18  # of a 64-bit length; Python refuses to read numbers of thousands of digits


async def read_body(request: Request, limit: int, setting: str) -> bytes:
    """The whole body; raises BodyTooLarge without having read more than `limit` bytes."""
    pieces = [piece async for piece in stream_body(request, limit, setting)]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def stream_body(request: Request, limit: int, setting: str) -> AsyncIterator[bytes]:
    """The body piece by piece; raises BodyTooLarge at once if its length is announced, else when it is passed.

    Raises InvalidBody for a compressed body.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise InvalidBody(detail=f"Content-Encoding {encoding!r} is not supported; send the body as it is")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and (len(announced) > MAX_DIGITS or int(announced) > limit):
        raise BodyTooLarge(limit=limit, setting=setting)
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise BodyTooLarge(limit=limit, setting=setting)
        if piece:
            yield piece
