"""Request bodies, bounded before they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from aoti_serve.errors import BodyTooLarge, InvalidBody

MAX_DIGITS = 18  # of a 64-bit length; Python refuses to read numbers of thousands of digits

Headers = Mapping[bytes, bytes]


async def read_body(receive: Receive, headers: Headers, limit: int, setting: str) -> bytes | bytearray:
    """The whole body; raises BodyTooLarge without having read more than `limit` bytes."""
    _check_announced(headers, limit, setting)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return _bounded(message.get("body", b""), limit, setting)
    body = bytearray()  # writable: a tensor that is a view of it need not be copied to be run
    async for piece in _pieces(receive, message):
        body += piece
        if len(body) > limit:
            raise BodyTooLarge(limit=limit, setting=setting)
    return body


async def stream_body(receive: Receive, headers: Headers, limit: int, setting: str) -> AsyncIterator[bytes]:
    """The body piece by piece; raises BodyTooLarge at once if its length is announced, else when it is passed.

    Raises InvalidBody for a compressed body.
    """
    _check_announced(headers, limit, setting)
    size = 0
    async for piece in _pieces(receive, await receive()):
        size += len(piece)
        if size > limit:
            raise BodyTooLarge(limit=limit, setting=setting)
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


def _check_announced(headers: Headers, limit: int, setting: str) -> None:
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding != b"identity":
        raise InvalidBody(detail=f"Content-Encoding {encoding.decode('latin-1')!r} is not supported; send it as it is")
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and (len(announced) > MAX_DIGITS or int(announced) > limit):
        raise BodyTooLarge(limit=limit, setting=setting)


def _bounded(body: bytes, limit: int, setting: str) -> bytes:
    if len(body) > limit:
        raise BodyTooLarge(limit=limit, setting=setting)
    return body
